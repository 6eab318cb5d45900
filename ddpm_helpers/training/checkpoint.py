"""Checkpoints: written atomically, checked by sha256, and resumed only by the same training."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.files import flush_folder, write_atomic, write_temporary
from ddpm_helpers.pretrained.weights import misfit
from ddpm_helpers.training.training_data import describe, same_data

CHECKPOINT = "checkpoint.pt"  # the newest; older ones carry their step: checkpoint-00000120.pt
NAMES = re.compile(r"checkpoint(-\d{8,})?\.pt")
SEAL = re.compile(r"step (\d+) sha256 ([0-9a-f]{64})")
PARTS = {"model", "ema_model", "optimizer", "step", "history", "config", "data"}  # of every one
# Changing one of these would turn the rest of the run into another training.
FIXED = (
    "image_size", "timesteps", "schedule", "prediction", "rescale_zero_snr", "batch_size", "seed",
    "width", "limit", "optimizer", "channels", "t_sampling", "teacher_steps",
)  # fmt: skip


class BrokenFile(ValueError):
    """A checkpoint that is truncated or altered."""


def write(path: Path, state: dict[str, Any], keep: int | None = None) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file.
        state: what `TrainingPipeline.state_dict` returns.
        keep: rename the file that is there now after its step, and keep the last `keep`
            checkpoints of the folder; None replaces that file. A kill at any moment leaves at
            least one complete checkpoint.
    Raises:
        OSError: the disk is full or not writable; the previous checkpoint is untouched.
    """
    if keep is None:
        write_atomic(path, pack(state))
        return
    temporary = write_temporary(path, pack(state))
    if path.exists() and (step := _step_of(path)) is not None:
        os.replace(path, path.with_name(f"checkpoint-{step:08d}.pt"))
    os.replace(temporary, path)
    flush_folder(path.parent)
    for old in checkpoints(path.parent)[keep:]:
        old.unlink()


def pack(state: dict[str, Any]) -> bytes:
    """The bytes of `torch.save`, with step and sha256 in the comment that ends every zip file.

    `torch.load` reads them as they are.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()[:-2]  # a zip ends with the length of its comment, here 0
    seal = f"step {state['step']} sha256 {hashlib.sha256(body).hexdigest()}".encode()
    return body + struct.pack("<H", len(seal)) + seal


def unpack(path: Path) -> dict[str, Any]:
    """Read a file that `pack` made, after checking its sha256.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds weights instead.
        BrokenFile: it is truncated or altered, or not a checkpoint.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}; train first, or give another path")
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        raise ValueError(
            f"{path} holds weights, not a checkpoint: --weights or fine_tune_model starts a new "
            "training from them; to continue a run, give its checkpoint.pt"
        )
    _check_digest(path.name, content)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BrokenFile(f"{path.name} is not a checkpoint: {why}") from error
    if not isinstance(state, dict) or (lacks := PARTS - state.keys()):
        what = f"it lacks {', '.join(sorted(lacks))}" if isinstance(state, dict) else "not a dict"
        raise BrokenFile(f"{path.name} is not a checkpoint of a TrainingPipeline: {what}")
    return state


def _check_digest(name: str, content: bytes) -> None:
    """Compare a file's bytes with its sha256, or with the zip's own checksums if it has none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            comment = file.comment
            damaged = None if comment else file.testzip()
    except zipfile.BadZipFile as error:
        raise BrokenFile(f"{name} is cut short: {len(content)} bytes") from error
    if comment:
        found = hashlib.sha256(content[: -len(comment) - 2]).hexdigest()
        seal = SEAL.fullmatch(comment.decode(errors="replace"))
        damaged = None if seal and seal[2] == found else f"its sha256 is {found[:12]}…"
    if damaged:
        raise BrokenFile(f"{name} is altered: {damaged}")


def _step_of(path: Path) -> int | None:
    """Step of a checkpoint; None if it is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            seal = SEAL.fullmatch(file.comment.decode(errors="replace"))
        return int(seal[1]) if seal else int(unpack(path)["step"])
    except (zipfile.BadZipFile, BrokenFile):
        return None


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, newest first; files with other names are ignored."""
    found = [path for path in folder.iterdir() if NAMES.fullmatch(path.name)]
    return sorted(found, key=lambda p: (p.name == CHECKPOINT, p.stat().st_mtime_ns), reverse=True)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged checkpoint of a folder and its content, or None if there is none.

    Damaged ones are skipped with a warning that names them and the one taken instead.

    Raises:
        BrokenFile: there are checkpoints, but all of them are damaged.
    """
    broken: list[str] = []
    for path in checkpoints(folder):
        try:
            state = unpack(path)
        except BrokenFile as error:
            broken.append(str(error))
            continue
        if broken:
            why = "; ".join(broken)
            warnings.warn(f"{why}; falling back to {path.name}, step {state['step']}", stacklevel=3)
        return path, state
    if broken:
        raise BrokenFile(f"no whole checkpoint in {folder}: {'; '.join(broken)}")
    return None


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
        by_default = getattr(TrainConfig, field)  # for a field that is newer than the checkpoint
        was, wanted = saved["config"].get(field, by_default), own["config"][field]
        if was != wanted:
            raise ValueError(f"{name} was trained with {field} = {was!r}, not {wanted!r}")
    found = describe(own["data"])
    in_words = isinstance(saved["data"], str)  # in the first form, which had no diffusion either
    was = saved["data"] if in_words else describe(saved["data"])
    if was != found if in_words else not same_data(saved["data"], own["data"]):
        raise ValueError(f"{name} was trained on {was}, not on {'other ' * (was == found)}{found}")
    if saved.get("diffusion", own["diffusion"]) != own["diffusion"]:
        raise ValueError(f"{name} was trained with another table of betas")
    if why := misfit(own["model"], saved["model"]):
        raise ValueError(f"{name} is of another network: {why}")
