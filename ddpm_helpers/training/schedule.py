"""The learning rate: a function of the step number, so that a run can go on from any step."""

from __future__ import annotations

import math

from ddpm_helpers.config import TrainConfig


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up to config.lr, then half a cosine down to 0 at the last step.

    Args:
        step: number of the step, from 1 to total.
        total: steps of the whole run.
    Source: Loshchilov & Hutter 2017, eq. 5, one cycle.
    """
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.lr_schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
