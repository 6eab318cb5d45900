"""Write a network as an ONNX file, which runs without Python, for example in a browser."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm_helpers.export.card import public_description
from ddpm_helpers.export.needs import check_installed
from ddpm_helpers.files import user_path, write_atomic
from ddpm_helpers.model import Network
from ddpm_helpers.pretrained import load_pretrained

OLDEST_TORCH = (2, 9)  # older exporters do not work with today's onnxscript
MAX_BATCH = 1024  # torch.export needs an upper bound
SMALLEST = 64  # tensors with fewer numbers stay float32: a Cast would cost more than it saves
TOLERANCE = 1e-4  # of the largest output; 1e-6 is usual
CHECKED_BATCHES = (1, 2, 5)


def export_onnx(name_or_path: str | Path, out: str | Path) -> Path:
    """Write a trained network as ONNX, after comparing its outputs with torch's.

    Inputs are x_t float32 (batch, C, S, S), t int64 (batch,) and, for a network with classes, y
    int64 (batch,), -1 for no label. The output has the shape of x_t. The entry "ddpm_helpers" of
    the file's metadata is JSON that describes the network, its schedule and its classes. Weights
    that float16 represents exactly are stored in float16 and cast when the file is opened.

    Args:
        name_or_path: as for `load_pretrained`.
        out: file to write, ending in .onnx.
    Returns:
        The path.
    Raises:
        FileNotFoundError: the weights do not exist.
        FileExistsError: the file exists.
        ValueError: the file extension is wrong, a package is missing, torch is too old, or the
            outputs differ from torch's.
    """
    out = user_path(out)
    if out.suffix != ".onnx":
        raise ValueError(f"--out must end in .onnx, got {str(out)!r}")
    if out.exists():
        raise FileExistsError(f"{out} exists already: name a new file, or remove it first")
    check_installed("ONNX", "onnx", "onnxscript", "onnxruntime")
    if torch_version() < OLDEST_TORCH:
        raise ValueError(f"ONNX needs torch 2.9 or newer, this is {torch.__version__}")
    model, _ = load_pretrained(name_or_path)
    about = public_description(name_or_path)
    content = compact(_traced(model), about)
    check(content, model)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, content)
    return out


def torch_version() -> tuple[int, ...]:
    """Return the major and minor version of torch, such as (2, 9)."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


def _traced(model: Network) -> Any:
    """Convert the network to an ONNX model in memory, for batches of any size."""
    import onnx

    x_t, t, y = _inputs(model, 2)  # a batch size of 1 would become a constant
    arguments = (x_t, t) if y is None else (x_t, t, y)
    names = ["x_t", "t", "y"][: len(arguments)]
    batch = torch.export.Dim("batch", min=2, max=MAX_BATCH)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code
        file = Path(folder) / "net.onnx"
        torch.onnx.export(
            model, arguments, str(file), input_names=names, output_names=["output"], dynamo=True,
            dynamic_shapes={name: {0: batch} for name in names},
            external_data=False, verbose=False,
        )  # fmt: skip
        return onnx.load(str(file))


def compact(model: Any, about: dict[str, Any]) -> bytes:
    """Halve a model's size without changing a value: float16 where exact, no exporter's notes.

    Args:
        model: an `onnx.ModelProto`; changed in place.
        about: the weights' `public_description`, which becomes the file's only metadata.
    Returns:
        The file's bytes.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < SMALLEST:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.ClearField("value_info")
    for part in (*graph.initializer, *graph.node, graph, model):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    helper.set_model_props(model, {"ddpm_helpers": json.dumps(about)})
    return model.SerializeToString()


def check(content: bytes, model: Network) -> None:
    """Run an ONNX file and the network it came from on the same random batches.

    Args:
        content: the file's bytes.
        model: on the CPU, in eval mode.
    Raises:
        ValueError: the outputs differ by more than `TOLERANCE` of the largest output (or of 1 if
            that is larger).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for x_t, t, y in (_inputs(model, n) for n in CHECKED_BATCHES):
        feed = {"x_t": x_t.numpy(), "t": t.numpy()} | ({} if y is None else {"y": y.numpy()})
        with torch.no_grad():
            wanted = model(x_t, t, y).numpy()
        found = session.run(None, feed)[0]
        error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1.0)
        if not error <= TOLERANCE:  # NaN too
            raise ValueError(f"ONNX differs from torch by {error:.1e} in a batch of {len(x_t)}")


def _inputs(model: Network, n: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw a random batch, with labels (the first is "no label") if the network takes them."""
    generator = torch.Generator().manual_seed(n)
    x_t = torch.randn(n, *model.image_shape, generator=generator)  # (n, C, S, S)
    t = torch.randint(1, 500, (n,), generator=generator)
    if model.num_classes is None:
        return x_t, t, None
    return x_t, t, torch.arange(n) % (model.num_classes + 1) - 1
