"""The record of an update, and the check for batches that are not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_BAD = 5  # stop after this many batches in a row that are not finite


@dataclass(frozen=True)
class StepRecord:
    """The numbers of one update.

    Attributes:
        step: number of the update, from 1.
        epoch: number of its epoch, from 0.
        loss: mean loss of its batch.
        lr: learning rate that it used.
        images_per_second: images trained on per second so far, without the time of your own code,
            of saving and of sampling. NaN outside `TrainingPipeline.steps`.
        quarters: the loss for t in each quarter of 1..T; NaN where the batch drew no such t.
        grad_norm: norm of the gradient before clipping.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    images_per_second: float = math.nan
    quarters: tuple[float, ...] = ()
    grad_norm: float = math.nan

    @property
    def finite(self) -> bool:
        """Whether loss and gradient were finite; if not, the batch was skipped."""
        return math.isfinite(self.loss + self.grad_norm)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as history and checkpoints hold them."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> StepRecord:
        """The record whose values `to_dict` returned."""
        return cls(**saved | {"quarters": tuple(saved["quarters"])})


def add_by_quarter(table: Tensor, losses: Tensor, t: Tensor, T: int, weight: float = 1.0) -> None:
    """Add losses to a table, in place: a column for each quarter of 1..T.

    Args:
        table: (2, 4) float32, the sums of the losses and their counts.
        losses: (n,), one for each image.
        t: timesteps, (n,) int64 in 1..T.
        T: number of timesteps.
        weight: how many images each loss counts as.
    """
    losses = losses.detach().float()
    quarter = ((t - 1) * 4 // T).to(table.device)  # (n,) in 0..3
    table[0].index_add_(0, quarter, losses * weight)
    table[1].index_add_(0, quarter, torch.full_like(losses, weight))


def mean_losses(table: Tensor) -> tuple[float, tuple[float, ...]]:
    """Return the mean loss of a table of `add_by_quarter`, and the mean of each quarter."""
    sums, counts = table.tolist()  # waits for a GPU
    quarters = tuple(s / n if n else math.nan for s, n in zip(sums, counts, strict=True))
    return sum(sums) / sum(counts), quarters


def check_finite(history: Sequence[StepRecord]) -> None:
    """Warn if the last batch was not finite.

    Args:
        history: the records so far, at least one.
    Raises:
        FloatingPointError: the last five batches were not finite.
    """
    record = history[-1]
    if record.finite:
        return
    what = f"step {record.step}: loss {record.loss}, norm of the gradient {record.grad_norm}"
    if len(history) < MOST_BAD or any(one.finite for one in history[-MOST_BAD:]):
        warnings.warn(f"{what}: batch skipped, the weights are unchanged", stacklevel=3)
        return
    raise FloatingPointError(
        f"{what}: the last of {MOST_BAD} such batches in a row, all skipped. "
        f"Try a lower lr than {record.lr:.3g}, or precision='fp32'"
    )
