"""The progress of `fit`: a bar in a terminal or notebook, a line every half minute elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

from ddpm_helpers.training.metrics import StepRecord

SECONDS = 30.0  # seconds between two lines without a terminal, as in a job's log


def say(line: str) -> None:
    """Print a line on stderr, unless stderr is closed or missing."""
    with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: a signal interrupts a print
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)


def show_progress(
    records: Iterator[StepRecord], step: int, total: int, *, quiet: bool
) -> Iterator[StepRecord]:
    """Pass on the records of updates, and show update, time left, mean loss and images per second.

    Args:
        step: number of updates made before.
        total: number of updates in the whole run.
        quiet: show nothing.
    """
    from tqdm.auto import tqdm

    redraws = not quiet and _can_redraw()
    mean, started = math.nan, time.monotonic()
    said = started
    with tqdm(initial=step, total=total, unit="step", disable=not redraws) as bar:
        for made, record in enumerate(records, start=1):
            if record.finite:
                mean = record.loss if math.isnan(mean) else 0.98 * mean + 0.02 * record.loss
            speed = f"{record.images_per_second:.0f}"
            if redraws:
                bar.set_postfix({"loss": f"{mean:.4f}", "images/s": speed}, refresh=False)
                bar.update()
            elif not quiet and time.monotonic() - said >= SECONDS:
                said = time.monotonic()
                left = timedelta(seconds=round((said - started) / made * (total - record.step)))
                line = f"step {record.step:,} of {total:,}: loss {mean:.4f}"
                say(f"{line}, {speed} images/s, {left} left")
            yield record


def _can_redraw() -> bool:
    """Return whether a progress bar can be shown: in a terminal or in Jupyter."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return terminal or bool(kernel and kernel.ZMQInteractiveShell.initialized())
