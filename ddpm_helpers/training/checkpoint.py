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
PARTS = {"model", "ema_model", "optimizer", "step", "history", "config", "data", "diffusion"}
# Changing one of these would turn the rest of the run into another training.
FIXED = (
    "image_size", "timesteps", "schedule", "prediction", "rescale_zero_snr", "batch_size", "seed",
    "network", "width", "limit", "optimizer", "channels", "t_sampling", "teacher_steps", "heads",
)  # fmt: skip


class BrokenFile(ValueError):
    """A checkpoint that is truncated or altered, or not a checkpoint."""


def write(folder: Path, state: dict[str, Any], *, keep: bool) -> None:
    """Write checkpoint.pt atomically; a kill at any moment leaves a complete checkpoint.

    Args:
        folder: the run's folder.
        state: what `TrainingPipeline.state_dict` returns.
        keep: whether checkpoint.pt becomes checkpoint-previous.pt; else it is replaced.
    Raises:
        OSError: the disk is full or not writable; the old files are untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = folder / CHECKPOINT
    temporary = write_temporary(path, buffer.getvalue())
    if keep and path.exists():
        os.replace(path, folder / PREVIOUS)
    os.replace(temporary, path)
    flush_folder(folder)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint, and compare it with the checksums of its zip file.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be read.
        ValueError: it holds weights instead.
        BrokenFile: it is truncated or altered, or not a checkpoint.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}; train first, or give another path")
    if path.suffix == ".safetensors":
        raise ValueError(
            f"{path} holds weights, not a checkpoint: --weights or fine_tune_model starts a new "
            "training from them; to continue a run, give its checkpoint.pt"
        )
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
    if not isinstance(state, dict) or state.keys() != PARTS:
        raise BrokenFile(f"{path.name} is not a checkpoint of this version of ddpm_helpers")
    return state


def find(place: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint's path and content.

    Args:
        place: the file, or a run's folder. In a folder, checkpoint-previous.pt is used if
            checkpoint.pt is missing or damaged; a warning names the damaged file.
    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError, BrokenFile: as for `read`; all checkpoints of the folder are damaged.
    """
    if not place.is_dir():
        return place, read(place)
    broken: list[str] = []
    for path in (place / CHECKPOINT, place / PREVIOUS):
        if path.exists():
            try:
                state = read(path)
            except BrokenFile as error:
                broken.append(str(error))
                continue
            if broken:
                warnings.warn(f"{broken[0]}; using {path.name}, step {state['step']}", stacklevel=3)
            return path, state
    if broken:
        raise BrokenFile(f"no complete checkpoint in {place}: {'; '.join(broken)}")
    raise FileNotFoundError(f"no checkpoint in {place}; train first, or resume 'auto'")


def changed_settings(saved: dict[str, Any], own: dict[str, Any]) -> str:
    """List the settings that differ from those of a checkpoint, such as "lr 0.001 (was 0.01)".

    Args:
        saved, own: configurations, as `TrainConfig.to_dict` returns them.
    """
    changed = (name for name in own if saved.get(name, own[name]) != own[name])
    return ", ".join(f"{name} {own[name]!r} (was {saved[name]!r})" for name in changed)


def check_compatible(name: str, saved: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse a checkpoint of another training, in one line.

    Args:
        name: of its file, for the message.
        saved: the state in it.
        own: the state of the training that wants to continue from it.
    Raises:
        ValueError: the configuration, the data, the betas or the network differ.
    """
    for field in FIXED:
        default = getattr(TrainConfig, field)  # of a field that is newer than the checkpoint
        was, wanted = saved["config"].get(field, default), own["config"][field]
        if was != wanted:
            raise ValueError(f"{name} was trained with {field} = {was!r}, not {wanted!r}")
    check_same_data(name, saved["data"], own["data"])
    if saved["diffusion"] != own["diffusion"]:
        raise ValueError(f"{name} was trained with another table of betas")
    if why := misfit(own["model"], saved["model"]):
        raise ValueError(f"{name} is of another network: {why}")
