"""Write, read and check checkpoint files."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.files import flush_folder, write_temporary
from ddpm_helpers.pretrained.weights import misfit
from ddpm_helpers.training.training_data import check_same_data

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint-previous.pt"
FORM = 2  # counts changes of what `TrainingPipeline.state_dict` returns
# These settings define the training: a checkpoint with another value is refused.
FIXED = (
    "image_size", "timesteps", "schedule", "prediction", "rescale_zero_snr", "batch_size", "seed",
    "network", "width", "limit", "optimizer", "channels", "t_sampling", "teacher_steps", "heads",
)  # fmt: skip


class BrokenFile(ValueError):
    """A checkpoint that is truncated or altered, or not a checkpoint."""


def write(folder: Path, state: dict[str, Any]) -> None:
    """Write checkpoint.pt atomically; the old one becomes checkpoint-previous.pt.

    A kill at any moment leaves a complete checkpoint.

    Args:
        folder: the run's folder.
        state: what `TrainingPipeline.state_dict` returns.
    Raises:
        OSError: the disk is full or not writable; the old files are untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = folder / CHECKPOINT
    temporary = write_temporary(path, buffer.getvalue())
    if path.exists():
        os.replace(path, folder / PREVIOUS)
    os.replace(temporary, path)
    flush_folder(folder)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint, and compare it with the checksums of its zip file.

    Raises:
        OSError: it does not exist, or cannot be read.
        BrokenFile: it is truncated or altered, or not a checkpoint.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as file:
            if part := file.testzip():
                raise ValueError(f"the checksum of {part} differs")
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip raises many kinds, zlib.error and OSError too
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BrokenFile(f"{path.name} is not a complete checkpoint: {why}") from error
    if not isinstance(state, dict) or state.get("form") != FORM:
        raise BrokenFile(f"{path.name} is not a checkpoint of this version of ddpm_helpers")
    return state


def find(place: Path) -> tuple[Path, dict[str, Any]]:
    """Find a checkpoint, and return its path and content.

    Args:
        place: the file, or a run's folder. In a folder, checkpoint-previous.pt is used if
            checkpoint.pt is missing or damaged, after a warning.
    Raises:
        OSError, BrokenFile: as for `read`.
    """
    if not place.is_dir():
        return place, read(place)
    newest, previous = place / CHECKPOINT, place / PREVIOUS
    try:
        return newest, read(newest)
    except (FileNotFoundError, BrokenFile) as error:
        if not previous.exists():
            raise
        warnings.warn(f"{error}; using {PREVIOUS}", stacklevel=3)
    return previous, read(previous)


def changed_settings(saved: dict[str, Any], own: dict[str, Any]) -> str:
    """List the settings that differ from a checkpoint's, such as "lr 0.001 (was 0.01)"."""
    changed = (name for name in own if saved.get(name, own[name]) != own[name])
    return ", ".join(f"{name} {own[name]!r} (was {saved[name]!r})" for name in changed)


def check_compatible(saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse to continue from the state `saved` if it belongs to another training than `own`.

    Raises:
        ValueError: the configuration, the data, the betas or the network differ.
    """
    for field in FIXED:
        default = getattr(TrainConfig, field)  # of a field that is newer than the checkpoint
        was, wanted = saved["config"].get(field, default), own["config"][field]
        if was != wanted:
            raise ValueError(f"the checkpoint was trained with {field} = {was!r}, not {wanted!r}")
    check_same_data(saved["data"], own["data"])
    if saved["diffusion"] != own["diffusion"]:
        raise ValueError("the checkpoint was trained with another table of betas")
    if why := misfit(own["model"], saved["model"]):
        raise ValueError(f"the checkpoint is of another network: {why}")
