"""Exercises of notebook 07: fast samplers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ddpm_helpers.diffusion.schedules import sub_sequence
from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case, noise

Slope = Callable[[Tensor, float], Tensor]
Rule = Callable[[Slope, Tensor, float, float], Tensor]


# ---- 7.1 and 7.2: walks along du/dsigma = slope ------------------------------------------


def _bent(u: Tensor, sigma: float) -> Tensor:
    """The exact slope for Gaussian data with mean 0.3 and standard deviation 0.5."""
    return (u - 0.3) * sigma / (sigma**2 + 0.25)


def _dividing(u: Tensor, sigma: float) -> Tensor:
    """The slope for a constant image of 0.3; like a network's slope, it divides by sigma."""
    return (u - 0.3) / torch.tensor(sigma, dtype=u.dtype)


def _walk(text: str, slope: Slope, *sigmas: float) -> Case:
    u = noise(2, 3, 4, 5, seed=7, dtype=torch.float64) * sigmas[0]
    return Case(text, (slope, u, list(sigmas)))


WALKS = [
    _walk("one step, from sigma 2 to 0.7", _bent, 2.0, 0.7),
    _walk("three steps, from sigma 4 to 0.5", _bent, 4.0, 2.5, 0.9, 0.5),
    _walk("two steps that end at sigma 0", _dividing, 2.0, 0.8, 0.0),
]


def _at_the_start(slope: Slope, u: Tensor, here: float, there: float) -> Tensor:
    return slope(u, here)


def _mean_of_both(slope: Slope, u: Tensor, here: float, there: float) -> Tensor:
    first = slope(u, here)
    return (first + slope(u + (there - here) * first, there)) / 2  # (7.5)


def _at_the_end(slope: Slope, u: Tensor, here: float, there: float) -> Tensor:
    return slope(u + (there - here) * slope(u, here), there)


def _in_the_middle(slope: Slope, u: Tensor, here: float, there: float) -> Tensor:
    return slope(u + (there - here) / 2 * slope(u, here), (here + there) / 2)


def _new_sigma(slope: Slope, u: Tensor, here: float, there: float) -> Tensor:
    return slope(u, there)


def _old_sigma(slope: Slope, u: Tensor, here: float, there: float) -> Tensor:
    first = slope(u, here)
    return (first + slope(u + (there - here) * first, here)) / 2


def _old_place(slope: Slope, u: Tensor, here: float, there: float) -> Tensor:
    return (slope(u, here) + slope(u, there)) / 2


def _walker(
    rule: Rule, to_zero: Rule = _at_the_start, part: slice = slice(None),
    stride: Callable[[float, float], float] = lambda here, there: there - here,
) -> Answer:  # fmt: skip
    """A walk with one rule for the slope, and another for the last step if it ends at 0."""

    def walk(slope: Slope, u: Tensor, sigmas: list[float]) -> Tensor:
        for here, there in list(pairwise(sigmas))[part]:
            follow = rule if there > 0 else to_zero
            u = u + stride(here, there) * follow(slope, u, here, there)  # (7.3)
        return u

    return walk


def _with_equal_strides(slope: Slope, u: Tensor, sigmas: list[float]) -> Tensor:
    stride = (sigmas[-1] - sigmas[0]) / (len(sigmas) - 1)
    for here in sigmas[:-1]:
        u = u + stride * slope(u, here)
    return u


def _sigmas_as_strides(slope: Slope, u: Tensor, sigmas: list[float]) -> Tensor:
    for sigma in sigmas:
        u = u - sigma * slope(u, sigma)
    return u


def _moves(slope: Slope, u: Tensor, sigmas: list[float]) -> Tensor:
    """A walk that replaces u by the move instead of adding it."""
    for here, there in pairwise(sigmas):
        u = (there - here) * slope(u, here)
    return u


# ---- 7.3: one step of DPM-Solver++ -------------------------------------------------------


def _log_ratio(bar: float) -> float:
    """lambda = -log sigma."""
    return 0.5 * math.log(bar / (1 - bar))


def _dpm_step(
    x_t: Tensor, x_0: Tensor, x_0_before: Tensor, bars: tuple[float, float, float],
    middle: Callable[[float, float], float] = lambda h, before: h / (2 * before),
    log_ratio: Callable[[float], float] = _log_ratio, power: float = 0.5,
    of_x_0: Callable[[float], float] = lambda h: 1 - math.exp(-h), power_s: float = 0.5,
) -> Tensor:  # fmt: skip
    """The step; change the arguments to make mistakes."""
    bar_before, bar_t, bar_s = bars
    h = log_ratio(bar_s) - log_ratio(bar_t)
    share = middle(h, log_ratio(bar_t) - log_ratio(bar_before))
    x_0_mid = x_0 + share * (x_0 - x_0_before)  # (7.8)
    shrink = ((1 - bar_s) / (1 - bar_t)) ** power
    return shrink * x_t + bar_s**power_s * of_x_0(h) * x_0_mid  # (7.7)


