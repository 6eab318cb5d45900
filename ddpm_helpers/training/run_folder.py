"""A run's folder: its files, when they are written, and a lock against a second process."""

from __future__ import annotations

import io
import json
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
from ddpm_helpers.files import user_path, write_atomic
from ddpm_helpers.training import checkpoint
from ddpm_helpers.training.metrics import StepRecord
from ddpm_helpers.training.training_data import TrainingData

WEIGHTS = "weights.safetensors"
HISTORY = "history.jsonl"
LOCK = ".lock"  # locked by the operating system while a process trains in the folder
STAMP = 4096  # bytes at the end of a checkpoint that tell it from others
MINUTES = 10.0  # between two checkpoints, in epochs that take longer
# A folder with one of these files holds a run.
RESULTS = r"checkpoint(-previous)?\.pt|weights(_epoch_\d+)?\.safetensors|samples_epoch_\d+\.png"
OURS = rf"{RESULTS}|history\.jsonl|config\.toml"


class RunFolder:
    """The files of one run.

        config.toml                  the settings
        checkpoint.pt                the newest checkpoint; checkpoint-previous.pt the one before
        weights.safetensors          the averaged weights of the newest checkpoint
        weights_epoch_0005.safetensors …   those of epoch 1, 2, 5, 10, …, if config.keep_weights
        history.jsonl                the records of all updates up to the newest checkpoint
        samples_epoch_0001.png …     sample grids

    Args:
        path: the folder.
        config: decides when files are written.
        overwrite: remove the run in the folder when training starts.
    Attributes:
        saved_step: step of checkpoint.pt; None if it is missing or damaged.
        is_ours: whether the folder holds this run.
    """

    def __init__(self, path: str | Path, config: TrainConfig, *, overwrite: bool = False) -> None:
        self.path, self.config, self.overwrite = user_path(path), config, overwrite
        self.is_ours = False
        self.saved_step: int | None = None
        self._save_at = 0.0  # time of the next checkpoint; the first one is due at once
        self._known = b""  # stamp of the checkpoint.pt of this run

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Lock the folder for this run; the lock ends with the process.

        The first time, an old run is removed if `overwrite` is True.

        Raises:
            BlockingIOError: another process is training in the folder.
            FileExistsError: the folder holds another run and `overwrite` is False, or another
                training has written a checkpoint into it since this one last did.
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
            why = f"{self.path} cannot be locked ({error})"
            warnings.warn(f"{why}: make sure that only one process trains in it", stacklevel=4)
        try:
            if self._stamp() not in (b"", self._known):
                self.is_ours = False  # another training has written here
            if not self.is_ours:
                self._take()
            yield
        finally:
            lock.release()

    def _take(self) -> None:
        """Mark the folder as this run's, and remove an old run if `overwrite` is True."""
        if self.overwrite:
            for path in self._files(OURS):
                path.unlink()
        else:
            self.refuse_another_run()
        self.is_ours, self.overwrite = True, False  # whatever comes later is not overwritten

    def refuse_another_run(self) -> None:
        """Raise FileExistsError if the folder holds checkpoints, weights or sample grids."""
        if results := sorted(path.name for path in self._files(RESULTS)):
            raise FileExistsError(
                f"out_dir {self.path} holds a run already ({results[0]}): continue it with "
                "--resume or .resume(), choose another folder, or replace it with --overwrite or "
                "overwrite=True"
            )

    def due(self, step: int, steps_per_epoch: int, total_steps: int) -> set[str]:
        """List what to write after an update: "checkpoint", "grid", "kept weights".

        A checkpoint is due after the first update, to test early that saving works, then every ten
        minutes and every `save_every` epochs; a grid every `sample_every` epochs. After the last
        update both are due, but never a grid if `sample_every` is 0.
        """
        config, (epoch, inside) = self.config, divmod(step, steps_per_epoch)

        def every(epochs: int) -> bool:
            return step == total_steps or (inside == 0 and epochs > 0 and epoch % epochs == 0)

        found = {
            "checkpoint": time.monotonic() >= self._save_at or every(config.save_every),
            "grid": config.sample_every > 0 and every(config.sample_every),
            "kept weights": config.keep_weights and inside == 0 and is_rung(epoch),
        }
        return {name for name, is_due in found.items() if is_due}

    def write_settings(self, dataset: TrainingData) -> None:
        """Write config.toml: the settings, and what opens the data again."""
        settings = self.config.to_toml() + data_table(getattr(dataset, "settings", {}))
        write_atomic(self.path / "config.toml", settings.encode())

    def write_history(self, history: Sequence[StepRecord]) -> None:
        """Write history.jsonl, one record a line."""
        write_atomic(self.path / HISTORY, "".join(map(_line, history)).encode())

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write checkpoint.pt, and keep the previous one.

        Raises:
            OSError: the disk is full or not writable; the previous checkpoint is untouched.
        """
        checkpoint.write(self.path, state, keep=self.saved_step is not None)
        self.note_saved(state["step"])

    def note_saved(self, step: int | None) -> None:
        """Note that checkpoint.pt belongs to this run, and start the ten minutes again.

        Args:
            step: its step; None if it is missing or damaged.
        """
        self.is_ours, self.saved_step, self._known = True, step, self._stamp()
        self._save_at = time.monotonic() + 60 * MINUTES

    def _stamp(self) -> bytes:
        """Return the end of checkpoint.pt, which holds checksums of its tensors; b"" without one.

        The time of the file would not do: some network drives change it later.
        """
        path = self.path / checkpoint.CHECKPOINT
        if not path.exists():
            return b""
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - STAMP))
            return file.read()

    def write_grid(self, grid: Tensor, epoch: int) -> None:
        """Write a sample grid, (3, H, W) in 0..1, as a PNG."""
        from torchvision.utils import save_image

        content = io.BytesIO()
        save_image(grid, content, format="png")
        write_atomic(self.path / f"samples_epoch_{epoch:04d}.png", content.getvalue())

    def _files(self, pattern: str) -> list[Path]:
        return [path for path in self.path.iterdir() if re.fullmatch(pattern, path.name)]


def is_rung(epoch: int) -> bool:
    """Whether an epoch is 1, 2 or 5 times a power of 10."""
    return str(epoch).rstrip("0") in ("1", "2", "5")


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the records of a history.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _line(record: StepRecord) -> str:
    """Convert a record, which holds only numbers, to JSON; NaN and infinity become null."""
    return re.sub("NaN|-?Infinity", "null", json.dumps(record.to_dict())) + "\n"
