"""Exercises of notebook 06: from a guess to an image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Case, noise

PROCESS = DiffusionUtils(500, prediction="v")
BAR = PROCESS.alpha_bar  # (T + 1,) float64
FEW = torch.tensor([1, 0.93, 0.78, 0.52, 0.31, 0.06], dtype=torch.float64)  # alpha_bar, T = 5


def _images(inputs: int, n: int) -> Tensor:
    """Batches of n small images, float64, one batch for each input of an answer."""
    return noise(inputs, n, 3, 5, 4, seed=6, dtype=torch.float64)


# ---- 6.1: from v to the image and the noise --------------------------------------------------


def _unmixed(*timesteps: int) -> Case:
    v, x_t = _images(2, len(timesteps))
    text = f"t = {', '.join(map(str, timesteps))}"
    return Case(text, (v, x_t, torch.tensor(timesteps), BAR))


def _unmix(
    v: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor, *,
    weight: Callable[[Tensor], Tensor] = Tensor.sqrt,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _of_bar(v, x_t, alpha_bar[t].view(-1, 1, 1, 1), weight)


def _of_bar(
    v: Tensor, x_t: Tensor, bar: Tensor, weight: Callable[[Tensor], Tensor] = Tensor.sqrt
) -> tuple[Tensor, Tensor]:
    a, b = weight(bar), weight(1 - bar)
    return a * x_t - b * v, b * x_t + a * v


# ---- 6.2: the posterior ----------------------------------------------------------------------

Numbers = Callable[[Tensor, Tensor, Tensor], Tensor]  # of alpha_bar[t], alpha_bar[t - 1], beta


def _a(bar: Tensor, before: Tensor, beta: Tensor) -> Tensor:
    return before.sqrt() * beta / (1 - bar)


def _b(bar: Tensor, before: Tensor, beta: Tensor) -> Tensor:
    return (1 - beta).sqrt() * (1 - before) / (1 - bar)


def _beta_tilde(bar: Tensor, before: Tensor, beta: Tensor) -> Tensor:
    return (1 - before) / (1 - bar) * beta


def _posterior(
    x_0: Tensor, x_t: Tensor, t: int, alpha_bar: Tensor, *,
    a: Numbers = _a, b: Numbers = _b, variance: Numbers = _beta_tilde,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean and variance, and with other arguments their mistakes."""
    bar, before = alpha_bar[t], alpha_bar[t - 1]
    given = (bar, before, 1 - bar / before)
    return a(*given) * x_0 + b(*given) * x_t, variance(*given)


def _from(t: int) -> Case:
    return Case(f"t = {t} of 5", (*_images(2, 2), t, FEW))


# ---- 6.3: one step of DDPM -------------------------------------------------------------------


def _stepped(*timesteps: int) -> Case:
    """Guesses of x_0 that leave [-1, 1]."""
    x_0, x_t, z = _images(3, len(timesteps))
    text = f"t = {', '.join(map(str, timesteps))}"
    return Case(text, (2 * x_0, x_t, torch.tensor(timesteps), z, PROCESS))


def _step(
    x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, diffusion: DiffusionUtils, *,
    clip: str = "x_0", weight: Callable[[Tensor], Tensor] = Tensor.sqrt,
) -> Tensor:  # fmt: skip
    """The step, and with other arguments its mistakes."""
    x_0 = x_0.clamp(-1, 1) if clip == "x_0" else x_0
    mean, variance = diffusion.posterior(x_0, x_t, t)
    mean = mean.clamp(-1, 1) if clip == "mean" else mean
    return mean + weight(variance) * z


def _step_by_beta(
    x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, diffusion: DiffusionUtils
) -> Tensor:
    mean, _ = diffusion.posterior(x_0.clamp(-1, 1), x_t, t)
    return mean + diffusion.betas[t].view(-1, 1, 1, 1).sqrt() * z


# ---- 6.4: one step of DDIM -------------------------------------------------------------------


def _jumped(t: int, s: int) -> Case:
    return Case(f"from t = {t} to s = {s} of 5", (*_images(2, 2), t, s, FEW))


def _mix(x_0: Tensor, eps: Tensor, bar_t: Tensor, bar_s: Tensor) -> Tensor:
    return bar_s.sqrt() * x_0 + (1 - bar_s).sqrt() * eps


def _eps_in(x_0: Tensor, x_t: Tensor, bar_t: Tensor, bar_s: Tensor) -> Tensor:
    return (x_t - bar_t.sqrt() * x_0) / (1 - bar_t).sqrt()


