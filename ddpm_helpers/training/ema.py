"""Averaged weights (EMA): smoother than the latest ones, and used for sampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ema_decay_at(step: int, decay: float) -> float:
    """Decay with warm-up, so that the random first weights are forgotten quickly.

        decay_k = min(decay, (1 + k) / (10 + k))

    Args:
        step: optimiser steps taken, from 1.
        decay: the decay after warm-up, in 0..1.
    Source: the rule of TensorFlow's ExponentialMovingAverage(num_updates=...).
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(
    ema_model: nn.Module, model: nn.Module, decay: float, finite: Tensor | None = None
) -> None:
    """ema = decay * ema + (1 - decay) * weights, in place, for every parameter.

    Buffers are tables, not weights: they are copied, never averaged.

    Args:
        ema_model, model: the averaged weights and the current ones.
        decay: in 0..1.
        finite: scalar bool on their device, not waited for; False leaves the average as it is.
    """
    averaged: list[Tensor] = list(ema_model.parameters())
    current: list[Tensor] = list(model.parameters())
    if finite is None:
        torch._foreach_lerp_(averaged, current, 1 - decay)
    else:
        torch._foreach_lerp_(averaged, current, [finite * (1 - decay)] * len(averaged))
    for kept, new in zip(ema_model.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
