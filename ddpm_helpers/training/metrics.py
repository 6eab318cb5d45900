"""The record of an update, and the check for batches that are not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

MOST_BAD = 5  # stop after this many batches in a row that are not finite


@dataclass(frozen=True)
class StepRecord:
    """The numbers of one update.

    Attributes:
        step: number of the update, from 1.
        epoch: number of its epoch, from 0.
        loss: mean loss of its batch.
        lr: learning rate that it used.
        images_per_second: images of the batch, divided by the seconds that it took to read them
            and make the update; NaN if you call `train_step` yourself.
        grad_norm: norm of the gradient before clipping.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    images_per_second: float = math.nan
    grad_norm: float = math.nan

    @property
    def finite(self) -> bool:
        """Whether loss and gradient were finite; if not, the batch was skipped."""
        return math.isfinite(self.loss + self.grad_norm)


def check_finite(history: Sequence[StepRecord]) -> None:
    """Warn if the last batch was not finite.

    Raises:
        FloatingPointError: none of the last five batches was finite.
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
