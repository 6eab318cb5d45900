"""What a step reports: numbers on the device first, a `StepRecord` once they have been read."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class StepRecord:
    """What one optimiser step reports.

    Attributes:
        step: number of the step, from 1.
        epoch: the epoch that it belongs to, from 0.
        loss: mean squared error of its batch.
        lr: learning rate that it used.
        images_per_second: pictures trained on per second so far; what the caller, saving and
            sampling take is left out.
        quarters: the loss for t in each quarter of 1..T; NaN where the batch drew no such t.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    images_per_second: float
    quarters: tuple[float, ...] = ()


class Report(NamedTuple):
    """A batch's loss and gradient, read from the device.

    Attributes:
        pictures: how many, of all processes.
        loss: their mean squared error.
        quarters: the same for t in each quarter of 1..T.
        length: of the gradient, before clipping.
        stop: whether a process was asked to stop.
    """

    pictures: int
    loss: float
    quarters: tuple[float, ...]
    length: float
    stop: bool

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss + self.length)


def read(rows: Tensor) -> list[Report]:
    """Wait for the device and take its numbers.

    Args:
        rows: (steps, 10): for t in each quarter the sum of the losses, four numbers, and how many
            they are, four numbers; how many processes are to stop; the gradient's length.
    """
    reports = []
    for values in rows.tolist():
        sums, counts, stop, length = values[:4], values[4:8], values[8], values[9]
        quarters = (s / n if n else math.nan for s, n in zip(sums, counts, strict=True))
        pictures = round(sum(counts))
        reports.append(Report(pictures, sum(sums) / pictures, tuple(quarters), length, stop > 0))
    return reports


class Speed:
    """Pictures a second, without the time between a `count` and the next `go`."""

    def __init__(self) -> None:
        self._pictures, self._seconds = 0, 0.0
        self.go()

    def go(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def count(self, pictures: int) -> float:
        """Note the pictures since the last call, or since `go`; returns the speed so far."""
        now = time.perf_counter()
        self._pictures += pictures
        self._seconds, self._started = self._seconds + now - self._started, now
        return self._pictures / self._seconds
