"""Exercises of notebook 07: fast samplers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_helpers.diffusion.schedules import sub_sequence
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise

Slope = Callable[[Tensor, float], Tensor]
Rule = Callable[[Slope, Tensor, float, float], Tensor]


# ---- 7.1 and 7.2: walks along du/dsigma = slope ------------------------------------------


def _bent(u: Tensor, sigma: float) -> Tensor:
    """The exact slope for data that are one Gaussian of standard deviation 0.5 around 0.3."""
    return (u - 0.3) * sigma / (sigma**2 + 0.25)


def _dividing(u: Tensor, sigma: float) -> Tensor:
    """The slope for a picture of one value, 0.3: a network divides by sigma here."""
    return (u - 0.3) / torch.tensor(sigma, dtype=u.dtype)


def _walked(answer: Answer, slope: Slope, *sigmas: float) -> Tensor:
    u = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64).view(3, 1, 1, 1) * sigmas[0]
    return answer(slope, u, list(sigmas))


WALKS = [
    Trial("one step, from sigma 2 to 1", lambda f: _walked(f, _bent, 2.0, 1.0)),
    Trial("three steps, from sigma 4 to 0.5", lambda f: _walked(f, _bent, 4.0, 2.0, 1.0, 0.5)),
    Trial("two steps that end at sigma 0", lambda f: _walked(f, _dividing, 2.0, 1.0, 0.0)),
]


def _at_the_start(slope: Slope, u: Tensor, here: float, there: float) -> Tensor:
    return slope(u, here)


def _mean_of_both(slope: Slope, u: Tensor, here: float, there: float) -> Tensor:
    first = slope(u, here)
    return (first + slope(u + (there - here) * first, there)) / 2  # (7.5)


def _walker(rule: Rule, to_zero: Rule = _at_the_start) -> Answer:
    """A walk that follows the slope of one rule, and on the step that ends at 0 that of another."""

    def walk(slope: Slope, u: Tensor, sigmas: list[float]) -> Tensor:
        for here, there in pairwise(sigmas):
            follow = rule if there > 0 else to_zero
            u = u + (there - here) * follow(slope, u, here, there)  # (7.3)
        return u

    return walk


# ---- 7.3: one step of DPM-Solver++ -------------------------------------------------------


def _log_ratio(bar: float) -> float:
    """lambda = -log sigma."""
    return 0.5 * math.log(bar / (1 - bar))


def _dpm_step(
    x_t: Tensor, x_0: Tensor, x_0_before: Tensor, bars: tuple[float, float, float],
    middle: Callable[[float, float], float] = lambda h, before: h / (2 * before),
    log_ratio: Callable[[float], float] = _log_ratio, power: float = 0.5,
) -> Tensor:  # fmt: skip
    """The step, and with other arguments its mistakes."""
    bar_before, bar_t, bar_s = bars
    h = log_ratio(bar_s) - log_ratio(bar_t)
    share = middle(h, log_ratio(bar_t) - log_ratio(bar_before))
    x_0_mid = x_0 + share * (x_0 - x_0_before)  # (7.8)
    shrink = ((1 - bar_s) / (1 - bar_t)) ** power
    return shrink * x_t + math.sqrt(bar_s) * (1 - math.exp(-h)) * x_0_mid  # (7.7)


def _dpm(answer: Answer, *bars: float) -> Tensor:
    x_t, x_0, x_0_before = noise(3, 2, 1, 2, 2, seed=2).double()
    return answer(x_t, x_0, x_0_before, bars)


# ---- 7.4: where the steps lie ------------------------------------------------------------


def _trailing(T: int, k: int) -> list[int]:
    return sub_sequence(T, k, "trailing")


EXERCISES = [
    Exercise(
        "7.1",
        "Euler's method: follow the slope from sigma to sigma",
        _walker(_at_the_start),
        WALKS[:2],
        {
            "the stride has the wrong sign: it is sigma_s - sigma_t, which is negative, "
            "equation (7.3)":
                _walker(lambda slope, u, here, there: -slope(u, here)),
            "the slope is computed once only: compute it at every new point":
                lambda slope, u, sigmas: u + (sigmas[-1] - sigmas[0]) * slope(u, sigmas[0]),
            "the slope is taken at the end of the stride: Euler takes it at its start, "
            "at sigma_t":
                _walker(lambda slope, u, here, there: slope(u, there)),
        },
    ),
    Exercise(
        "7.2",
        "Heun's method: a step, a second slope, and the step again with the mean of both",
        _walker(_mean_of_both),
        WALKS,
        {
            "the last step is corrected too, and the slope at sigma = 0 divides by 0: "
            "take a plain step there":
                _walker(_mean_of_both, to_zero=_mean_of_both),
            "the corrected step starts from the trial point: start it from u_t again, "
            "equation (7.5)":
                _walker(lambda *args: _at_the_start(*args) + _mean_of_both(*args)),
            "the second slope is taken at u_t: take it at the trial point, "
            "equation (7.5)":
                _walker(lambda slope, u, here, there: (slope(u, here) + slope(u, there)) / 2),
            "the two slopes are added: their mean is half of that":
                _walker(lambda *args: 2 * _mean_of_both(*args)),
        },
    ),
    Exercise(
        "7.3",
        "one step of DPM-Solver++, from the last two network calls",
        _dpm_step,
        [
            Trial("a stride as long as the one before", lambda f: _dpm(f, 0.1, 0.3, 0.65)),
            Trial("a longer stride than before", lambda f: _dpm(f, 0.2, 0.3, 0.9)),
        ],
        {
            "the lengths of the strides are swapped: it is h / (2 h'), with h the stride to "
            "come, equation (7.8)": partial(_dpm_step, middle=lambda h, last: last / (2 * h)),
            "the line is followed to the end of the stride: read it off at the middle, "
            "h / (2 h'), equation (7.8)": partial(_dpm_step, middle=lambda h, last: h / last),
            "the line is followed backwards: it is x_0 minus x_0_before, equation (7.8)":
                partial(_dpm_step, middle=lambda h, last: -h / (2 * last)),
            "lambda lacks its 1/2: it is -log sigma, and sigma is a square root":
                partial(_dpm_step, log_ratio=lambda bar: 2 * _log_ratio(bar)),
            "the factor of x_t lacks its square root, equation (7.7)":
                partial(_dpm_step, power=1.0),
        },
    ),
    Exercise(
        "7.4",
        "k trailing steps from T to 0",
        _trailing,
        [
            Trial("T = 500, k = 4", lambda f: list(f(500, 4))),
            Trial("T = 10, k = 3", lambda f: list(f(10, 3))),
            Trial("T = 6, k = 6", lambda f: list(f(6, 6))),
        ],
        {
            "these are leading steps: they never visit T, where sampling starts":
                lambda T, k: sub_sequence(T, k, "leading"),
            "the 0 at the end is missing: the last stride leads to the picture":
                lambda T, k: _trailing(T, k)[:-1],
            "the steps rise: sampling starts at T": lambda T, k: _trailing(T, k)[::-1],
            "t counts from 0 here: the first step is T, not T - 1":
                lambda T, k: [max(t - 1, 0) for t in _trailing(T, k)],
        },
    ),
]  # fmt: skip
