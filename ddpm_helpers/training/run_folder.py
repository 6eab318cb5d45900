"""A run's folder: its files, when to write them, and a lock so only one process trains in it."""

from __future__ import annotations

import io
import json
import math
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.config_file import data_table
from ddpm_helpers.files import not_written, user_path, write_atomic
from ddpm_helpers.training import checkpoint
from ddpm_helpers.training.metrics import StepRecord
from ddpm_helpers.training.training_data import TrainingData

WEIGHTS = "weights.safetensors"
HISTORY = "history.jsonl"
LOCK = ".lock"  # locked by the operating system while a process trains in the folder
RESULTS = rf"{checkpoint.NAMES.pattern}|weights(_epoch_\d+)?\.safetensors"  # results of training
OURS = rf"{RESULTS}|history\.jsonl|config\.toml|samples_epoch_\d+\.png|learning\.gif"


class RunFolder:
    """The files of one run.

        config.toml                  the settings
        checkpoint.pt                the newest checkpoint; older ones are named by their step
        weights.safetensors          the averaged weights of the newest checkpoint
        weights_epoch_0005.safetensors …   those of epoch 1, 2, 5, 10, …, if config.keep_weights
        history.jsonl                the record of every update
        samples_epoch_0001.png …     sample grids; learning.gif shows them one after another

    Args:
        path: the folder.
        config: decides when files are written and how many checkpoints are kept.
        overwrite: remove the run in the folder when training starts.
    Attributes:
        newest: step of checkpoint.pt; None if it is missing or damaged.
        is_ours: whether the folder holds this run.
    """

    def __init__(self, path: str | Path, config: TrainConfig, *, overwrite: bool = False) -> None:
        self.path, self.config, self.overwrite = user_path(path), config, overwrite
        self.is_ours = False
        self.newest: int | None = None
        self._save_at = 0.0  # time of the next checkpoint; the first one is due at once

    @contextmanager
    def in_use(self, history: Sequence[StepRecord], dataset: TrainingData) -> Iterator[None]:
        """Lock the folder, take it, and write the current settings and history.

        Records and temporary files that a killed run wrote after its last checkpoint are removed.

        Raises:
            BlockingIOError, FileExistsError: the folder is used by another process or run.
        """
        with self.locked():
            self.take()
            for path in self._files(rf"({OURS})\.tmp"):
                path.unlink()
            settings = self.config.to_toml() + data_table(getattr(dataset, "settings", {}))
            write_atomic(self.path / "config.toml", settings.encode())
            write_atomic(self.path / HISTORY, "".join(map(_line, history)).encode())
            yield

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Stop other processes from training in the folder; the lock ends with the process.

        Raises:
            BlockingIOError: another process is training in the folder.
        """
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK, is_singleton=True)  # one lock per process
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BlockingIOError(
                f"another process is training in {self.path}: wait for it, stop it, or choose "
                "another folder"
            ) from None
        except (OSError, NotImplementedError) as error:
            warnings.warn(
                f"{self.path} cannot be locked ({error}): make sure that only one process trains "
                "in it",
                stacklevel=4,
            )
        try:
            yield
        finally:
            lock.release()

    def take(self) -> None:
        """Mark the folder as this run's, and remove an old run if `overwrite` is True.

        Raises:
            FileExistsError: the folder holds another run and `overwrite` is False.
        """
        if self.is_ours:
            return
        if not self.overwrite:
            self.refuse_another_run()
        for path in self._files(OURS):
            path.unlink()
        self.is_ours = True

    def refuse_another_run(self) -> None:
        """Raise FileExistsError, in one line, if the folder holds checkpoints or weights."""
        if results := sorted(path.name for path in self._files(RESULTS)):
            raise FileExistsError(
                f"out_dir {self.path} holds a run already ({results[0]}): continue it with "
                "--resume or .resume(), choose another folder, or replace it with --overwrite or "
                "overwrite=True"
            )

    def due(self, step: int, steps_per_epoch: int, total_steps: int) -> set[str]:
        """List what to write after an update: "checkpoint", "grid", "kept weights", "animation".

        A checkpoint is due after the first update, to test early that saving works, then every
        `save_minutes` and `save_every` epochs; a grid every `sample_every` epochs. After the last
        update everything is due.
        """
        config, (epoch, inside) = self.config, divmod(step, steps_per_epoch)
        last, epoch_ends = step == total_steps, inside == 0
        by_clock = config.save_minutes > 0 and time.monotonic() >= self._save_at

        def every(epochs: int) -> bool:
            return last or (epoch_ends and epochs > 0 and epoch % epochs == 0)

        found = {
            "checkpoint": by_clock or every(config.save_every),
            "grid": config.sample_every > 0 and every(config.sample_every),
            "kept weights": config.keep_weights and epoch_ends and is_rung(epoch),
            "animation": last,
        }
        return {name for name, is_due in found.items() if is_due}

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write checkpoint.pt, and keep the newest `config.keep_checkpoints` checkpoints.

        Raises:
            OSError: the disk is full or not writable; the previous checkpoint is untouched.
        """
        checkpoint.write(self.path / checkpoint.CHECKPOINT, state, self.newest)
        self.note_saved(state["step"])
        for old in checkpoint.checkpoints(self.path)[self.config.keep_checkpoints :]:
            old.unlink()

    def note_saved(self, step: int | None) -> None:
        """Store the step of checkpoint.pt (None if damaged), and restart the clock."""
        self.newest = step
        self._save_at = time.monotonic() + 60 * self.config.save_minutes

    def write_record(self, record: StepRecord) -> None:
        """Append a record to history.jsonl.

        Raises:
            OSError: the disk is full.
        """
        line = _line(record).encode()
        try:
            with open(self.path / HISTORY, "ab") as file:
                file.write(line)
        except OSError as error:
            raise OSError(not_written(self.path / HISTORY, len(line), error)) from error

    def write_grid(self, grid: Tensor, epoch: int) -> None:
        """Write a sample grid, (3, H, W) in 0..1, as a PNG."""
        from torchvision.utils import save_image

        content = io.BytesIO()
        save_image(grid, content, format="png")
        write_atomic(self.path / f"samples_epoch_{epoch:04d}.png", content.getvalue())

    def write_animation(self) -> None:
        """Join two or more sample grids into learning.gif."""
        from PIL import Image

        frames = []
        for path in sorted(self._files(r"samples_epoch_\d+\.png")):
            with Image.open(path) as image:
                frames.append(image.convert("RGB"))
        if len(frames) < 2:
            return
        times = [400] * (len(frames) - 1) + [2000]  # milliseconds; the last grid stays longer
        content = io.BytesIO()
        frames[0].save(
            content, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0
        )
        write_atomic(self.path / "learning.gif", content.getvalue())

    def _files(self, pattern: str) -> list[Path]:
        return [path for path in self.path.iterdir() if re.fullmatch(pattern, path.name)]


def is_rung(epoch: int) -> bool:
    """Whether an epoch is 1, 2 or 5 times a power of 10."""
    return str(epoch).rstrip("0") in ("1", "2", "5")


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the records of a history.jsonl; ignore an incomplete last line."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(record: StepRecord) -> str:
    """Convert a record to JSON; NaN (a bad loss, or a quarter without a t) becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({k: plain(v) for k, v in record.to_dict().items()}) + "\n"
