"""Weights in a file that describes itself: safetensors, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet

HERE = Path(__file__).parent
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MANIFEST = HERE / "manifest.json"
_HEADER = "ddpm_helpers"  # the metadata entry that holds the description


def save_weights(
    path: str | Path,
    model: DiffusionNet,
    diffusion: DiffusionUtils,
    trained: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a network's weights with all that is needed to build it again.

    Args:
        path: file to write, ending in .safetensors; written beside and moved into place.
        model: the network, usually the averaged one.
        diffusion: what it was trained with.
        trained: facts about the training (data, steps, classes …), plain JSON values.
        dtype: of the stored numbers; torch.float16 halves the file.
    Returns:
        The path.
    """
    path = Path(path)
    about = {
        "model": model.config,
        "diffusion": diffusion.config,
        "trained": trained or {},
    }
    tensors = {k: v.detach().cpu().to(dtype).contiguous() for k, v in model.state_dict().items()}
    beside = path.with_name(path.name + ".tmp")
    save_file(tensors, beside, metadata={_HEADER: json.dumps(about)})
    os.replace(beside, path)
    return path


def load_pretrained(name_or_path: str | Path) -> tuple[DiffusionNet, DiffusionUtils]:
    """Build a network from stored weights, ready to sample from.

    Args:
        name_or_path: a shipped name (see `available_weights()`), a .safetensors file, or the
            folder of a training run.
    Returns:
        The network, float32, in eval mode on the CPU, and the `DiffusionUtils` it was trained
        with. `model.classes` holds the names of its classes.
    Raises:
        FileNotFoundError: neither a shipped name nor a file; the message lists the names.
        ValueError: the file is altered, truncated, or not one of this project.
    """
    path = _find(name_or_path)
    about, tensors = _read(path)
    model = DiffusionNet(**about["model"])
    _check_tensors(path, tensors, model)
    model.load_state_dict({k: v.float() for k, v in tensors.items()})
    model.classes = tuple(about["trained"].get("classes", ()))
    return model.eval().requires_grad_(False), DiffusionUtils(**about["diffusion"])


def load_weights(
    name_or_path: str | Path, model: DiffusionNet, diffusion: DiffusionUtils | None = None
) -> DiffusionNet:
    """Put stored weights into a network that is there already, or leave it exactly as it was.

    Args:
        name_or_path: as for `load_pretrained`.
        model: the network; it must be built as the stored one was.
        diffusion: if given, it must be what the weights were trained with.
    Returns:
        The network.
    Raises:
        FileNotFoundError: neither a shipped name nor a file.
        ValueError: the file is damaged, or anything about it differs; one line says what.
    """
    path = _find(name_or_path)
    about, tensors = _read(path)
    _check_same(path, about["model"], model.config)
    if diffusion is not None:
        _check_same(path, about["diffusion"], diffusion.config)
    _check_tensors(path, tensors, model)
    model.load_state_dict(tensors)
    return model


def _check_same(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if stored.get(name) != value:
            found = stored.get(name)
            raise ValueError(f"{path} was trained with {name} = {found!r}, not {value!r}")


def description(name_or_path: str | Path) -> dict[str, Any]:
    """What a weights file says about itself: `model`, `diffusion` and `trained`.

    Args, Raises: as for `load_pretrained`.
    """
    return _read(_find(name_or_path))[0]


def available_weights() -> dict[str, dict[str, Any]]:
    """The shipped weights: name -> manifest entry (file, sha256, data, steps, quality …)."""
    return json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}


def _find(name_or_path: str | Path) -> Path:
    shipped = available_weights()
    if str(name_or_path) in shipped:
        entry = shipped[str(name_or_path)]
        path = HERE / entry["file"]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != entry["sha256"]:
            raise ValueError(f"{path.name} is altered: sha256 {found}, not {entry['sha256']}")
        return path
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        names = ", ".join(shipped) or "none yet"
        raise FileNotFoundError(f"no weights at {path}; shipped names: {names}")
    return path


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            if header is None:
                raise ValueError(f"{path} holds no description of a DiffusionNet")
            about = json.loads(header)
            if not {"model", "diffusion", "trained"} <= set(about):
                raise ValueError(f"{path}: its description lacks model, diffusion or trained")
            return about, {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error


def _check_tensors(path: Path, found: dict[str, torch.Tensor], model: DiffusionNet) -> None:
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    for key in found | expected:
        want = expected.get(key, "no such weight")
        got = tuple(found[key].shape) if key in found else "nothing"
        if key not in expected and key.removeprefix("module.") in expected:
            raise ValueError(
                f"{path} was saved from a wrapped network: {key}; take `module.` off every name"
            )
        if want != got:
            raise ValueError(f"{path} does not fit its network: {key}: expected {want}, got {got}")
        if found[key].dtype not in DTYPES:
            raise ValueError(f"{path}: {key} is {found[key].dtype}, not a 16 or 32 bit float")
        if not torch.isfinite(found[key]).all():
            raise ValueError(f"{path}: {key} holds NaN or infinite numbers")
