"""The history on disk while a run goes on: JSON lines, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm_helpers.training import files


class Logbook:
    """Writes each record to `history.jsonl`, one line a step.

    Args:
        out_dir: folder of the run; None writes nothing.
        every: records that are written at once.
    """

    def __init__(self, out_dir: Path | None, every: int = 20) -> None:
        self.path = None if out_dir is None else out_dir / "history.jsonl"
        self.every = every
        self._waiting: list[Any] = []
        self._board: Any = None

    def start(self, history: Sequence[Any]) -> None:
        """Make the file hold exactly this history: a resumed run drops what it will do again."""
        self._waiting = []
        if self.path is not None:
            files.write_whole(self.path, "".join(map(_line, history)).encode())
            if self._board is None and importlib.util.find_spec("tensorboard"):
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self.path.parent / "tensorboard"))

    def write(self, record: Any) -> None:
        """Note one step; it reaches the file with the next `every` or `flush`."""
        if self.path is None:
            return
        self._waiting.append(record)
        if self._board is not None:
            for name in ("loss", "lr", "images_per_second"):
                self._board.add_scalar(name, getattr(record, name), record.step)
            for k, value in enumerate(record.quarters):
                if not math.isnan(value):
                    self._board.add_scalar(f"loss of t in quarter {k + 1}", value, record.step)
        if len(self._waiting) >= self.every:
            self.flush()

    def pictures(self, grid: Tensor, step: int) -> None:
        """A sample grid, (3, H, W) in 0..1, for TensorBoard."""
        if self._board is not None:
            self._board.add_image("samples", grid, step)

    def flush(self) -> None:
        """Bring everything noted so far into the file."""
        if self.path is not None and self._waiting:
            lines = "".join(map(_line, self._waiting)).encode()
            try:
                with open(self.path, "ab") as file:
                    file.write(lines)
            except OSError as error:
                raise OSError(files.not_written(self.path, len(lines), error)) from error
            self._waiting = []
        if self._board is not None:
            self._board.flush()


def _line(record: Any) -> str:
    """JSON has no NaN: a quarter of t that its batch did not draw is null."""
    quarters = [None if math.isnan(value) else value for value in record.quarters]
    return json.dumps(vars(record) | {"quarters": quarters}) + "\n"