def _dpm(text: str, *bars: float) -> Case:
    return Case(text, (*noise(3, 2, 3, 4, 5, seed=2).double(), bars))


# ---- 7.4: where the steps lie ------------------------------------------------------------


def _trailing(T: int, k: int) -> list[int]:
    return sub_sequence(T, k, "trailing")


EXERCISES = [
    Exercise(
        "7.1",
        "Euler's method: follow the slope from sigma to sigma",
        _walker(_at_the_start),
        WALKS,
        {
            "the stride has the wrong sign: it is sigma_s - sigma_t, which is negative, "
            "equation (7.3)":
                _walker(_at_the_start, stride=lambda here, there: here - there),
            "the slope is computed only once: compute it again at every u":
                lambda slope, u, sigmas: u + (sigmas[-1] - sigmas[0]) * slope(u, sigmas[0]),
            "the slope is always computed at the first u: compute it at the current u":
                lambda slope, u, sigmas: u + sum(
                    (there - here) * slope(u, here) for here, there in pairwise(sigmas)),
            "the slope is computed at the end of the step: Euler computes it at the start, "
            "at sigma_t":
                _walker(_new_sigma, to_zero=_new_sigma),
            "the last step is missing: a list of n sigmas has n - 1 steps":
                _walker(_at_the_start, part=slice(None, -1)),
            "only the first step is taken: `return` is inside the loop":
                _walker(_at_the_start, part=slice(1)),
            "u is replaced by the move: add the move to u":
                _moves,
            "the slope is multiplied by the new sigma, not by the stride, equation (7.3)":
                _walker(_at_the_start, stride=lambda here, there: there),
            "the slope is multiplied by the old sigma, not by the stride, equation (7.3)":
                _walker(_at_the_start, stride=lambda here, there: here),
            "all strides are equal: use the differences of neighbouring sigmas, (7.3)":
                _with_equal_strides,
            "sigma itself is used as the stride: a stride is a difference of sigmas, (7.3)":
                _sigmas_as_strides,
            "the stride is missing: multiply the slope by it, equation (7.3)":
                _walker(_at_the_start, stride=lambda here, there: 1.0),
            "this is Heun's method, with two slopes per step": _walker(_mean_of_both),
        },
    ),
    Exercise(
        "7.2",
        "Heun's method: a step, a second slope, and the step again with the mean of both",
        _walker(_mean_of_both),
        WALKS,
        {
            "the last step is corrected too, but the slope at sigma = 0 divides by 0: "
            "take an Euler step there":
                _walker(_mean_of_both, to_zero=_mean_of_both),
            "this is Euler's method: the second slope is not used, equation (7.5)":
                _walker(_at_the_start),
            "the second slope is computed at the old sigma: use the sigma at the end of the step, "
            "equation (7.5)":
                _walker(_old_sigma),
            "the second slope is computed at the old sigma, in the last step too: use the sigma at "
            "the end of the step, and no second slope for a step to 0":
                _walker(_old_sigma, to_zero=_old_sigma),
            "the corrected step starts from the trial point: start from u_t again, "
            "equation (7.5)":
                _walker(lambda *args: _at_the_start(*args) + _mean_of_both(*args)),
            "the second slope is computed at u_t: compute it at the trial point, "
            "equation (7.5)":
                _walker(_old_place),
            "the two slopes are added: divide by 2 for the mean":
                _walker(lambda *args: 2 * _mean_of_both(*args)),
            "only the slope at the end is used: use the mean of both, equation (7.5)":
                _walker(_at_the_end),
            "this is the midpoint method, with one slope half a step ahead; Heun's is (7.5)":
                _walker(_in_the_middle),
            "the step to sigma = 0 is missing: take an Euler step there":
                _walker(_mean_of_both, to_zero=lambda slope, u, here, there: 0 * u),
            "the trial point is on the wrong side: add the stride times the slope":
                _walker(lambda slope, u, here, there: (
                    slope(u, here) + slope(u - (there - here) * slope(u, here), there)) / 2),
            "the stride has the wrong sign: it is sigma_s - sigma_t, which is negative":
                _walker(lambda slope, u, here, there: -_mean_of_both(slope, u, there, here),
                    lambda slope, u, here, there: -slope(u, here)),
            "only the first step is taken: `return` is inside the loop":
                _walker(_mean_of_both, part=slice(1)),
            "1/2 must multiply both slopes: put brackets around their sum":
                _walker(lambda slope, u, here, there: (
                    slope(u, here) + _at_the_end(slope, u, here, there) / 2)),
        },
    ),
    Exercise(
        "7.3",
        "one step of DPM-Solver++, from the last two network calls",
        _dpm_step,
        [
            _dpm("a stride about as long as the last stride", 0.1, 0.3, 0.65),
            _dpm("a longer stride than the last stride", 0.2, 0.3, 0.9),
        ],
        {
            "the stride lengths are swapped: it is h / (2 h'), where h is the next stride, "
            "equation (7.8)": partial(_dpm_step, middle=lambda h, last: last / (2 * h)),
            "the line is evaluated at the end of the stride: evaluate it at the middle, "
            "h / (2 h'), equation (7.8)": partial(_dpm_step, middle=lambda h, last: h / last),
            "the line is followed backwards: h and h' are positive and multiply x_0 minus "
            "x_0_before, equation (7.8)":
                partial(_dpm_step, middle=lambda h, last: -h / (2 * last)),
            "h / 2 * h' multiplies by h': write h / (2 * h'), equation (7.8)":
                partial(_dpm_step, middle=lambda h, last: h / 2 * last),
            "the difference is always multiplied by 1/2: multiply it by h / (2 h'), "
            "equation (7.8)": partial(_dpm_step, middle=lambda h, last: 0.5),
            "x_0_before is not used: this is the first-order step; see (7.8)":
                partial(_dpm_step, middle=lambda h, last: 0.0),
            "the exponent is 2 h instead of h: lambda is half of the logarithm, because sigma is "
            "a square root":
                partial(_dpm_step, log_ratio=lambda bar: 2 * _log_ratio(bar)),
            "the exponent is positive: (7.7) has 1 - exp(-h), and h > 0 because lambda rises "
            "with alpha_bar":
                partial(_dpm_step, log_ratio=lambda bar: -_log_ratio(bar)),
            "lambda is 1/2 log alpha_bar here: divide alpha_bar by 1 - alpha_bar":
                partial(_dpm_step, log_ratio=lambda bar: 0.5 * math.log(bar)),
            "the factor of x_t needs a square root, equation (7.7)":
                partial(_dpm_step, power=1.0),
            "the factor of x_t is inverted: 1 - alpha_bar[s] is the numerator, equation (7.7)":
                partial(_dpm_step, power=-0.5),
            "x_t has weight 1; see (7.7)": partial(_dpm_step, power=0.0),
            "alpha_bar[s] needs a square root, equation (7.7)":
                partial(_dpm_step, power_s=1.0),
            "the factor sqrt(alpha_bar[s]) is missing, equation (7.7)":
                partial(_dpm_step, power_s=0.0),
            "the sign of the last term is wrong: (7.7) has 1 - exp(-h), not exp(-h) - 1":
                partial(_dpm_step, of_x_0=lambda h: math.exp(-h) - 1),
            "the 1 - is missing: (7.7) has 1 - exp(-h)":
                partial(_dpm_step, of_x_0=lambda h: math.exp(-h)),
            "this uses h instead of 1 - exp(-h), equation (7.7)":
                partial(_dpm_step, of_x_0=lambda h: h),
        },
    ),
    Exercise(
        "7.4",
        "k trailing steps from T to 0",
        _trailing,
        [Case(f"T = {T}, k = {k}", (T, k)) for T, k in ((500, 4), (10, 3), (6, 6), (1000, 7))],
        {
            "these are leading steps: they never visit T, where sampling must start":
                lambda T, k: sub_sequence(T, k, "leading"),
            "the 0 at the end is missing: the last stride leads to the image":
                lambda T, k: _trailing(T, k)[:-1],
            "T is missing: sampling starts there": lambda T, k: _trailing(T, k)[1:],
            "the timesteps increase: sampling starts at T": lambda T, k: _trailing(T, k)[::-1],
            "t counts from 0: the first timestep must be T, not T - 1":
                lambda T, k: [max(t - 1, 0) for t in _trailing(T, k)],
            "this rounds to the nearest number; (7.10) rounds down":
                lambda T, k: [round(i * T / k) for i in range(k, -1, -1)],
            "this rounds up; (7.10) rounds down":
                lambda T, k: [math.ceil(i * T / k) for i in range(k, -1, -1)],
            "the stride is rounded first, so the walk starts below T if k does not divide T: "
            "multiply before you divide":
                lambda T, k: [i * (T // k) for i in range(k, -1, -1)],
            "the stride is rounded first: multiply before you divide, i * T // k":
                lambda T, k: list(range(T, -1, -(T // k))),
            "the stride is rounded first, and the 0 at the end is missing":
                lambda T, k: list(range(T, 0, -(T // k))),
            "-T // k rounds away from 0, so the stride is too long: multiply before you divide":
                lambda T, k: [*range(T, 0, -T // k), 0],
            "the strides end at 1, followed by a step to 0: all strides must be T / k":
                lambda T, k: [*(int(t) for t in torch.linspace(T, 1, k)), 0],
            "the list has k timesteps; a walk of k strides has k + 1": lambda T, k:
                [i * T // (k - 1) for i in range(k - 1, -1, -1)],
            "there is one stride too many": lambda T, k:
                [i * T // (k + 1) for i in range(k + 1, -1, -1)],
        },
    ),
]  # fmt: skip
