"""Bugs to practise on: sampling loops and networks with one fault each, by name.

Notebook 10 uses them, and the tests require that the checks find them. Nothing else uses them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

LOOPS = {
    "": "none",
    "wrong kind": "the output, which is v, is used as eps",
    "last noise": "DDPM's noise is added at the last step too",
    "clipped mean": "x_{t-1} is clipped instead of x_0",
    "direction": "sqrt(1 - alpha_bar) of the direction belongs to t, not to s",
    "one ahead": "the network is given t + 1",
    "leading": "the walk begins one step below T",
    "wraps": "alpha_bar[-1] at the last step",
    "in 0..1": "the images are returned in 0..1",
}


def loop(diffusion: Any, bug: str = "", *, steps: int = 50, ddpm: bool = False) -> Callable:
    """A typical sampling loop with one mistake.

    Args:
        diffusion: a `DiffusionUtils`.
        bug: one of `LOOPS`.
        steps: network calls.
        ddpm: DDPM's steps with sigma^2 = beta; DDIM's if False.
    Returns:
        `sample(model, x_T) -> x_0`, for `model(x_t, t)`.
    Raises:
        ValueError: no such bug.
    """
    if bug not in LOOPS:
        raise ValueError(f"unknown bug {bug!r}; choose from {', '.join(filter(None, LOOPS))}")
    bar, T = diffusion.alpha_bar.tolist(), diffusion.T
    top = T * (steps - 1) // steps if bug == "leading" else T
    ts = [top * i // steps for i in range(steps, -1, -1)]

    def sample(model: Callable[..., Tensor], x: Tensor) -> Tensor:
        for t, s in pairwise(ts):
            told = t + 1 if bug == "one ahead" else t
            out = model(x, torch.full((len(x),), told, device=x.device))
            x_0 = (x - math.sqrt(1 - bar[t]) * out) / math.sqrt(bar[t])
            if bug != "wrong kind":
                x_0 = diffusion.predict_x_0(out, x, torch.full((len(x),), t))
            x_0 = x_0.clamp(-1, 1) if bug != "clipped mean" else x_0
            eps = (x - math.sqrt(bar[t]) * x_0) / math.sqrt(1 - bar[t])
            to = bar[-1] if bug == "wraps" and s == 0 else bar[s]
            var = (1 - to) / (1 - bar[t]) * (1 - bar[t] / to) if ddpm and s > 0 else 0.0
            along = 1 - bar[t] if bug == "direction" else 1 - to - var
            x = math.sqrt(to) * x_0 + math.sqrt(max(0.0, along)) * eps
            x = x.clamp(-1, 1) if bug == "clipped mean" and s > 0 else x
            if ddpm and (s > 0 or bug == "last noise"):
                x = x + math.sqrt(var if s > 0 else 1 - bar[t]) * torch.randn_like(x)
        return (x + 1) / 2 if bug == "in 0..1" else x

    return sample


NETWORKS = {
    "never loaded": "fresh weights",
    "t ignored": "the time embedding is that of t = 0 for every t",
    "y ignored": 'every class has the row of "no label"',
    "null untrained": 'the row of "no label" is what it was before training',
    "kernel 3": "the last transposed convolution has 3 taps at stride 2",
    "overflow": "values between two layers exceed what float16 holds",
    "slow average": "an average that is still mostly the initial weights",
    "tint": "the first colour's bias is shifted",
}


def spoil(net: nn.Module, bug: str) -> Any:
    """A copy of a `DiffusionNet` with one fault.

    Args:
        net: the network, which stays as it is.
        bug: one of `NETWORKS`.
    Raises:
        ValueError: no such bug.
    """
    if bug not in NETWORKS:
        raise ValueError(f"unknown bug {bug!r}; choose from {', '.join(NETWORKS)}")
    bad: Any = copy.deepcopy(net)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _spoil(bad, bug)
    return bad


def _spoil(bad: Any, bug: str) -> None:
    if bug in ("never loaded", "slow average"):
        fresh = type(bad)(**bad.config)
        share = 1.0 if bug == "never loaded" else 0.6
        for p, first in zip(bad.parameters(), fresh.parameters(), strict=True):
            p.lerp_(first.to(p), share)
    elif bug == "t ignored":
        bad.time.register_forward_pre_hook(lambda module, args: (torch.full_like(args[0], 250),))
    elif bug == "y ignored":
        bad.label.weight.copy_(bad.label.weight[:1].expand_as(bad.label.weight))
    elif bug == "null untrained":
        bad.label.weight[0] = 3 * torch.randn_like(bad.label.weight[0])
    elif bug == "kernel 3":
        bad.decoder.to_pixels.weight[..., 3, :] = 0
        bad.decoder.to_pixels.weight[..., :, 3] = 0
    elif bug == "overflow":
        block = bad.encoder.stages[0].block1
        block.conv1.weight.mul_(1e6)  # the norm after it removes the factor again
        block.conv1.bias.mul_(1e6)
    else:
        bad.decoder.to_pixels.bias[0] += 0.3