def _ddim(
    x_0: Tensor, x_t: Tensor, t: int, s: int, alpha_bar: Tensor, *,
    solve: Callable[..., Tensor] = _eps_in, mix: Callable[..., Tensor] = _mix,
) -> Tensor:  # fmt: skip
    """The step, and with other formulas its mistakes."""
    bars = alpha_bar[t], alpha_bar[s]
    return mix(x_0, solve(x_0, x_t, *bars), *bars)


EXERCISES = [
    Exercise(
        "6.1",
        "the image and the noise in v",
        _unmix,
        [_unmixed(100), _unmixed(1, 250, 320, 500), _unmixed(400, 60)],
        {
            "this uses alpha_bar where its square root belongs, equations (6.3) and (6.4)":
                partial(_unmix, weight=lambda share: share),
            "the signs of v are swapped: v has a minus in (6.3) and a plus in (6.4)":
                lambda v, x_t, t, alpha_bar: _unmix(-v, x_t, t, alpha_bar),
            "the sign of v is wrong in x_0: it has a minus in (6.3)":
                lambda v, x_t, t, bar: (_unmix(-v, x_t, t, bar)[0], _unmix(v, x_t, t, bar)[1]),
            "the sign of v is wrong in eps: it has a plus in (6.4)":
                lambda v, x_t, t, bar: (_unmix(v, x_t, t, bar)[0], _unmix(-v, x_t, t, bar)[1]),
            "this uses the output as eps, equation (6.5); this network predicts v":
                lambda v, x_t, t, bar: (
                    (x_t - (1 - bar[t].view(-1, 1, 1, 1)).sqrt() * v)
                    / bar[t].view(-1, 1, 1, 1).sqrt(), v),
            "eps is the output itself; this network predicts v: see (6.4)":
                lambda v, x_t, t, bar: (_unmix(v, x_t, t, bar)[0], v),
            "the two are swapped: x_0 comes first":
                lambda v, x_t, t, alpha_bar: _unmix(v, x_t, t, alpha_bar)[::-1],
            "the two weights are swapped: sqrt(alpha_bar) is the weight of x_t in x_0, (6.3)":
                lambda v, x_t, t, bar: _unmix(v, x_t, t, 1 - bar),
            "x_0 is returned twice: eps is (6.4)":
                lambda v, x_t, t, bar: (_unmix(v, x_t, t, bar)[0],) * 2,
            "all images get the timestep of the first one":
                lambda v, x_t, t, bar: _unmix(v, x_t, t[:1].expand(len(t)), bar),
            "alpha_bar[t] is broadcast over the columns: reshape it to (B, 1, 1, 1)":
                lambda v, x_t, t, bar: _of_bar(v, x_t, bar[t]),
            "x_0 is cut off at -1 and 1; (6.3) does not do that":
                lambda v, x_t, t, bar: (
                    _unmix(v, x_t, t, bar)[0].clamp(-1, 1), _unmix(v, x_t, t, bar)[1]),
        },
    ),
    Exercise(
        "6.2",
        "the posterior's mean and variance",
        _posterior,
        [_from(t) for t in (1, 2, 4, 5)],
        {
            "a_t and b_t are swapped: a_t belongs to x_0, equation (6.11)":
                lambda x_0, x_t, t, alpha_bar: _posterior(x_t, x_0, t, alpha_bar),
            "a_t has sqrt(alpha_bar[t]) where sqrt(alpha_bar[t - 1]) belongs, equation (6.11)":
                partial(_posterior, a=lambda bar, before, beta: bar.sqrt() * beta / (1 - bar)),
            "a_t lacks the root of alpha_bar[t - 1], equation (6.11)":
                partial(_posterior, a=lambda bar, before, beta: before * beta / (1 - bar)),
            "a_t lacks its factor beta_t, equation (6.11)":
                partial(_posterior, a=lambda bar, before, beta: before.sqrt() / (1 - bar)),
            "a_t lacks its factor sqrt(alpha_bar[t - 1]), equation (6.11)":
                partial(_posterior, a=lambda bar, before, beta: beta / (1 - bar)),
            "a_t has a root of beta_t; (6.11) has beta_t":
                partial(_posterior, a=lambda bar, before, beta:
                    (before * beta).sqrt() / (1 - bar)),
            "b_t lacks its root of alpha_t, equation (6.11)":
                partial(_posterior, b=lambda bar, before, beta:
                    (1 - beta) * (1 - before) / (1 - bar)),
            "b_t has sqrt(alpha_bar[t]) where sqrt(alpha_t) belongs, equation (6.11)":
                partial(_posterior, b=lambda bar, before, beta:
                    bar.sqrt() * (1 - before) / (1 - bar)),
            "b_t lacks its factor sqrt(alpha_t), equation (6.11)":
                partial(_posterior, b=lambda bar, before, beta: (1 - before) / (1 - bar)),
            "b_t lacks its fraction (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]), equation (6.11)":
                partial(_posterior, b=lambda bar, before, beta: (1 - beta).sqrt()),
            "b_t has sqrt(beta_t) where sqrt(alpha_t) belongs, equation (6.11)":
                partial(_posterior, b=lambda bar, before, beta:
                    beta.sqrt() * (1 - before) / (1 - bar)),
            "t counts from 1 here, and alpha_bar[0] = 1 belongs to the clean image: "
            "the step from t to t - 1 uses alpha_bar[t] and alpha_bar[t - 1]":
                lambda x_0, x_t, t, alpha_bar: _posterior(x_0, x_t, t + 1, alpha_bar),
            "this variance is beta_t; (6.10) multiplies it by "
            "(1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])":
                partial(_posterior, variance=lambda bar, before, beta: beta),
            "the variance lacks its factor beta_t, equation (6.10)":
                partial(_posterior, variance=lambda bar, before, beta: (1 - before) / (1 - bar)),
            "the fraction in the variance is turned around: (6.10) has 1 - alpha_bar[t - 1] above":
                partial(_posterior, variance=lambda bar, before, beta:
                    (1 - bar) / (1 - before) * beta),
            "the variance is 1 - alpha_bar[t]; (6.10) is much smaller":
                partial(_posterior, variance=lambda bar, before, beta: 1 - bar),
            "this is the standard deviation; (6.10) is its square":
                partial(_posterior, variance=lambda *given: _beta_tilde(*given).sqrt()),
            "this is the logarithm of the variance; (6.10) has none":
                partial(_posterior, variance=lambda *given: _beta_tilde(*given).log()),
            "the two are swapped: the mean comes first":
                lambda *given: _posterior(*given)[::-1],
            "this is the jump back from x_0 to t - 1 without x_t: the mean has a part of x_t":
                partial(_posterior, b=lambda bar, before, beta: 0 * beta),
        },
    ),
    Exercise(
        "6.3",
        "one step of DDPM",
        _step,
        [_stepped(1), _stepped(2, 250, 320, 490), _stepped(400, 60)],
        {
            "the predicted x_0 is not clipped, equation (6.14)":
                partial(_step, clip="nothing"),
            "this is clipped after the mean; clip the predicted x_0 before, equation (6.14)":
                partial(_step, clip="mean"),
            "the result is clipped; clip the predicted x_0, equation (6.14)":
                lambda *given: _step(*given, clip="nothing").clamp(-1, 1),
            "the result is clipped as well; clip x_0 alone, equation (6.14)":
                lambda *given: _step(*given).clamp(-1, 1),
            "x_0 is clipped to 0..1; images lie in -1..1":
                lambda x_0, *given: _step(x_0.clamp(0, 1), *given),
            "x_t is clipped as well: it is noisy, leave it; clip x_0 alone, equation (6.14)":
                lambda x_0, x_t, *given: _step(x_0, x_t.clamp(-1, 1), *given),
            "x_t is clipped, and x_0 is not: it is the other way round, equation (6.14)":
                lambda x_0, x_t, *given: _step(x_0, x_t.clamp(-1, 1), *given, clip="nothing"),
            "the noise is multiplied by the variance; its square root belongs there":
                partial(_step, weight=lambda variance: variance),
            "this variance is beta_t, and noise is added at the last step, too: at t = 1 the "
            "posterior's variance is 0":
                _step_by_beta,
            "no noise is added here; (6.14) adds z times the root of the variance":
                partial(_step, weight=torch.zeros_like),
            "the noise has the weight 1; (6.14) has the root of the variance":
                partial(_step, weight=torch.ones_like),
            "the noise is subtracted; (6.14) adds it":
                partial(_step, weight=lambda variance: -variance.sqrt()),
            "fresh noise is drawn: use the z that is given":
                lambda x_0, x_t, t, z, d: _step(x_0, x_t, t, torch.randn_like(z), d),
            "x_0 and x_t are exchanged in `posterior`: x_0 comes first":
                lambda x_0, x_t, t, z, d: _step(x_t, x_0.clamp(-1, 1), t, z, d, clip="nothing"),
            "this is the clipped x_0, not a step towards it: the mean is `posterior`'s":
                lambda x_0, x_t, t, z, d: x_0.clamp(-1, 1),
        },
    ),
    Exercise(
        "6.4",
        "one step of DDIM",
        _ddim,
        [_jumped(4, 2), _jumped(5, 1), _jumped(3, 0)],
        {
            "this uses x_t where its noise belongs: first solve (6.1) for eps":
                partial(_ddim, solve=lambda x_0, x_t, bar_t, bar_s: x_t),
            "the weights are those of timestep t, so x_t does not change: mix with those of s, "
            "equation (6.15)":
                lambda x_0, x_t, t, s, bar: x_t,
            "this uses alpha_bar[s] where its square root belongs, equation (6.15)":
                partial(_ddim, mix=lambda x_0, eps, bar_t, bar_s: bar_s * x_0 + (1 - bar_s) * eps),
            "the noise is mixed in with its weight at t: (6.15) has sqrt(1 - alpha_bar[s])":
                partial(_ddim, mix=lambda x_0, eps, bar_t, bar_s:
                    bar_s.sqrt() * x_0 + (1 - bar_t).sqrt() * eps),
            "x_0 is mixed in with its weight at t: (6.15) has sqrt(alpha_bar[s])":
                partial(_ddim, mix=lambda x_0, eps, bar_t, bar_s:
                    bar_t.sqrt() * x_0 + (1 - bar_s).sqrt() * eps),
            "the weight of the noise lacks its root: (6.15) has sqrt(1 - alpha_bar[s])":
                partial(_ddim, mix=lambda x_0, eps, bar_t, bar_s:
                    bar_s.sqrt() * x_0 + (1 - bar_s) * eps),
            "the weight of x_0 lacks its root: (6.15) has sqrt(alpha_bar[s])":
                partial(_ddim, mix=lambda x_0, eps, bar_t, bar_s:
                    bar_s * x_0 + (1 - bar_s).sqrt() * eps),
            "the two weights are swapped: sqrt(alpha_bar[s]) belongs to x_0, equation (6.15)":
                partial(_ddim, mix=lambda x_0, eps, bar_t, bar_s: _mix(eps, x_0, bar_t, bar_s)),
            "fresh noise is drawn; DDIM keeps the noise in x_t, equation (6.15)":
                partial(_ddim, solve=lambda x_0, *given: torch.randn_like(x_0)),
            "there is no noise in the result: mix eps in, equation (6.15)":
                partial(_ddim, solve=lambda x_0, *given: 0 * x_0),
            "eps is solved for with alpha_bar[s]; x_t is a mixture by alpha_bar[t], (6.1)":
                partial(_ddim, solve=lambda x_0, x_t, bar_t, bar_s: (
                    (x_t - bar_s.sqrt() * x_0) / (1 - bar_s).sqrt())),
            "t and s are exchanged: the noise comes from t, the result is at s":
                lambda x_0, x_t, t, s, bar: _ddim(x_0, x_t, s, t, bar),
            "eps is not divided: (6.1) gives x_t minus the image, over sqrt(1 - alpha_bar[t])":
                partial(_ddim, solve=lambda x_0, x_t, bar_t, bar_s: x_t - bar_t.sqrt() * x_0),
            "eps is divided by 1 - alpha_bar[t]; (6.1) divides by its square root":
                partial(_ddim, solve=lambda x_0, x_t, bar_t, bar_s: (
                    (x_t - bar_t.sqrt() * x_0) / (1 - bar_t))),
            "x_0 lacks the root of its weight in x_t: (6.1) has sqrt(alpha_bar[t])":
                partial(_ddim, solve=lambda x_0, x_t, bar_t, bar_s: (
                    (x_t - bar_t * x_0) / (1 - bar_t).sqrt())),
            "x_0 is subtracted with weight 1; in x_t it has sqrt(alpha_bar[t]), (6.1)":
                partial(_ddim, solve=lambda x_0, x_t, bar_t, bar_s: (
                    (x_t - x_0) / (1 - bar_t).sqrt())),
            "only one term is divided: put brackets around the difference, (6.1)":
                partial(_ddim, solve=lambda x_0, x_t, bar_t, bar_s: (
                    x_t - bar_t.sqrt() * x_0 / (1 - bar_t).sqrt())),
            "both roots of (6.1) are missing: solve it for eps with sqrt(alpha_bar[t]) and "
            "sqrt(1 - alpha_bar[t])":
                partial(_ddim, solve=lambda x_0, x_t, bar_t, bar_s: (
                    (x_t - bar_t * x_0) / (1 - bar_t))),
        },
    ),
]  # fmt: skip
