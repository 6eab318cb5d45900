"""The numbers that a step reports; they stay on their device until somebody reads them."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.device import to_device


class LossByQuarter:
    """The losses of a batch, added up on their device for t in each quarter of 1..T.

    Attributes:
        table: (2, 4), the sums of the losses and their counts.
    """

    def __init__(self, T: int, device: torch.device) -> None:
        self.T = T
        self.table = torch.zeros(2, 4, device=device)

    def add(self, losses: Tensor, t: Tensor, weight: float = 1.0) -> None:
        """Add losses (n,) of steps t (n,) in 1..T, each counted as `weight` images."""
        losses = losses.detach().float()
        quarter = to_device((t - 1) * 4 // self.T, losses.device)  # (n,) in 0..3
        self.table[0].index_add_(0, quarter, losses * weight)
        self.table[1].index_add_(0, quarter, torch.full_like(losses, weight))


@dataclass(frozen=True)
class Numbers:
    """The numbers of a `StepRecord`, read from the device."""

    loss: float
    quarters: tuple[float, ...]
    grad_norm: float | None


class Metrics:
    """A batch's loss and the norm of its gradient, on their device.

    Args:
        table: (2, 4), see `LossByQuarter`, summed over all processes.
        grad_norm: scalar, before clipping.
    Attributes:
        finite: scalar bool, whether loss and gradient are finite.
    """

    def __init__(self, table: Tensor, grad_norm: Tensor) -> None:
        self.table, self.grad_norm = table, grad_norm
        self.finite = (table[0].sum() + grad_norm).isfinite()

    def read(self) -> Numbers:
        """Wait for the device and return the numbers."""
        sums, counts = self.table.tolist()
        quarters = tuple(s / n if n else math.nan for s, n in zip(sums, counts, strict=True))
        return Numbers(sum(sums) / sum(counts), quarters, self.grad_norm.item())


class StepRecord:
    """What one step reports. Reading `loss`, `quarters`, `grad_norm` or `finite` waits for a GPU.

    Attributes:
        step: number of the step, from 1.
        epoch: the epoch that it belongs to, from 0.
        lr: learning rate that it used.
        images_per_second: images trained on per second so far, not counting the time of the
            caller, of saving and of sampling. NaN outside `TrainingPipeline.steps`.
        loss: mean squared error of its batch.
        quarters: the loss for t in each quarter of 1..T; NaN where the batch drew no such t.
        grad_norm: length of the gradient before clipping; None in records of the first form.
        finite: whether loss and gradient had no NaN or infinity; if they had, no weight changed.
    """

    def __init__(
        self,
        step: int,
        epoch: int,
        lr: float,
        numbers: Metrics | Numbers,
        images_per_second: float = math.nan,
    ) -> None:
        self.step, self.epoch, self.lr = step, epoch, lr
        self.images_per_second = images_per_second
        self._numbers = numbers

    def _read(self) -> Numbers:
        if isinstance(self._numbers, Metrics):
            self._numbers = self._numbers.read()
        return self._numbers

    @property
    def loss(self) -> float:
        return self._read().loss

    @property
    def quarters(self) -> tuple[float, ...]:
        return self._read().quarters

    @property
    def grad_norm(self) -> float | None:
        return self._read().grad_norm

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss + (self.grad_norm or 0.0))

    def __repr__(self) -> str:
        return f"StepRecord({', '.join(f'{k}={v!r}' for k, v in self.to_dict().items())})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as history and checkpoints hold them."""
        names = "step", "epoch", "loss", "lr", "images_per_second", "quarters", "grad_norm"
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> StepRecord:
        """The record whose values `to_dict` returned."""
        numbers = Numbers(saved["loss"], tuple(saved["quarters"]), saved.get("grad_norm"))
        return cls(saved["step"], saved["epoch"], saved["lr"], numbers, saved["images_per_second"])


class BadBatches:
    """Warns of every batch that was left out, and gives up after too many in a row.

    Args:
        most: how many in a row are too many.
    Attributes:
        unread: the records to look at with the next check.
    """

    def __init__(self, most: int) -> None:
        self.most, self.in_a_row = most, 0
        self.unread: list[StepRecord] = []

    def check(self) -> None:
        """Look at the unread records.

        Raises:
            FloatingPointError: too many in a row.
        """
        unread, self.unread = self.unread, []
        for record in unread:
            if record.finite:
                self.in_a_row = 0
                continue
            self.in_a_row += 1
            what = (
                f"step {record.step}: the loss is {record.loss}, "
                f"the length of the gradient {record.grad_norm}"
            )
            if self.in_a_row >= self.most:
                self.in_a_row = 0  # whoever trains on all the same starts a new row
                raise FloatingPointError(
                    f"{what}, {self.most} batches in a row; weights are as before. "
                    f"Try a lower lr than {record.lr:.3g} or precision='fp32'"
                )
            warnings.warn(f"{what}; batch left out, weights are as before", stacklevel=3)


class Throughput:
    """Images per second, not counting the time between a `count` and the next `go`."""

    def __init__(self) -> None:
        self._images, self._seconds, self._rate = 0, 0.0, math.nan
        self.go()

    def go(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def count(self, images: int, *, finished: bool) -> float:
        """Count the images of a step.

        Args:
            images: how many.
            finished: whether the device has been waited for, so that the elapsed time is right.
        Returns:
            The rate at the last step that was finished.
        """
        now = time.perf_counter()
        self._images += images
        self._seconds, self._started = self._seconds + now - self._started, now
        if finished:
            self._rate = self._images / self._seconds
        return self._rate
