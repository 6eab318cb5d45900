"""Averaged weights (EMA), from which samples are drawn: they vary less than the latest weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def ema_decay_at(step: int, decay: float) -> float:
    """Compute the decay, with a warm-up that forgets the random first weights quickly.

        decay_k = min(decay, (1 + k) / (10 + k))

    Args:
        step: updates made, from 1.
        decay: the decay after warm-up, in 0..1.
    Source: the rule of TensorFlow's ExponentialMovingAverage(num_updates=...).
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """Update the averaged weights in place: ema = decay * ema + (1 - decay) * weights.

    Buffers are tables, not weights: they are copied.
    """
    average = get_ema_multi_avg_fn(decay)  # of torch, for all parameters at once
    average([*ema_model.parameters()], [*model.parameters()], None)  # type: ignore[arg-type]
    for kept, new in zip(ema_model.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
