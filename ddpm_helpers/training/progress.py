"""The progress of `fit`: a bar in a terminal or notebook, a line every half minute elsewhere."""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import TextIO

from ddpm_helpers.training.metrics import StepRecord

SECONDS = 30.0  # seconds between two lines without a terminal, as in a job's log
EVERY = 10  # updates between two refreshes of the numbers beside the bar


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line, on stderr by default; ignore a closed or missing stream."""
    with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: a signal interrupted a print
        if (stream := stream or sys.stderr) is not None:
            print(line, file=stream, flush=True)


class Progress:
    """Show updates done and left, time left, loss, mean loss and images per second.

    Args:
        step: number of updates done so far.
        total: number of updates in the whole run.
        quiet: if True, show nothing.
    """

    def __init__(self, step: int, total: int, *, quiet: bool = False) -> None:
        from tqdm.auto import tqdm

        self.total, self.quiet, self.smooth = total, quiet, math.nan
        hidden = quiet or not _can_redraw()
        self.bar = tqdm(total=total, initial=step, unit="step", disable=hidden)
        self.made, self.started = 0, time.monotonic()
        self.said = self.started

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def show(self, record: StepRecord) -> None:
        """Count one update."""
        if record.finite:
            new = math.isnan(self.smooth)
            self.smooth = record.loss if new else 0.98 * self.smooth + 0.02 * record.loss
        speed = f"{record.images_per_second:.0f}"
        self.bar.update()
        self.made += 1  # the step may go back: a `watch` may resume an older checkpoint
        if not self.bar.disable and (record.step % EVERY == 0 or record.step == self.total):
            shown = {"loss": f"{record.loss:.4f}", "smooth": f"{self.smooth:.4f}"}
            self.bar.set_postfix(shown | {"images/s": speed})
        elif self.bar.disable and not self.quiet and time.monotonic() - self.said >= SECONDS:
            self.said = time.monotonic()
            seconds = (self.said - self.started) / self.made  # seconds per update
            left = timedelta(seconds=round(seconds * (self.total - record.step)))
            line = f"step {record.step:,} of {self.total:,}: loss {self.smooth:.4f}"
            say(f"{line}, {speed} images/s, {left} left")


def _can_redraw() -> bool:
    """Whether a progress bar can be shown: in a terminal or in Jupyter."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return terminal or bool(kernel and kernel.ZMQInteractiveShell.initialized())
