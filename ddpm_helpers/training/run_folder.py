"""A run's folder: which run owns it, which files it holds, and its growing history."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.files import megabytes, not_written, write_atomic
from ddpm_helpers.training.checkpoint import NAMES, checkpoints
from ddpm_helpers.training.metrics import StepRecord

WEIGHTS = r"weights(_epoch_\d+)?\.safetensors"
BESIDE = rf"{WEIGHTS}|history\.jsonl|config\.toml|samples_epoch_\d+\.png|learning\.gif"
KEPT = re.compile(rf"{NAMES.pattern}|{WEIGHTS}")  # files that took time to make
TEMPORARY = re.compile(rf"({NAMES.pattern}|{BESIDE})\.tmp")
GROUP = 20  # steps whose records are written at once


def prepare_folder(out_dir: str | Path, needed: int = 0) -> Path:
    """Make the folder, check that it is writable, and remove a killed run's temporary files.

    Args:
        out_dir: the folder.
        needed: bytes that a run will write into it.
    Raises:
        OSError: it is not writable, or its disk is too full; the message names the folder.
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
            f"out_dir {folder} has {megabytes(free)} free, the checkpoints of this run need "
            f"{megabytes(needed - there)} more: free some, or lower keep_checkpoints"
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
    """Remove a run's files from its folder; other files stay."""
    ours = [p for p in folder.iterdir() if re.fullmatch(rf"{NAMES.pattern}|{BESIDE}", p.name)]
    for path in [*ours, *folder.glob("tensorboard/events.out.tfevents.*")]:
        path.unlink()


def is_rung(epoch: int) -> bool:
    """Whether an epoch is 1, 2 or 5 times a power of ten: the rungs of the ladder."""
    return str(epoch).rstrip("0") in ("1", "2", "5")


def bytes_needed(model: nn.Module, config: TrainConfig, steps: int) -> int:
    """Bytes on the disk that a run of so many steps needs, while it writes one more checkpoint."""
    weights = sum(value.nbytes for value in model.state_dict().values())
    averages = 1 + config.keep_weights * sum(map(is_rung, range(1, config.epochs + 1)))
    one = 4 * weights + 120 * steps + 1_000_000  # weights, average, Adam's two; history; names
    return averages * weights + (config.keep_checkpoints + 1) * one + 300 * steps  # and .jsonl


class HistoryWriter:
    """Writes each record to `history.jsonl`, one line per step, and to TensorBoard if installed.

    Records are collected and written every twentieth step, since writing them waits for a GPU.

    Args:
        folder: of the run; None writes nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / "history.jsonl"
        self._waiting: list[StepRecord] = []
        self._board: Any = None

    def start(self, history: Sequence[StepRecord]) -> None:
        """Make the file hold exactly this history: a resumed run drops steps that it repeats."""
        self._waiting = []
        if self.path is not None:
            write_atomic(self.path, "".join(map(_line, history)).encode())
            if self._board is None and importlib.util.find_spec("tensorboard"):
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self.path.parent / "tensorboard"))

    def write(self, record: StepRecord) -> None:
        """Add one step; it is written at the next twentieth step, or by `flush`."""
        if self.path is not None:
            self._waiting.append(record)
            if record.step % GROUP == 0:
                self.flush()

    def flush(self) -> None:
        """Write everything added so far to the file.

        Raises:
            OSError: the disk is full.
        """
        if self.path is None or not self._waiting:
            return
        lines = "".join(map(_line, self._waiting)).encode()
        try:
            with open(self.path, "ab") as file:
                file.write(lines)
        except OSError as error:
            raise OSError(not_written(self.path, len(lines), error)) from error
        if self._board is not None:
            for record in self._waiting:
                for name in ("loss", "lr", "images_per_second", "grad_norm"):
                    self._board.add_scalar(name, getattr(record, name), record.step)
                for k, value in enumerate(record.quarters):
                    if not math.isnan(value):
                        self._board.add_scalar(f"loss of t in quarter {k + 1}", value, record.step)
            self._board.flush()
        self._waiting = []

    def images(self, grid: Tensor, step: int) -> None:
        """Give TensorBoard a sample grid, (3, H, W) in 0..1."""
        if self._board is not None:
            self._board.add_image("samples", grid, step)


def _line(record: StepRecord) -> str:
    """A record as JSON. JSON has no NaN: bad losses, and quarters without a t, become null."""
    values = record.to_dict()
    values["quarters"] = [_finite(value) for value in record.quarters]
    return json.dumps({k: _finite(v) for k, v in values.items()}) + "\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
