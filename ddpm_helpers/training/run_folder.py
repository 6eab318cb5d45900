"""The folder of a training run: its files, and a lock that keeps other processes out."""

from __future__ import annotations

import io
import json
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.config_file import data_table
from ddpm_helpers.files import prepare_folder, write_atomic
from ddpm_helpers.training import checkpoint
from ddpm_helpers.training.metrics import StepRecord
from ddpm_helpers.training.training_data import TrainingData

WEIGHTS = "weights.safetensors"
HISTORY = "history.jsonl"
LOCK = ".lock"  # locked by the operating system while a process trains in the folder
# A folder with one of these files holds a run; config.toml and history.jsonl alone do not count.
RESULTS = r"checkpoint(-previous)?\.pt|weights(_epoch_\d+)?\.safetensors|samples_epoch_\d+\.png"


class RunFolder:
    """The folder of one training run, with these files.

        config.toml                  the settings
        checkpoint.pt                the newest checkpoint; checkpoint-previous.pt the one before
        weights.safetensors          the averaged weights of the newest checkpoint
        weights_epoch_0005.safetensors …   those of epoch 1, 2, 5, 10, …, if config.keep_weights
        history.jsonl                the records of all updates up to the newest checkpoint
        samples_epoch_0001.png …     sample grids

    Args:
        path: the folder; made if it does not exist.
        overwrite: when training starts, remove the run that the folder holds.
    Attributes:
        is_ours: whether the files in the folder belong to this run.
        saved_step, saved_at: step of this run's newest checkpoint, and when it was written or
            loaded, in seconds of time.monotonic(). Before the first: None, and minus infinity.
    Raises:
        OSError: the folder is not writable.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path, self.overwrite = prepare_folder(path), overwrite
        self.is_ours = False
        self.saved_step: int | None = None
        self.saved_at = float("-inf")
        self._known_time: int | None = None  # when this run's checkpoint.pt was written

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Lock the folder for this run until the block ends or the process dies.

        Blocks may be nested. The first block removes an old run if `overwrite` is True.

        Raises:
            BlockingIOError: another process is training in the folder.
            FileExistsError: the folder holds another run and `overwrite` is False, or another run
                has written a checkpoint into it since this one last did.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / LOCK, is_singleton=True)  # one lock per process and folder
        newly_locked = not lock.is_locked
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
            if newly_locked and self._checkpoint_time() not in (None, self._known_time):
                self.is_ours = False  # another run has written checkpoint.pt
            if not self.is_ours:
                self._take()
            yield
        finally:
            lock.release()

    def _take(self) -> None:
        """Make the folder this run's: remove or refuse the run that it holds."""
        if self.overwrite:
            for path in self._results():
                path.unlink()
        else:
            self.refuse_another_run()
        self.is_ours, self.overwrite = True, False  # overwrite removes only what was there before

    def refuse_another_run(self) -> None:
        """Raise FileExistsError if the folder holds a run."""
        if results := self._results():
            raise FileExistsError(
                f"out_dir {self.path} already holds a run ({results[0].name}): continue it with "
                "--resume or .resume(), choose another folder, or replace it with --overwrite or "
                "overwrite=True"
            )

    def _results(self) -> list[Path]:
        return sorted(path for path in self.path.iterdir() if re.fullmatch(RESULTS, path.name))

    def write_settings(self, config: TrainConfig, dataset: TrainingData) -> None:
        """Write config.toml: the settings, and the arguments that open the data again."""
        settings = config.to_toml() + data_table(getattr(dataset, "settings", {}))
        write_atomic(self.path / "config.toml", settings.encode())

    def write_history(self, history: Sequence[StepRecord]) -> None:
        """Write history.jsonl, one record per line; NaN and infinity become null."""
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in history)
        write_atomic(self.path / HISTORY, re.sub("NaN|-?Infinity", "null", lines).encode())

    def write_grid(self, grid: Tensor, epoch: int) -> None:
        """Write a sample grid, (3, H, W) in 0..1, as a PNG."""
        from torchvision.utils import save_image

        content = io.BytesIO()
        save_image(grid, content, format="png")
        write_atomic(self.path / f"samples_epoch_{epoch:04d}.png", content.getvalue())

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write checkpoint.pt, and keep the previous one; errors as for `checkpoint.write`."""
        checkpoint.write(self.path, state)
        self.note_saved(state["step"])

    def note_saved(self, step: int) -> None:
        """Note that checkpoint.pt was written or loaded by this run, and holds this step."""
        self.is_ours, self.overwrite = True, False
        self.saved_step, self.saved_at = step, time.monotonic()
        self._known_time = self._checkpoint_time()

    def _checkpoint_time(self) -> int | None:
        path = self.path / checkpoint.CHECKPOINT
        return path.stat().st_mtime_ns if path.exists() else None


def in_1_2_5_series(epoch: int) -> bool:
    """Return whether an epoch is one of 1, 2, 5, 10, 20, 50, …"""
    return str(epoch).rstrip("0") in ("1", "2", "5")


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the records of a history.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
