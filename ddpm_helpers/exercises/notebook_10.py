"""Exercises of notebook 10: checks that catch a planted fault."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise

Network = Callable[[Tensor, Tensor], Tensor]
Loop = Callable[[Network, Tensor], Tensor]
BAR = DiffusionUtils(20).alpha_bar


# ---- 10.1: the range of the data ---------------------------------------------------------


def _pictures(low: float, high: float) -> Tensor:
    values = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    values.view(-1)[:2] = torch.tensor([0.0, 1.0])
    return low + (high - low) * values


RANGES = [
    Trial("values in -0.9..1", lambda f: f(_pictures(-0.9, 1))),
    Trial("values in 0..1", lambda f: f(_pictures(0, 1))),
    Trial("values in -1.8..2.4", lambda f: f(_pictures(-1.8, 2.4))),
    Trial("values in -2.1..0.4", lambda f: f(_pictures(-2.1, 0.4))),
    Trial("bright pictures in -0.2..1", lambda f: f(_pictures(-0.2, 1))),
    Trial("dark pictures in -1..-0.2", lambda f: f(_pictures(-1, -0.2))),
    Trial("values in -1..1.0000001, as rounding leaves them", lambda f: f(_pictures(-1, 1 + 1e-6))),
]


def _range(
    x: Tensor, *, largest: Callable[[Tensor], Tensor] = lambda x: x.abs().max(),
    limit: float = 1.001, is_unit: Callable[[Tensor], Tensor] = lambda x: x.min() >= 0,
) -> str:  # fmt: skip
    """The range, and with other arguments its mistakes."""
    if largest(x) > limit:
        return "beyond -1..1"
    return "0..1" if is_unit(x) else "ok"


# ---- 10.2: an oracle that answers with v -------------------------------------------------


def _asked(answer: Answer, *steps: int) -> Tensor:
    x_0, x_t = noise(2, len(steps), 3, 4, 4, seed=2)
    return answer(x_0, BAR)(x_t, torch.tensor(steps))


def _v(x_0: Tensor, x_t: Tensor, bar: Tensor) -> Tensor:
    return (bar.sqrt() * x_t - x_0) / (1 - bar).sqrt()


def _eps(x_0: Tensor, x_t: Tensor, bar: Tensor) -> Tensor:
    return (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt()


def _oracle(
    x_0: Tensor, bar: Tensor, *,
    formula: Answer = _v, row: Callable[[Tensor], Tensor] = lambda t: t,
) -> Network:  # fmt: skip
    """The oracle, and with other arguments its mistakes."""
    return lambda x_t, t: formula(x_0, x_t, bar[row(t)].view(-1, 1, 1, 1).float())


# ---- 10.3: the distance that a loop misses a known picture by ----------------------------


def _loop(bug: str = "") -> Loop:
    """DDIM in ten steps, for a network that predicts eps, with one mistake."""

    def sample(model: Network, x: Tensor) -> Tensor:
        for t in range(20, 0, -2):
            s = t - 2
            eps = model(x, torch.full((len(x),), t))
            x_0 = (x - (1 - BAR[t]).sqrt() * eps) / BAR[t].sqrt()
            along = 1 - BAR[t if bug == "direction" else s]
            x = BAR[s].sqrt() * x_0 + along.sqrt() * eps
            x = x + 0.1 * torch.randn_like(x) if bug == "last noise" and s == 0 else x
        return x

    return sample


def _led(answer: Answer, bug: str = "") -> float:
    x_T, x_0 = noise(2, 3, 3, 4, 4, seed=3).double()
    return answer(_loop(bug), x_T, 0.5 * x_0, BAR)


def _missed(
    sample: Loop, x_T: Tensor, x_0: Tensor, bar: Tensor, *,
    goal: str = "x_0", measure: str = "rms", shift: int = 0,
) -> float:  # fmt: skip
    """The distance, and with other arguments its mistakes."""

    def oracle(x_t: Tensor, t: Tensor) -> Tensor:
        b = bar[t - shift].view(-1, 1, 1, 1)
        return (x_t - b.sqrt() * x_0) / (1 - b).sqrt().clamp(min=1e-3)

    away = sample(oracle, x_T) - (x_0 if goal == "x_0" else x_T)
    if measure == "mean":
        return away.mean().item()
    return away.square().mean().item() ** (0.5 if measure == "rms" else 1)


# ---- 10.4: what a guess without shapes would reach ---------------------------------------


def _guess(x_0: Tensor, bar_t: float, variance: Callable[[Tensor], Tensor] = torch.var) -> float:
    of_signal = bar_t * variance(x_0).item()
    return of_signal / (of_signal + 1 - bar_t)


def _batch() -> Tensor:
    return 0.3 + 0.5 * noise(8, 3, 4, 4, seed=4).double()


EXERCISES = [
    Exercise(
        "10.1",
        "tell three ranges of data apart",
        _range,
        RANGES,
        {
            "only the largest value is tested: standardised data also reach below -1":
                partial(_range, largest=torch.max),
            "rounding is not a fault: leave a little room above 1": partial(_range, limit=1.0),
            "bright pictures have a high mean as well: in 0..1 no value lies below 0":
                partial(_range, is_unit=lambda x: x.mean() > 0.25),
            "dark pictures may all lie below 0: that is not a fault":
                partial(_range, is_unit=lambda x: x.min() >= 0 or x.max() < 0),
        },
    ),
    Exercise(
        "10.2",
        "an oracle that answers with v",
        _oracle,
        [
            Trial("t = 7 for all", lambda f: _asked(f, 7, 7)),
            Trial("t = 2, 11 and 19 in one batch", lambda f: _asked(f, 2, 11, 19)),
        ],
        {
            "this returns eps, equation (10.2): convert it to v": partial(_oracle, formula=_eps),
            "v has the other sign: it is sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0":
                partial(_oracle, formula=lambda x_0, x_t, bar: -_v(x_0, x_t, bar)),
            "all pictures get the step of the first one":
                partial(_oracle, row=lambda t: t[:1].expand(len(t))),
            "t counts from 1 here: index the table with t, not t - 1":
                partial(_oracle, row=lambda t: t - 1),
        },
        tolerance=1e-4,
    ),
    Exercise(
        "10.3",
        "how far a loop ends from the picture that a perfect network knows",
        _missed,
        [
            Trial("a healthy loop", lambda f: _led(f)),
            Trial("a loop that adds noise at the last step", lambda f: _led(f, "last noise")),
            Trial("a loop with the wrong direction", lambda f: _led(f, "direction")),
        ],
        {
            "the result is compared with the start noise: compare it with x_0":
                partial(_missed, goal="x_T"),
            "differences of both signs cancel in a mean: square them first":
                partial(_missed, measure="mean"),
            "the root is missing: this is the mean square":
                partial(_missed, measure="square"),
            "the oracle uses another row of the table than the loop: index it with the t "
            "that it is given": partial(_missed, shift=1),
        },
        tolerance=1e-4,
    ),
    Exercise(
        "10.4",
        "the loss of a guess that knows no shapes",
        _guess,
        [
            Trial("alpha_bar = 0.9", lambda f: f(_batch(), 0.9)),
            Trial("alpha_bar = 0.2", lambda f: f(_batch(), 0.2)),
        ],
        {
            "this uses the standard deviation where the variance belongs, equation (10.4)":
                partial(_guess, variance=torch.std),
            "the guess knows the mean: take the variance around it, not the mean square":
                partial(_guess, variance=lambda x: x.square().mean()),
            "this is the error in x_0: in units of eps it is alpha_bar / (1 - alpha_bar) of it":
                lambda x_0, bar_t: _guess(x_0, bar_t) * (1 - bar_t) / bar_t,
            "this is the root of the loss: a loss is a mean square":
                lambda x_0, bar_t: math.sqrt(_guess(x_0, bar_t)),
        },
        tolerance=1e-3,
    ),
]  # fmt: skip
