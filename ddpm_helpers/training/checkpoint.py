"""Checkpoint files: written atomically, checked when they are read, and resumed only by the same
training."""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.files import flush_folder, write_temporary
from ddpm_helpers.pretrained.weights import misfit
from ddpm_helpers.training.training_data import check_same_data

CHECKPOINT = "checkpoint.pt"  # the newest; older ones carry their step: checkpoint-00000120.pt
NAMES = re.compile(r"checkpoint(-\d{8,})?\.pt")
PARTS = {"model", "ema_model", "optimizer", "step", "history", "config", "data", "diffusion"}
# Changing one of these would turn the rest of the run into another training.
FIXED = (
    "image_size", "timesteps", "schedule", "prediction", "rescale_zero_snr", "batch_size", "seed",
    "network", "width", "limit", "optimizer", "channels", "t_sampling", "teacher_steps", "heads",
)  # fmt: skip
DAMAGE = (EOFError, LookupError, RuntimeError, ValueError)  # what reading a damaged zip raises


class BrokenFile(ValueError):
    """A checkpoint that is truncated or altered, or not a checkpoint."""


def write(path: Path, state: dict[str, Any], before: int | None = None) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file.
        state: what `TrainingPipeline.state_dict` returns.
        before: step of the checkpoint at `path`, which is kept under that step's name; None
            replaces it. A kill at any moment leaves at least one complete checkpoint.
    Raises:
        OSError: the disk is full or not writable; the previous checkpoint is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    temporary = write_temporary(path, buffer.getvalue())
    if before is not None and path.exists():
        os.replace(path, path.with_name(f"checkpoint-{before:08d}.pt"))
    os.replace(temporary, path)
    flush_folder(path.parent)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; the checksums of its zip file show any changed byte of its content.

    Raises:
        FileNotFoundError: no such file.
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
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # the first part whose checksum differs
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, *DAMAGE) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BrokenFile(f"{path.name} is not a complete checkpoint: {why}") from error
    if damaged:
        raise BrokenFile(f"{path.name} is damaged: the checksum of {damaged} differs")
    if not isinstance(state, dict) or state.keys() != PARTS:
        raise BrokenFile(f"{path.name} is not a checkpoint of this version of ddpm_helpers")
    return state


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first: checkpoint.pt, then the others by their step."""
    found = [path for path in folder.iterdir() if NAMES.fullmatch(path.name)]
    return sorted(found, key=lambda p: (p.name != CHECKPOINT, -int(p.stem[11:] or 0)))


def find(place: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint's path and content.

    Args:
        place: the file, or a run's folder, of which the newest undamaged checkpoint is taken. A
            warning names damaged ones.
    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError, BrokenFile: as for `read`; all checkpoints of the folder are damaged.
    """
    if not place.is_dir():
        return place, read(place)
    broken: list[str] = []
    for path in checkpoints(place):
        try:
            state = read(path)
        except BrokenFile as error:
            broken.append(str(error))
            continue
        if broken:
            why = "; ".join(broken)
            warnings.warn(f"{why}; using {path.name}, step {state['step']}", stacklevel=3)
        return path, state
    if broken:
        raise BrokenFile(f"no complete checkpoint in {place}: {'; '.join(broken)}")
    raise FileNotFoundError(f"no checkpoint in {place}; train first, or resume 'auto'")


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
