"""Averaged weights (EMA): smoother than the latest ones, and used for sampling."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def ema_decay_at(step: int, decay: float) -> float:
    """Decay with warm-up, so that the random first weights are forgotten quickly.

        decay_k = min(decay, (1 + k) / (10 + k))

    Args:
        step: updates made, from 1.
        decay: the decay after warm-up, in 0..1.
    Source: the rule of TensorFlow's ExponentialMovingAverage(num_updates=...).
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * weights, in place, for every parameter.

    Buffers are tables, not weights: they are copied.

    Args:
        ema_model, model: the averaged weights and the current ones.
        decay: in 0..1.
    """
    average = get_ema_multi_avg_fn(decay)  # of torch, for all parameters at once
    average([*ema_model.parameters()], [*model.parameters()], None)  # type: ignore[arg-type]
    for kept, new in zip(ema_model.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
