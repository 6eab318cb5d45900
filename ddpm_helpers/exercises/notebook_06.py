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


# ---- 6.1: how many images are still possible along a walk -------------------------------------

ALONG = torch.tensor([0, 0.15, 0.4, 0.75], dtype=torch.float64)  # alpha_bar, from noise to image
LABELS = torch.tensor([2, 0, 1, 2, 0, 2, 2, 0])  # four of class 2, three of class 0, one of 1


def _walk(text: str, y: int, places: int = 4, far: float = 1) -> Case:
    walk = far * noise(places, 3, seed=7, dtype=torch.float64)
    images = noise(len(LABELS), 3, seed=8, dtype=torch.float64)
    return Case(text, (walk, images, LABELS, y, ALONG[-places:]))


def _possible(
    walk: Tensor, images: Tensor, labels: Tensor, y: int, bars: Tensor, *,
    scale: Callable[[Tensor], Tensor] = Tensor.sqrt,
    divisor: Callable[[Tensor], Tensor] = lambda bars: 2 * (1 - bars),
    shares: Callable[[Tensor], Tensor] = lambda logits: logits.softmax(1),
    number: Callable[[Tensor], Tensor] = lambda w: torch.special.entr(w).sum(1).exp(),
    power: int = 2,
) -> Tensor:  # fmt: skip
    """The number at each place, (K,); change the arguments to make mistakes."""
    images = images[labels == y]  # (n, D)
    bars = bars[:, None]  # (K, 1)
    away = (walk[:, None] - scale(bars)[..., None] * images).norm(dim=2) ** power  # (K, n)
    return number(shares(-away / divisor(bars)))


def _masked_too_late(walk: Tensor, images: Tensor, labels: Tensor, y: int, bars: Tensor) -> Tensor:
    """Softmax over all images, then count only those of class y."""

    def number(weights: Tensor) -> Tensor:
        return torch.special.entr(weights[:, labels == y]).sum(1).exp()

    return _possible(walk, images, torch.full_like(labels, y), y, bars, number=number)


# ---- 6.2: the posterior ----------------------------------------------------------------------

Numbers = Callable[[Tensor, Tensor, Tensor], Tensor]  # alpha_bar[t], alpha_bar[t - 1], beta


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
    """Mean and variance; change the arguments to make mistakes."""
    bar, before = alpha_bar[t], alpha_bar[t - 1]
    given = (bar, before, 1 - bar / before)
    return a(*given) * x_0 + b(*given) * x_t, variance(*given)


def _from(t: int) -> Case:
    return Case(f"t = {t} of 5", (*_images(2, 2), t, FEW))


# ---- 6.3: one step of DDPM -------------------------------------------------------------------


def _stepped(*timesteps: int) -> Case:
    """Guesses of x_0, some outside [-1, 1]."""
    x_0, x_t, z = _images(3, len(timesteps))
    text = f"t = {', '.join(map(str, timesteps))}"
    return Case(text, (2 * x_0, x_t, torch.tensor(timesteps), z, PROCESS))


def _step(
    x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, diffusion: DiffusionUtils, *,
    clip: str = "x_0", weight: Callable[[Tensor], Tensor] = Tensor.sqrt,
) -> Tensor:  # fmt: skip
    """The step; change the arguments to make mistakes."""
    x_0 = x_0.clamp(-1, 1) if clip == "x_0" else x_0
    mean, variance = diffusion.posterior(x_0, x_t, t)
    mean = mean.clamp(-1, 1) if clip == "mean" else mean
    return mean + weight(variance) * z


def _step_by_beta(
    x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor, diffusion: DiffusionUtils
) -> Tensor:
    mean, _ = diffusion.posterior(x_0.clamp(-1, 1), x_t, t)
    return mean + diffusion.betas[t].view(-1, 1, 1, 1).sqrt() * z


