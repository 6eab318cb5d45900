"""Exercises of notebook 06: from a guess to a picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise

PROCESS = DiffusionUtils(500, prediction="v")
EPS_PROCESS = DiffusionUtils(500, prediction="eps")
BAR = PROCESS.alpha_bar  # (T + 1,) float64


def _pictures(inputs: int, n: int) -> Tensor:
    """Batches of n small pictures, float64, one batch for each input of an answer."""
    return noise(inputs, n, 3, 2, 2, seed=6, dtype=torch.float64)


# ---- 6.1: from v to the picture and the noise ------------------------------------------------


def _unmixed(answer: Answer, *steps: int) -> tuple[Tensor, Tensor]:
    v, x_t = _pictures(2, len(steps))
    return answer(v, x_t, torch.tensor(steps), BAR)


def _unmix(
    v: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor, *,
    weight: Callable[[Tensor], Tensor] = Tensor.sqrt,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    bar = alpha_bar[t].view(-1, 1, 1, 1)
    a, b = weight(bar), weight(1 - bar)
    return a * x_t - b * v, b * x_t + a * v


# ---- 6.2: the posterior ----------------------------------------------------------------------


def _posterior(x_0: Tensor, x_t: Tensor, t: int, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    bar, before = alpha_bar[t], alpha_bar[t - 1]
    beta = 1 - bar / before
    mean = before.sqrt() * beta / (1 - bar) * x_0
    mean = mean + (1 - beta).sqrt() * (1 - before) / (1 - bar) * x_t
    return mean, (1 - before) / (1 - bar) * beta


def _bar_t_for_before(x_0: Tensor, x_t: Tensor, t: int, bar: Tensor) -> tuple[Tensor, Tensor]:
    beta = 1 - bar[t] / bar[t - 1]
    variance = (1 - bar[t - 1]) / (1 - bar[t]) * beta
    return bar[t].sqrt() * beta / (1 - bar[t]) * x_0 + (1 - beta).sqrt() * x_t, variance


# ---- 6.3: one step of DDPM -------------------------------------------------------------------


def _stepped(answer: Answer, *steps: int) -> Tensor:
    """Guesses of x_0 that leave [-1, 1], and where an answer goes from there."""
    x_0, x_t, z = _pictures(3, len(steps))
    return answer(2 * x_0, x_t, torch.tensor(steps), z, PROCESS)


def _step(
    x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, diffusion: DiffusionUtils, *,
    clip: str = "x_0", weight: Callable[[Tensor], Tensor] = Tensor.sqrt,
) -> Tensor:  # fmt: skip
    """The step, and with other arguments its mistakes."""
    x_0 = x_0.clamp(-1, 1) if clip == "x_0" else x_0
    mean, variance = diffusion.posterior(x_0, x_t, t)
    mean = mean.clamp(-1, 1) if clip == "mean" else mean
    return mean + weight(variance) * z


# ---- 6.4: one step of DDIM -------------------------------------------------------------------


def _jumped(answer: Answer, t: int, s: int) -> Tensor:
    x_0, x_t = _pictures(2, 2)
    return answer(x_0, x_t, t, s, BAR)


def _mix(x_0: Tensor, eps: Tensor, bar: Tensor) -> Tensor:
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * eps


def _ddim(
    x_0: Tensor, x_t: Tensor, t: int, s: int, alpha_bar: Tensor, *, mix: Answer = _mix
) -> Tensor:
    eps = (x_t - alpha_bar[t].sqrt() * x_0) / (1 - alpha_bar[t]).sqrt()
    return mix(x_0, eps, alpha_bar[s])


EXERCISES = [
    Exercise(
        "6.1",
        "the picture and the noise in v",
        _unmix,
        [
            Trial("one picture at t = 100", lambda f: _unmixed(f, 100)),
            Trial("t = 1, 250 and 500 in one batch", lambda f: _unmixed(f, 1, 250, 500)),
        ],
        {
            "this uses alpha_bar where its square root belongs, equations (6.3) and (6.4)":
                partial(_unmix, weight=lambda share: share),
            "the signs of v are swapped: v has a minus in (6.3) and a plus in (6.4)":
                lambda v, x_t, t, alpha_bar: _unmix(-v, x_t, t, alpha_bar),
            "this uses the output as eps, equation (6.5); this network predicts v":
                lambda v, x_t, t, alpha_bar: (EPS_PROCESS.predict_x_0(v, x_t, t), v),
            "the two are swapped: x_0 comes first":
                lambda v, x_t, t, alpha_bar: _unmix(v, x_t, t, alpha_bar)[::-1],
        },
    ),
    Exercise(
        "6.2",
        "the posterior's mean and variance",
        _posterior,
        [
            Trial("t = 1", lambda f: f(*_pictures(2, 1), 1, BAR)),
            Trial("t = 300", lambda f: f(*_pictures(2, 2), 300, BAR)),
            Trial("t = 499", lambda f: f(*_pictures(2, 2), 499, BAR)),
        ],
        {
            "a_t and b_t are swapped: a_t belongs to x_0, equation (6.11)":
                lambda x_0, x_t, t, alpha_bar: _posterior(x_t, x_0, t, alpha_bar),
            "this uses alpha_bar[t] where alpha_bar[t - 1] belongs, equation (6.11)":
                _bar_t_for_before,
            "t counts from 1 here, and alpha_bar[0] = 1 belongs to the clean picture: "
            "the step from t to t - 1 uses alpha_bar[t] and alpha_bar[t - 1]":
                lambda x_0, x_t, t, alpha_bar: _posterior(x_0, x_t, t + 1, alpha_bar),
            "this variance is beta_t; (6.10) multiplies it by "
            "(1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])":
                lambda x_0, x_t, t, bar: (_posterior(x_0, x_t, t, bar)[0], 1 - bar[t] / bar[t - 1]),
            "this is the standard deviation; (6.10) is its square":
                lambda *given: (_posterior(*given)[0], _posterior(*given)[1].sqrt()),
        },
    ),
    Exercise(
        "6.3",
        "one step of DDPM",
        _step,
        [
            Trial("t = 1", lambda f: _stepped(f, 1)),
            Trial("t = 2, 250 and 490 in one batch", lambda f: _stepped(f, 2, 250, 490)),
        ],
        {
            "the predicted x_0 is not clipped, equation (6.14)":
                partial(_step, clip="nothing"),
            "this is clipped after the mean; clip the predicted x_0 before, equation (6.14)":
                partial(_step, clip="mean"),
            "the noise is multiplied by the variance; its square root belongs there":
                partial(_step, weight=lambda variance: variance),
            "this variance is beta_t, and noise is added at the last step, too: at t = 1 the "
            "posterior's variance is 0":
                lambda x_0, x_t, t, z, d: d.posterior(x_0.clamp(-1, 1), x_t, t)[0]
                + d.betas[t].view(-1, 1, 1, 1).sqrt() * z,
            "no noise is added here; (6.14) adds z times the root of the variance":
                partial(_step, weight=torch.zeros_like),
        },
    ),
    Exercise(
        "6.4",
        "one step of DDIM",
        _ddim,
        [
            Trial("from t = 500 to s = 400", lambda f: _jumped(f, 500, 400)),
            Trial("from t = 10 to s = 0", lambda f: _jumped(f, 10, 0)),
        ],
        {
            "this uses x_t where its noise belongs: first solve (6.1) for eps":
                lambda x_0, x_t, t, s, bar: _mix(x_0, x_t, bar[s]),
            "the weights are those of step t, so x_t does not change: mix with those of s, "
            "equation (6.15)":
                lambda x_0, x_t, t, s, bar: x_t,
            "this uses alpha_bar[s] where its square root belongs, equation (6.15)":
                partial(_ddim, mix=lambda x_0, eps, bar: bar * x_0 + (1 - bar) * eps),
            "fresh noise is drawn; DDIM keeps the noise in x_t, equation (6.15)":
                lambda x_0, x_t, t, s, bar: _mix(x_0, torch.randn_like(x_0), bar[s]),
        },
    ),
]  # fmt: skip
