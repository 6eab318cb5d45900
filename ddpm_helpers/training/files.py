"""Files that are whole or not there: written beside, flushed to disk, moved into place, sealed.

Nothing here knows what a checkpoint holds; `checkpoint.py` does.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

CHECKPOINT = "checkpoint.pt"  # the newest; older ones carry their step: checkpoint-00000120.pt
OURS = re.compile(r"checkpoint(-\d{8,})?\.pt")
SEAL = re.compile(r"step (\d+) sha256 ([0-9a-f]{64})")
WEIGHTS = r"weights(_epoch_\d+)?\.safetensors"
BESIDE = rf"{WEIGHTS}|history\.jsonl|config\.toml|samples_epoch_\d+\.png|learning\.gif"
PARTS = {"model", "ema_model", "optimizer", "step", "history", "config"}  # of every checkpoint
KEPT = re.compile(rf"{OURS.pattern}|{WEIGHTS}")  # what took time to make
TEMPORARY = re.compile(rf"({OURS.pattern}|{BESIDE})\.tmp")


class BrokenFile(ValueError):
    """A checkpoint that is cut short or altered."""


def prepare_folder(out_dir: str | Path, needed: int = 0) -> Path:
    """Make the folder, prove that it can be written, and clear what a killed run left half done.

    Args:
        out_dir: the folder.
        needed: bytes that a run will write into it.
    Raises:
        OSError: it cannot be written, or its disk is too full; the message names the folder.
    """
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to out_dir {folder}: {error.strerror}") from error
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            path.unlink()
    there = sum(path.stat().st_size for path in checkpoints(folder))
    free = shutil.disk_usage(folder).free
    if needed - there > free:
        raise OSError(
            f"out_dir {folder} has {_mb(free)} free, the checkpoints of this run need "
            f"{_mb(needed - there)} more: free some, or lower keep_checkpoints"
        )
    return folder


def refuse_another_run(folder: Path) -> None:
    """Refuse to train into a folder that holds a run, in one line.

    Raises:
        FileExistsError: there are checkpoints or weights.
    """
    found = sorted(p.name for p in folder.iterdir() if KEPT.fullmatch(p.name))
    if found:
        raise FileExistsError(
            f"out_dir {folder} holds a run already ({found[0]}): go on with it by --resume or "
            ".resume(), choose another folder, or replace it by --overwrite or overwrite=True"
        )


def remove_run(folder: Path) -> None:
    """Remove what a run left in its folder; files of other names stay."""
    ours = [p for p in folder.iterdir() if re.fullmatch(rf"{OURS.pattern}|{BESIDE}", p.name)]
    for path in [*ours, *folder.glob("tensorboard/events.out.tfevents.*")]:
        path.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` by `content`; whoever reads it sees the old file or the new one, never half.

    Raises:
        OSError: the disk is full or cannot be written; the old file is untouched.
    """
    os.replace(_write_beside(path, content), path)
    _flush_folder(path.parent)


def rotate(folder: Path, content: bytes, keep: int) -> Path:
    """Write `checkpoint.pt`; the one before takes its step's name, and the last `keep` files stay.

    A kill between any two lines leaves at least one whole checkpoint.
    """
    path = folder / CHECKPOINT
    beside = _write_beside(path, content)
    if path.exists() and (step := _step_of(path)) is not None:
        os.replace(path, folder / f"checkpoint-{step:08d}.pt")
    os.replace(beside, path)
    _flush_folder(folder)
    for old in checkpoints(folder)[keep:]:
        old.unlink()
    return path


def _write_beside(path: Path, content: bytes) -> Path:
    beside = path.with_name(path.name + ".tmp")  # on the same disk, or os.replace would copy
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        beside.unlink(missing_ok=True)
        why = not_written(path, len(content), error)
        raise OSError(f"{why}; the one before it is untouched") from error
    return beside


def not_written(path: Path, needed: int, error: OSError) -> str:
    """One line that names the file, the reason, and the bytes needed and free."""
    free = _mb(shutil.disk_usage(path.parent).free)
    return f"{path} was not written ({error.strerror}): it needs {_mb(needed)}, {free} are free"


def _flush_folder(folder: Path) -> None:
    """The new name must reach the disk too, not only the content."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _step_of(path: Path) -> int | None:
    """Step of a checkpoint, None of a broken one."""
    try:
        with zipfile.ZipFile(path) as file:
            seal = SEAL.fullmatch(file.comment.decode(errors="replace"))
        return int(seal[1]) if seal else int(unpack(path)["step"])
    except (zipfile.BadZipFile, BrokenFile):
        return None


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
    """Read what `pack` wrote, after checking the sha256.

    Raises:
        FileNotFoundError: no such file.
        BrokenFile: it is cut short or altered.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}; train first, or give another path")
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        raise ValueError(
            f"{path} holds weights, not a checkpoint: --weights or fine_tune_model starts a new "
            "training from them; to go on with a run, give its checkpoint.pt"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            comment = file.comment
            damaged = None if comment else file.testzip()  # no seal: the zip's own checksums
    except zipfile.BadZipFile as error:
        raise BrokenFile(f"{path.name} is cut short: {len(content)} bytes") from error
    if comment:
        found = hashlib.sha256(content[: -len(comment) - 2]).hexdigest()
        seal = SEAL.fullmatch(comment.decode(errors="replace"))
        damaged = None if seal and seal[2] == found else f"its sha256 is {found[:12]}…"
    if damaged:
        raise BrokenFile(f"{path.name} is altered: {damaged}")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise BrokenFile(f"{path.name} is not a checkpoint: {_first_line(error)}") from error
    if not isinstance(state, dict) or (lacks := PARTS - state.keys()):
        what = f"it lacks {', '.join(sorted(lacks))}" if isinstance(state, dict) else "not a dict"
        raise BrokenFile(f"{path.name} is not a checkpoint of a TrainingPipeline: {what}")
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, the one written last first; files of other names are ignored."""
    found = [path for path in folder.iterdir() if OURS.fullmatch(path.name)]
    return sorted(found, key=lambda p: (p.name == CHECKPOINT, p.stat().st_mtime_ns), reverse=True)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a folder and its content, or None where there is none.

    A broken one is passed over with a warning that names it and the one taken instead.

    Raises:
        BrokenFile: there are checkpoints, but none of them is whole.
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


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
