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
            return json.loads(header), {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error


def _check_tensors(path: Path, found: dict[str, torch.Tensor], model: DiffusionNet) -> None:
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    for key in expected | found:
        want = expected.get(key, "no such weight")
        got = tuple(found[key].shape) if key in found else "nothing"
        if want != got:
            raise ValueError(f"{path} does not fit its network: {key}: expected {want}, got {got}")
        if not torch.isfinite(found[key]).all():
            raise ValueError(f"{path}: {key} holds NaN or infinite numbers")
