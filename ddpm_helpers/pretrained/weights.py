"""Save and load weights in self-describing safetensors files, never as pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.config import SOURCES
from ddpm_helpers.config_file import data_of_run
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.files import user_path, write_atomic
from ddpm_helpers.model import NETWORKS, Network
from ddpm_helpers.pretrained import shipped

HUB_WEIGHTS = "model.safetensors"  # file name that huggingface_hub.PyTorchModelHubMixin uses
_HEADER = "ddpm_helpers"  # metadata entry of the description


def save_weights(
    path: str | Path,
    model: Network,
    diffusion: DiffusionUtils,
    trained: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save a network's weights with everything needed to build the network again.

    Args:
        path: file to write, ending in .safetensors; written atomically.
        model: the network, usually with averaged weights.
        diffusion: the `DiffusionUtils` that it was trained with.
        trained: facts about the training (data, updates, classes …), plain JSON values.
        dtype: dtype of the stored weights; torch.float16 halves the file size.
    Returns:
        The path.
    Raises:
        ValueError: the network is inside torch.compile or DataParallel.
        OSError: the disk is full or not writable.
    """
    path = user_path(path)
    if not isinstance(model, Network):  # also one inside torch.compile or DataParallel
        raise ValueError(f"the network must be a DiffusionNet or a DiT, got {type(model).__name__}")
    about: dict[str, Any] = {"network": model.kind, "model": model.config}
    about |= {"diffusion": diffusion.config, "trained": trained or {}}
    tensors = {k: v.detach().cpu().to(dtype).contiguous() for k, v in model.state_dict().items()}
    about["sha256"] = _digest(about, tensors)
    write_atomic(path, save(tensors, metadata={_HEADER: json.dumps(about)}))
    return path


def load_pretrained(name_or_path: str | Path) -> tuple[Network, DiffusionUtils]:
    """Build a network from stored weights, ready to sample from.

    Args:
        name_or_path: a shipped name (see `available_weights()`), a .safetensors file, the folder
            of a training run, or a folder for the Hugging Face Hub (`ddpm export --to hub`).
    Returns:
        The network, float32, in eval mode on the CPU, and the `DiffusionUtils` it was trained
        with. `model.classes` holds the names of its classes.
    Raises:
        FileNotFoundError: there are no such weights; the message lists the shipped names.
        ValueError: the file is modified or truncated, its network cannot be built, or it was not
            written by `save_weights`.
    """
    path, about, tensors = _read(name_or_path)
    kind = NETWORKS[checks.one_of(f"network of {path}", about["network"], NETWORKS)]
    try:
        diffusion = DiffusionUtils(**about["diffusion"])
        with torch.device("meta"):  # allocate no memory: the sizes in the file are not checked yet
            expected = kind(**about["model"]).state_dict()
    except (TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"{path} describes what cannot be built: {error!r}") from error
    if why := misfit(expected, tensors):
        raise ValueError(f"{path} does not fit its network: {why}")
    weights = {key: value.float() for key, value in tensors.items()}
    for key, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: {key} holds NaN or infinite numbers")
    model = kind(**about["model"]).float()  # also with another default dtype
    model.load_state_dict(weights)
    model.classes = tuple(about["trained"].get("classes", ()))
    return model.eval().requires_grad_(False), diffusion


def description(name_or_path: str | Path) -> dict[str, Any]:
    """Read the description in a weights file: `network`, `model`, `diffusion` and `trained`.

    Args, Raises: as for `load_pretrained`.
    """
    return _read(name_or_path)[1]


def data_of_weights(
    name_or_path: str | Path, data: str | None = None, root: str | None = None
) -> dict[str, Any]:
    """Find the `ImageDataset` arguments that open the data these weights were trained on.

    Args:
        name_or_path: as for `load_pretrained`. A run folder holds all arguments; other weights only
            hold the name of their data, which finds a built-in source but not a folder.
        data: source to open instead.
        root: folder with the source's files, instead of the stored one.
    Returns:
        A dict with `channels`, and with `source`, `root` and `fit` if they are known.
    Raises:
        FileNotFoundError, ValueError: as for `load_pretrained`.
    """
    about = description(name_or_path)
    named = about["trained"].get("data")
    found: dict[str, Any] = {"source": named} if named in SOURCES else {}
    found |= data_of_run(name_or_path) if data is None else {"source": data}
    found |= {} if root is None else {"root": root}
    return found | {"channels": about["model"].get("channels", 3)}


def _find(name_or_path: str | Path) -> tuple[Path, str | None]:
    """Find the file, and its expected sha256 if it is shipped."""
    known = shipped.available_weights()
    if entry := known.get(str(name_or_path)):
        return shipped.HERE / entry["file"], entry["sha256"]
    path = user_path(name_or_path)
    if path.is_dir():
        hub = path / HUB_WEIGHTS
        path = hub if hub.is_file() else path / "weights.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {name_or_path}; shipped names: {', '.join(known)}")
    return path, None


def _read(name_or_path: str | Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """Return path, description and tensors, from the same bytes that are checked."""
    path, wanted = _find(name_or_path)
    raw = path.read_bytes()
    if wanted is not None and (found := hashlib.sha256(raw).hexdigest()) != wanted:
        raise ValueError(f"{path.name} has been modified: sha256 {found}, not {wanted}")
    try:
        tensors = load(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        about = json.loads(header["__metadata__"][_HEADER])
        for part in ("model", "diffusion", "trained"):
            about[part].keys()  # a table
        "".join(about["trained"].get("classes", ()))  # names
    except (SafetensorError, LookupError, TypeError, AttributeError, ValueError,
            RecursionError) as error:  # fmt: skip
        raise ValueError(
            f"{path} is not a complete weights file of this package ({error!r}); for a checkpoint, "
            "give the folder of its run"
        ) from error
    if about.get("sha256", (found := _digest(about, tensors))) != found:
        raise ValueError(f"{path} has been modified: its sha256 is {found}, not {about['sha256']}")
    return path, {"network": "unet"} | about, tensors  # older files lack the network's kind


def _digest(about: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Compute the sha256 of a description and of the tensors' bytes, sorted by name."""
    words = json.dumps({key: value for key, value in about.items() if key != "sha256"})
    digest = hashlib.sha256(words.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def misfit(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """Describe the first weight that is missing, unexpected or of the wrong shape; "" if none."""
    for key in expected | found:
        want = tuple(expected[key].shape) if key in expected else "no such weight"
        got = tuple(found[key].shape) if key in found else "nothing"
        if want != got:
            return f"{key}: expected {want}, found {got}"
    return ""
