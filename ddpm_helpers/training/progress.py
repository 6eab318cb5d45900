"""The progress of `fit`: a bar in a terminal or notebook, a line every half minute elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from ddpm_helpers.training.metrics import StepRecord

SECONDS = 30.0  # between two lines where nobody watches, as in a job's log
EVERY = 10  # steps between two reads of the loss, each of which makes a GPU wait


class Progress:
    """Shows steps done and left, time left, the loss and its average, images per second.

    Args:
        step: steps done so far.
        total: steps of the whole run.
        quiet: show nothing.
    """

    def __init__(self, step: int, total: int, *, quiet: bool = False) -> None:
        self.total, self.quiet = total, quiet
        self.smooth: float | None = None
        self.bar: Any = None
        if not quiet and _somebody_watches():
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, initial=step, unit="step")
        self.first, self.started = step, time.monotonic()
        self.said = self.started
        self._unread: list[StepRecord] = []

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, record: StepRecord) -> None:
        """Count one step; the numbers beside the bar change every ten."""
        if self.quiet:
            return
        self._unread.append(record)
        read = record.step % EVERY == 0 or record.step == self.total
        if self.bar is not None:
            self.bar.update()
            if read:
                self._average()
                smooth, rate = self.smooth or math.nan, record.images_per_second
                shown = {"loss": f"{record.loss:.4f}", "smooth": f"{smooth:.4f}"}
                self.bar.set_postfix(shown | {"images/s": f"{rate:.0f}"})
        elif time.monotonic() - self.said >= SECONDS:
            self.said = time.monotonic()
            self._average()
            print(self._line(record), file=sys.stderr, flush=True)

    def _average(self) -> None:
        """Add the losses since the last call to the average, without those of bad batches."""
        for loss in (record.loss for record in self._unread if record.finite):
            self.smooth = loss if self.smooth is None else 0.98 * self.smooth + 0.02 * loss
        self._unread = []

    def _line(self, record: StepRecord) -> str:
        seconds = (self.said - self.started) / (record.step - self.first)  # a step
        left = round(seconds * (self.total - record.step))
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        return (
            f"step {record.step:,} of {self.total:,}: loss {self.smooth or math.nan:.4f}, "
            f"{record.images_per_second:.0f} images/s, {clock} left"
        )


def _somebody_watches() -> bool:
    """Whether a bar that redraws itself makes sense: in a terminal, or in Jupyter."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    return sys.stderr.isatty() or (kernel is not None and _is_kernel(kernel))


def _is_kernel(module: Any) -> bool:
    return module.ZMQInteractiveShell.initialized()