EXERCISES = [
    Exercise(
        "6.1",
        "the number of images still possible along a walk",
        _possible,
        [
            _walk("four places, four images of the class", 2),
            _walk("three places, three images of the class", 0, places=3),
            _walk("one image of the class", 1),
            _walk("places far from all images", 2, far=4000),
        ],
        {
            "the images of other classes are counted too: keep only those with labels == y":
                lambda walk, images, labels, y, bars: (
                    _possible(walk, images, torch.full_like(labels, y), y, bars)),
            "the shares of the class do not add up to 1: remove other classes before softmax":
                _masked_too_late,
            "these are the images of the other classes: keep those with labels == y":
                lambda walk, images, labels, y, bars: (
                    _possible(walk, images, labels != y, True, bars)),
            "the images are scaled by alpha_bar; (3.1) has sqrt(alpha_bar)":
                partial(_possible, scale=lambda bars: bars),
            "the images are not scaled: x_t holds sqrt(alpha_bar) times the clean image":
                partial(_possible, scale=torch.ones_like),
            "the factor 2 in the exponent is missing, equation (3.1)":
                partial(_possible, divisor=lambda bars: 1 - bars),
            "the exponent is divided by the standard deviation; (3.1) has the variance, "
            "1 - alpha_bar":
                partial(_possible, divisor=lambda bars: 2 * (1 - bars).sqrt()),
            "the exponent is not divided; (3.1) divides by 2 (1 - alpha_bar)":
                partial(_possible, divisor=torch.ones_like),
            "the sign of the exponent is wrong: far images get the largest shares":
                partial(_possible, divisor=lambda bars: -2 * (1 - bars)),
            "the distance is not squared, equation (3.1)": partial(_possible, power=1),
            "softmax runs over the places; the shares of all images at one place add up to 1":
                partial(_possible, shares=lambda logits: logits.softmax(0)),
            "far from all images every exponential is 0, and 0 / 0 is NaN: use softmax":
                partial(_possible, shares=lambda logits: (
                    logits.exp() / logits.exp().sum(1, keepdim=True))),
            "the shares do not add up to 1: divide by their sum":
                partial(_possible, shares=torch.exp),
            "this is the entropy; (3.3) has its exponential":
                partial(_possible, number=lambda w: torch.special.entr(w).sum(1)),
            "a share of 0 makes the entropy NaN: use torch.special.entr, which gives 0":
                partial(_possible, number=lambda w: (-(w * w.log()).sum(1)).exp()),
            "the sign of the entropy is wrong: this is the inverse of the number":
                partial(_possible, number=lambda w: (-torch.special.entr(w).sum(1)).exp()),
            "this is 1 / sum of squared shares, another measure; (3.3) has the entropy":
                partial(_possible, number=lambda w: 1 / w.square().sum(1)),
            "the logarithm has base 2, but the exponential has base e":
                partial(_possible, number=lambda w: (
                    (torch.special.entr(w).sum(1) / torch.tensor(2.0).log()).exp())),
            "this counts the shares above 0; (3.3) counts unequal shares as fewer":
                partial(_possible, number=lambda w: (w > 0).sum(1).double()),
            "all places get the alpha_bar of the first one":
                lambda walk, images, labels, y, bars: (
                    _possible(walk, images, labels, y, bars[:1].expand(len(bars)))),
        },
    ),
    Exercise(
        "6.2",
        "the posterior's mean and variance",
        _posterior,
        [_from(t) for t in (1, 2, 4, 5)],
        {
            "a_t and b_t are swapped: a_t multiplies x_0, equation (6.7)":
                lambda x_0, x_t, t, alpha_bar: _posterior(x_t, x_0, t, alpha_bar),
            "a_t has sqrt(alpha_bar[t]) instead of sqrt(alpha_bar[t - 1]), equation (6.7)":
                partial(_posterior, a=lambda bar, before, beta: bar.sqrt() * beta / (1 - bar)),
            "a_t lacks the root of alpha_bar[t - 1], equation (6.7)":
                partial(_posterior, a=lambda bar, before, beta: before * beta / (1 - bar)),
            "a_t lacks its factor beta_t, equation (6.7)":
                partial(_posterior, a=lambda bar, before, beta: before.sqrt() / (1 - bar)),
            "a_t lacks its factor sqrt(alpha_bar[t - 1]), equation (6.7)":
                partial(_posterior, a=lambda bar, before, beta: beta / (1 - bar)),
            "a_t has a root of beta_t; (6.7) has beta_t":
                partial(_posterior, a=lambda bar, before, beta:
                    (before * beta).sqrt() / (1 - bar)),
            "b_t lacks its root of alpha_t, equation (6.7)":
                partial(_posterior, b=lambda bar, before, beta:
                    (1 - beta) * (1 - before) / (1 - bar)),
            "b_t has sqrt(alpha_bar[t]) instead of sqrt(alpha_t), equation (6.7)":
                partial(_posterior, b=lambda bar, before, beta:
                    bar.sqrt() * (1 - before) / (1 - bar)),
            "b_t lacks its factor sqrt(alpha_t), equation (6.7)":
                partial(_posterior, b=lambda bar, before, beta: (1 - before) / (1 - bar)),
            "b_t lacks its fraction (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]), equation (6.7)":
                partial(_posterior, b=lambda bar, before, beta: (1 - beta).sqrt()),
            "b_t has sqrt(beta_t) instead of sqrt(alpha_t), equation (6.7)":
                partial(_posterior, b=lambda bar, before, beta:
                    beta.sqrt() * (1 - before) / (1 - bar)),
            "t counts from 1, and alpha_bar[0] = 1 is for the clean image: "
            "the step from t to t - 1 uses alpha_bar[t] and alpha_bar[t - 1]":
                lambda x_0, x_t, t, alpha_bar: _posterior(x_0, x_t, t + 1, alpha_bar),
            "this variance is beta_t; (6.6) multiplies it by "
            "(1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])":
                partial(_posterior, variance=lambda bar, before, beta: beta),
            "the variance lacks its factor beta_t, equation (6.6)":
                partial(_posterior, variance=lambda bar, before, beta: (1 - before) / (1 - bar)),
            "the fraction in the variance is inverted: (6.6) has 1 - alpha_bar[t - 1] above":
                partial(_posterior, variance=lambda bar, before, beta:
                    (1 - bar) / (1 - before) * beta),
            "this variance is 1 - alpha_bar[t]; (6.6) is much smaller":
                partial(_posterior, variance=lambda bar, before, beta: 1 - bar),
            "this is the standard deviation; (6.6) is its square":
                partial(_posterior, variance=lambda *given: _beta_tilde(*given).sqrt()),
            "this is the logarithm of the variance; (6.6) has none":
                partial(_posterior, variance=lambda *given: _beta_tilde(*given).log()),
            "mean and variance are swapped: return the mean first":
                lambda *given: _posterior(*given)[::-1],
            "this noises x_0 to t - 1 without x_t: the mean has a term with x_t":
                partial(_posterior, b=lambda bar, before, beta: 0 * beta),
        },
    ),
    Exercise(
        "6.3",
        "one step of DDPM",
        _step,
        [_stepped(1), _stepped(2, 250, 320, 490), _stepped(400, 60)],
        {
            "the predicted x_0 is not clipped, equation (6.10)":
                partial(_step, clip="nothing"),
            "this is clipped after the mean; clip the predicted x_0 before, equation (6.10)":
                partial(_step, clip="mean"),
            "the result is clipped; clip the predicted x_0, equation (6.10)":
                lambda *given: _step(*given, clip="nothing").clamp(-1, 1),
            "the result is clipped as well; clip only x_0, equation (6.10)":
                lambda *given: _step(*given).clamp(-1, 1),
            "x_0 is clipped to 0..1; images lie in -1..1":
                lambda x_0, *given: _step(x_0.clamp(0, 1), *given),
            "x_t is clipped as well: it is noisy, so clip only x_0, equation (6.10)":
                lambda x_0, x_t, *given: _step(x_0, x_t.clamp(-1, 1), *given),
            "x_t is clipped instead of x_0, equation (6.10)":
                lambda x_0, x_t, *given: _step(x_0, x_t.clamp(-1, 1), *given, clip="nothing"),
            "the noise is multiplied by the variance; multiply it by its square root":
                partial(_step, weight=lambda variance: variance),
            "this variance is beta_t, and noise is added at the last step, too: at t = 1 the "
            "posterior's variance is 0":
                _step_by_beta,
            "no noise is added here; (6.10) adds z times the root of the variance":
                partial(_step, weight=torch.zeros_like),
            "the noise has the weight 1; (6.10) has the root of the variance":
                partial(_step, weight=torch.ones_like),
            "the noise is subtracted; (6.10) adds it":
                partial(_step, weight=lambda variance: -variance.sqrt()),
            "fresh noise is drawn: use the z that is given":
                lambda x_0, x_t, t, z, d: _step(x_0, x_t, t, torch.randn_like(z), d),
            "x_0 and x_t are swapped in `posterior`: x_0 comes first":
                lambda x_0, x_t, t, z, d: _step(x_t, x_0.clamp(-1, 1), t, z, d, clip="nothing"),
            "this is the clipped x_0, not a step towards it: use the mean from `posterior`":
                lambda x_0, x_t, t, z, d: x_0.clamp(-1, 1),
        },
    ),
]  # fmt: skip
