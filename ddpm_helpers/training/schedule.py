"""Learning rate and draws: functions of the step number, so that a run can go on from any step."""

from __future__ import annotations

import math

import numpy as np
import torch

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


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """A generator for one step: the same for the same (seed, step), whatever ran before."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))


def rows_of(part: int, parts: int, batch: int) -> slice:
    """Rows of a batch that one of several equal parts takes, in the order of the batch.

    Every process and every accumulation step takes one part, so each picture keeps the t and eps
    of its place in the whole batch, whatever the number of processes.
    """
    return slice(part * batch // parts, (part + 1) * batch // parts)
