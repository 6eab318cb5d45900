"""Exercises of notebook 06: from a guess to a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial

PROCESS = DiffusionUtils(500, prediction="v")
BAR = PROCESS.alpha_bar  # (T + 1,) float64


def _random(*shape: int) -> Tensor:
    """The same standard normal values at every call, float64."""
    generator = torch.Generator().manual_seed(6)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# ---- 6.1: from v to the picture and the noise ------------------------------------------------


def _unmixed(answer: Answer, *steps: int) -> tuple[Tensor, Tensor]:
    v, x_t = _random(2, len(steps), 3, 2, 2)
    return answer(v, x_t, torch.tensor(steps), BAR)


def _unmix(v: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    signal = alpha_bar[t].sqrt().view(-1, 1, 1, 1)
    noise = (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1)
    return signal * x_t - noise * v, noise * x_t + signal * v


def _without_root(v: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    bar = alpha_bar[t].view(-1, 1, 1, 1)
    return bar * x_t - (1 - bar) * v, (1 - bar) * x_t + bar * v


def _wrong_sign(v: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    return _unmix(-v, x_t, t, alpha_bar)


def _as_if_eps(v: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    bar = alpha_bar[t].view(-1, 1, 1, 1)
    return (x_t - (1 - bar).sqrt() * v) / bar.sqrt(), v


# ---- 6.2: the posterior ----------------------------------------------------------------------


def _posterior(x_0: Tensor, x_t: Tensor, t: int, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    bar, before = alpha_bar[t], alpha_bar[t - 1]
    beta = 1 - bar / before
    mean = before.sqrt() * beta / (1 - bar) * x_0
    mean = mean + (1 - beta).sqrt() * (1 - before) / (1 - bar) * x_t
    return mean, (1 - before) / (1 - bar) * beta


def _swapped(x_0: Tensor, x_t: Tensor, t: int, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    return _posterior(x_t, x_0, t, alpha_bar)


def _bar_t_for_before(x_0: Tensor, x_t: Tensor, t: int, bar: Tensor) -> tuple[Tensor, Tensor]:
    beta = 1 - bar[t] / bar[t - 1]
    variance = (1 - bar[t - 1]) / (1 - bar[t]) * beta
    return bar[t].sqrt() * beta / (1 - bar[t]) * x_0 + (1 - beta).sqrt() * x_t, variance


def _counts_from_0(x_0: Tensor, x_t: Tensor, t: int, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    return _posterior(x_0, x_t, t + 1, alpha_bar)


def _variance_beta(x_0: Tensor, x_t: Tensor, t: int, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    return _posterior(x_0, x_t, t, alpha_bar)[0], 1 - alpha_bar[t] / alpha_bar[t - 1]


def _std(x_0: Tensor, x_t: Tensor, t: int, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = _posterior(x_0, x_t, t, alpha_bar)
    return mean, variance.sqrt()


# ---- 6.3: one step of DDPM -------------------------------------------------------------------


def _stepped(answer: Answer, *steps: int) -> Tensor:
    """Guesses of x_0 that leave [-1, 1], and where an answer goes from there."""
    x_0, x_t, z = _random(3, len(steps), 3, 2, 2)
    return answer(2 * x_0, x_t, torch.tensor(steps), z, PROCESS)


def _step(x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, diffusion: DiffusionUtils) -> Tensor:
    mean, variance = diffusion.posterior(x_0.clamp(-1, 1), x_t, t)
    return mean + variance.sqrt() * z


def _not_clipped(x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, d: DiffusionUtils) -> Tensor:
    mean, variance = d.posterior(x_0, x_t, t)
    return mean + variance.sqrt() * z


def _clipped_after(x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, d: DiffusionUtils) -> Tensor:
    mean, variance = d.posterior(x_0, x_t, t)
    return mean.clamp(-1, 1) + variance.sqrt() * z


def _variance_for_std(x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, d: DiffusionUtils) -> Tensor:
    mean, variance = d.posterior(x_0.clamp(-1, 1), x_t, t)
    return mean + variance * z


def _noise_at_the_end(x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, d: DiffusionUtils) -> Tensor:
    beta = d.betas[t].view(-1, 1, 1, 1)
    return d.posterior(x_0.clamp(-1, 1), x_t, t)[0] + beta.sqrt() * z


def _no_noise(x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, d: DiffusionUtils) -> Tensor:
    return d.posterior(x_0.clamp(-1, 1), x_t, t)[0]


# ---- 6.4: one step of DDIM -------------------------------------------------------------------


def _jumped(answer: Answer, t: int, s: int) -> Tensor:
    x_0, x_t = _random(2, 2, 3, 2, 2)
    return answer(x_0, x_t, t, s, BAR)


def _ddim(x_0: Tensor, x_t: Tensor, t: int, s: int, alpha_bar: Tensor) -> Tensor:
    eps = (x_t - alpha_bar[t].sqrt() * x_0) / (1 - alpha_bar[t]).sqrt()
    return alpha_bar[s].sqrt() * x_0 + (1 - alpha_bar[s]).sqrt() * eps


def _x_t_for_eps(x_0: Tensor, x_t: Tensor, t: int, s: int, alpha_bar: Tensor) -> Tensor:
    return alpha_bar[s].sqrt() * x_0 + (1 - alpha_bar[s]).sqrt() * x_t


def _stays_at_t(x_0: Tensor, x_t: Tensor, t: int, s: int, alpha_bar: Tensor) -> Tensor:
    return x_t


def _ddim_without_root(x_0: Tensor, x_t: Tensor, t: int, s: int, alpha_bar: Tensor) -> Tensor:
    eps = (x_t - alpha_bar[t].sqrt() * x_0) / (1 - alpha_bar[t]).sqrt()
    return alpha_bar[s] * x_0 + (1 - alpha_bar[s]) * eps


def _fresh_noise(x_0: Tensor, x_t: Tensor, t: int, s: int, alpha_bar: Tensor) -> Tensor:
    return alpha_bar[s].sqrt() * x_0 + (1 - alpha_bar[s]).sqrt() * torch.randn_like(x_0)


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
                _without_root,
            "the signs of v are swapped: v has a minus in (6.3) and a plus in (6.4)": _wrong_sign,
            "this uses the output as eps, equation (6.5); this network predicts v": _as_if_eps,
            "the two are swapped: x_0 comes first":
                lambda v, x_t, t, alpha_bar: _unmix(v, x_t, t, alpha_bar)[::-1],
        },
    ),
    Exercise(
        "6.2",
        "the posterior's mean and variance",
        _posterior,
        [
            Trial("t = 1", lambda f: f(*_random(2, 1, 3, 2, 2), 1, BAR)),
            Trial("t = 300", lambda f: f(*_random(2, 2, 3, 2, 2), 300, BAR)),
            Trial("t = 499", lambda f: f(*_random(2, 2, 3, 2, 2), 499, BAR)),
        ],
        {
            "a_t and b_t are swapped: a_t belongs to x_0, equation (6.11)": _swapped,
            "this uses alpha_bar[t] where alpha_bar[t - 1] belongs, equation (6.11)":
                _bar_t_for_before,
            "t counts from 1 here, and alpha_bar[0] = 1 belongs to the clean picture: "
            "the step from t to t - 1 uses alpha_bar[t] and alpha_bar[t - 1]": _counts_from_0,
            "this variance is beta_t; (6.10) multiplies it by "
            "(1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])": _variance_beta,
            "this is the standard deviation; (6.10) is its square": _std,
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
            "the predicted x_0 is not clipped, equation (6.14)": _not_clipped,
            "this is clipped after the mean; clip the predicted x_0 before, equation (6.14)":
                _clipped_after,
            "the noise is multiplied by the variance; its square root belongs there":
                _variance_for_std,
            "this variance is beta_t, and noise is added at the last step, too: at t = 1 the "
            "posterior's variance is 0": _noise_at_the_end,
            "no noise is added here; (6.14) adds z times the root of the variance": _no_noise,
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
            "this uses x_t where its noise belongs: first solve (6.1) for eps": _x_t_for_eps,
            "the weights are those of step t, so x_t does not change: mix with those of s, "
            "equation (6.15)": _stays_at_t,
            "this uses alpha_bar[s] where its square root belongs, equation (6.15)":
                _ddim_without_root,
            "fresh noise is drawn; DDIM keeps the noise in x_t, equation (6.15)":
                _fresh_noise,
        },
    ),
]  # fmt: skip
