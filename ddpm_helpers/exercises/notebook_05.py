"""Exercises of notebook 05: the parts of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise
from ddpm_helpers.training import ema_decay_at, learning_rate

# ---- 5.1: the loss ---------------------------------------------------------------------------


def _guess(x_t: Tensor, t: Tensor) -> Tensor:
    """A stand-in for the network, whose output depends on both of its inputs."""
    return (t / 500).view(-1, 1, 1, 1) * x_t + 0.1


def _loss_of(answer: Answer, *steps: int) -> Tensor:
    """The result of an answer for small pictures at the given steps."""
    x_0, eps = noise(2, len(steps), 3, 4, 4, seed=5)
    return answer(_guess, 0.5 * x_0, torch.tensor(steps), eps, DiffusionUtils(500).alpha_bar)


def _eps_loss(
    model: Answer, x_0: Tensor, t: Tensor, eps: Tensor, alpha_bar: Tensor, *,
    shown: str = "x_t", target: str = "eps",
    weight: Callable[..., Tensor] = Tensor.sqrt, reduce: Callable[..., Tensor] = Tensor.mean,
) -> Tensor:  # fmt: skip
    """The loss, and with other arguments its mistakes."""
    bar = alpha_bar[t].view(-1, 1, 1, 1).float()  # (B, 1, 1, 1)
    x_t = weight(bar) * x_0 + weight(1 - bar) * eps
    named = {"x_0": x_0, "x_t": x_t, "eps": eps}
    return reduce((model(named[shown], t) - named[target]).square())


# ---- 5.2: the learning rate ------------------------------------------------------------------


def _rates(answer: Answer, K: int, W: int) -> list[float]:
    """Learning rates of a run of K steps; the peak is 2, so that differences are large."""
    return [answer(k, K, 2.0, W) for k in sorted({1, W, W + 1, K // 2, K})]


def _learning_rate(k: int, K: int, lr: float, W: int) -> float:
    return learning_rate(k, K, TrainConfig(lr=lr, warmup_steps=W))


def _cosine_rate(k: int, K: int, lr: float, W: int, start: int, turns: float = 0.5) -> float:
    """Warm-up, then a cosine that counts from `start` and makes `turns` turns."""
    if k <= W:
        return lr * k / W
    return lr / 2 * (1 + math.cos(2 * math.pi * turns * (k - start) / (K - start)))


# ---- 5.3: clipping ---------------------------------------------------------------------------


def _clipped(answer: Answer, size: float) -> list[Tensor]:
    return answer([size * noise(3, 4, seed=5), size * noise(5, seed=5)], 1.0)


def _length(gradients: Sequence[Tensor]) -> float:
    return torch.cat([g.flatten() for g in gradients]).norm().item()


def _clip(gradients: Sequence[Tensor], longest: float) -> list[Tensor]:
    return [g * min(1, longest / _length(gradients)) for g in gradients]


# ---- 5.4: averaged weights -------------------------------------------------------------------


def _averaged(answer: Answer, k: int) -> Tensor:
    average, weights = noise(2, 3, 4, seed=5)
    return answer(average, weights, k, 0.999)


def _ema_step(average: Tensor, weights: Tensor, k: int, longest: float) -> Tensor:
    return average.lerp(weights, 1 - ema_decay_at(k, longest))


EXERCISES = [
    Exercise(
        "5.1",
        "the training loss",
        _eps_loss,
        [
            Trial("one picture at t = 100", lambda f: _loss_of(f, 100)),
            Trial("t = 1, 250 and 500 in one batch", lambda f: _loss_of(f, 1, 250, 500)),
        ],
        {
            "the network's input is the clean picture here; it must be x_t, equation (5.1)":
                partial(_eps_loss, shown="x_0"),
            "this uses alpha_bar where its square root belongs, equation (5.1)":
                partial(_eps_loss, weight=lambda share: share),
            "the target here is the picture; in (5.2) it is the noise eps":
                partial(_eps_loss, target="x_0"),
            "this is the sum over all values; (5.2) takes their mean, so that the loss does not "
            "grow with batch and picture":
                partial(_eps_loss, reduce=Tensor.sum),
            "all pictures get the step of the first one":
                lambda model, x_0, t, *rest: _eps_loss(model, x_0, t[:1].expand(len(t)), *rest),
        },
    ),
    Exercise(
        "5.2",
        "warm-up and cosine",
        _learning_rate,
        [
            Trial("K = 100 steps, W = 10 of warm-up", lambda f: _rates(f, 100, 10)),
            Trial("K = 30, W = 1", lambda f: _rates(f, 30, 1)),
        ],
        {
            "there is no warm-up here: the rate rises linearly over the first W steps, (5.6)":
                lambda k, K, lr, W: lr / 2 * (1 + math.cos(math.pi * (k - W) / (K - W))),
            "the cosine counts from step 0, so the rate jumps where the warm-up ends: "
            "(5.6) has (k - W) / (K - W)":
                lambda k, K, lr, W: _cosine_rate(k, K, lr, W, start=0),
            "the cosine makes a whole turn, and the rate climbs again: (5.6) has pi, not 2 pi":
                lambda k, K, lr, W: _cosine_rate(k, K, lr, W, start=W, turns=1.0),
            "1 + cos goes from 2 to 0: halve it, equation (5.6)":
                lambda k, K, lr, W: _learning_rate(k, K, lr, W) * (1 if k <= W else 2),
            "k counts from 1, so the first step has the rate lr / W; here it has 0, and "
            "is lost":
                lambda k, K, lr, W: _learning_rate(k, K, lr, W) if k > W else lr * (k - 1) / W,
        },
    ),
    Exercise(
        "5.3",
        "gradient clipping",
        _clip,
        [
            Trial("a gradient that is too long", lambda f: _clipped(f, 10.0)),
            Trial("a gradient that is short enough", lambda f: _clipped(f, 0.01)),
        ],
        {
            "each tensor is clipped alone, which turns the gradient: use one length for all":
                lambda gs, longest: [_clip([g], longest)[0] for g in gs],
            "single values are clipped, which turns the gradient: multiply all by one number":
                lambda gs, longest: [g.clamp(-longest, longest) for g in gs],
            "short gradients are made longer: the factor is at most 1":
                lambda gs, longest: [g * longest / _length(gs) for g in gs],
            "the length is the root of the sum of squares; the root is missing":
                lambda gs, longest: [g * min(1, longest / _length(gs) ** 2) for g in gs],
        },
    ),
    Exercise(
        "5.4",
        "one step of the averaged weights",
        _ema_step,
        [
            Trial("k = 1", lambda f: _averaged(f, 1)),
            Trial("k = 90", lambda f: _averaged(f, 90)),
            Trial("k = 100,000", lambda f: _averaged(f, 100_000)),
        ],
        {
            "the shares are swapped: `decay` is the share of the old average that is kept, "
            "equation (5.7)":
                lambda a, w, k, longest: _ema_step(w, a, k, longest),
            "the decay has no warm-up: the random first weights stay in the average, "
            "equation (5.7)":
                lambda a, w, k, longest: a.lerp(w, 1 - longest),
            "the larger of the two decays is taken; (5.7) takes the smaller":
                lambda a, w, k, longest: a.lerp(w, 1 - max(longest, (1 + k) / (10 + k))),
        },
    ),
]  # fmt: skip
