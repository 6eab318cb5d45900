"""The progress of `fit`: a bar in a terminal or notebook, a line every half minute elsewhere."""

from __future__ import annotations

import math
import sys
import time
from datetime import timedelta

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
        from tqdm.auto import tqdm

        self.total, self.quiet, self.smooth = total, quiet, math.nan
        hidden = quiet or not _somebody_watches()
        self.bar = tqdm(total=total, initial=step, unit="step", disable=hidden)
        self.first, self.started = step, time.monotonic()
        self.said = self.started
        self._unread: list[StepRecord] = []

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def show(self, record: StepRecord) -> None:
        """Count one step; the numbers beside the bar change every ten."""
        if self.quiet:
            return
        self._unread.append(record)
        self.bar.update()
        speed = f"{record.images_per_second:.0f}"
        if not self.bar.disable:
            if record.step % EVERY == 0 or record.step == self.total:
                self._average()
                shown = {"loss": f"{record.loss:.4f}", "smooth": f"{self.smooth:.4f}"}
                self.bar.set_postfix(shown | {"images/s": speed})
        elif time.monotonic() - self.said >= SECONDS:
            self.said = time.monotonic()
            self._average()
            seconds = (self.said - self.started) / (record.step - self.first)  # a step
            left = timedelta(seconds=round(seconds * (self.total - record.step)))
            line = f"step {record.step:,} of {self.total:,}: loss {self.smooth:.4f}"
            print(f"{line}, {speed} images/s, {left} left", file=sys.stderr, flush=True)

    def _average(self) -> None:
        """Add the losses since the last call to the average, without those of bad batches."""
        for loss in (record.loss for record in self._unread if record.finite):
            self.smooth = loss if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * loss
        self._unread = []


def _somebody_watches() -> bool:
    """Whether a bar that redraws itself makes sense: in a terminal, or in Jupyter."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    return sys.stderr.isatty() or bool(kernel and kernel.ZMQInteractiveShell.initialized())
