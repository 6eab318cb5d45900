"""Exercises of notebook 03: the jump, what x_t tells, and two ways back to the image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Answer, Case, noise

ALPHA_BAR = DiffusionUtils(500, "cosine").alpha_bar  # (T + 1,) float64


def _at(*timesteps: int) -> Case:
    """A batch with one image per timestep; with four images, B equals W."""
    x, other = noise(2, len(timesteps), 3, 5, 4, seed=1)
    times = " and ".join([", ".join(map(str, timesteps[:-1])), str(timesteps[-1])]).lstrip(" and")
    return Case(f"t = {times}", (x, torch.tensor(timesteps), other, ALPHA_BAR))


# ---- 3.2 ---------------------------------------------------------------------------------------


def _ideal(
    x_t: Tensor, points: Tensor, bar: float, *,
    scale: Callable[[float], float] = lambda bar: bar**0.5,
    divisor: Callable[[float], float] = lambda bar: 2 * (1 - bar),
    shares: Callable[[Tensor], Tensor] = lambda logits: torch.softmax(logits, 0),
    mean: Callable[[Tensor, Tensor], Tensor] = lambda weights, points: weights @ points,
    number: Callable[[Tensor], Tensor] = lambda weights: torch.special.entr(weights).sum().exp(),
    power: int = 2,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Weights, mean and number still possible; change the arguments to make mistakes."""
    distance = (x_t - scale(bar) * points).norm(dim=1) ** power  # (N,)
    weights = shares(-distance / divisor(bar))
    return weights, mean(weights, points), number(weights)


def _divided(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum()


CLOUD = noise(5, 3, seed=4, dtype=torch.float64)  # five points
SEEN = noise(3, seed=5, dtype=torch.float64)


# ---- 3.1, 3.3 and 3.4 ---------------------------------------------------------------------------


def _by(formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Answer:
    """An answer by a formula of two batches of images and of alpha_bar[t], (B, 1, 1, 1)."""

    def answer(x: Tensor, t: Tensor, other: Tensor, alpha_bar: Tensor) -> Tensor:
        return formula(x, other, alpha_bar[t].view(-1, 1, 1, 1)).float()

    return answer


def _first_timestep(answer: Answer) -> Answer:
    return lambda x, t, other, alpha_bar: answer(x, t[:1].expand(len(t)), other, alpha_bar)


def _along_columns(formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Answer:
    return lambda x, t, other, alpha_bar: formula(x, other, alpha_bar[t]).float()


def _mix(x_0: Tensor, eps: Tensor, bar: Tensor) -> Tensor:
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * eps


def _unmix(eps: Tensor, x_t: Tensor, bar: Tensor) -> Tensor:
    return (x_t - (1 - bar).sqrt() * eps) / bar.sqrt()


def _unturn(v: Tensor, x_t: Tensor, bar: Tensor) -> Tensor:
    return bar.sqrt() * x_t - (1 - bar).sqrt() * v


COLUMNS = "alpha_bar[t] is broadcast over the columns: reshape it to (B, 1, 1, 1)"
FIRST = "all images get the timestep of the first one: take alpha_bar[t] for the whole batch"


EXERCISES = [
    Exercise(
        "3.1",
        "noise to timestep t in one jump",
        _by(_mix),
        [_at(0), _at(1, 100, 250, 500), _at(150, 320)],
        {
            "this uses alpha_bar instead of its square root, equation (2.5)":
                _by(lambda x_0, eps, bar: bar * x_0 + (1 - bar) * eps),
            "the weight of the noise is 1 - sqrt(alpha_bar); (2.5) has sqrt(1 - alpha_bar)":
                _by(lambda x_0, eps, bar: bar.sqrt() * x_0 + (1 - bar.sqrt()) * eps),
            "the weight of the noise lacks its root: it is sqrt(1 - alpha_bar), equation (2.5)":
                _by(lambda x_0, eps, bar: bar.sqrt() * x_0 + (1 - bar) * eps),
            "the weight of the image lacks its root: it is sqrt(alpha_bar), equation (2.5)":
                _by(lambda x_0, eps, bar: bar * x_0 + (1 - bar).sqrt() * eps),
            "the image has the weight 1; its weight in (2.5) is sqrt(alpha_bar)":
                _by(lambda x_0, eps, bar: x_0 + (1 - bar).sqrt() * eps),
            "the noise has the weight 1; its weight in (2.5) is sqrt(1 - alpha_bar)":
                _by(lambda x_0, eps, bar: bar.sqrt() * x_0 + eps),
            "the two weights are swapped: sqrt(alpha_bar) multiplies the image, equation (2.5)":
                _by(lambda x_0, eps, bar: _mix(eps, x_0, bar)),
            "t - 1 reads the previous entry, at t = 0 the last one: the table has T + 1 entries, "
            "use alpha_bar[t]":
                lambda x_0, t, eps, bar: _by(_mix)(x_0, t - 1, eps, bar),
            "alpha_bar is used like alphas: it is already their product":
                lambda x_0, t, eps, bar: _by(_mix)(x_0, t, eps, bar.cumprod(0)),
            FIRST: _first_timestep(_by(_mix)),
            "all images share the noise of the first one":
                lambda x_0, t, eps, bar: _by(_mix)(x_0, t, eps[:1].expand_as(eps), bar),
            COLUMNS: _along_columns(_mix),
            "fresh noise is drawn: use the eps that is given":
                lambda x_0, t, eps, bar: _by(_mix)(x_0, t, torch.randn_like(x_0), bar),
            "x_t is clipped to [-1, 1]: do not clip, noise may lie outside":
                _by(lambda x_0, eps, bar: _mix(x_0, eps, bar).clamp(-1, 1)),
        },
        exact_dtype=True,
    ),
    Exercise(
        "3.2",
        "what x_t tells about the clean point",
        _ideal,
        [
            Case("five points, alpha_bar = 0.3", (SEEN, CLOUD, 0.3)),
            Case("five points, alpha_bar = 0.8", (1.5 * SEEN, CLOUD, 0.8)),
            Case("five points, alpha_bar = 0", (SEEN, CLOUD, 0.0)),
            Case("x_t far from all points", (4000 * SEEN, CLOUD, 0.6)),
        ],
        {
            "the points are scaled by alpha_bar; (3.1) has sqrt(alpha_bar)":
                partial(_ideal, scale=lambda bar: bar),
            "the points are not scaled: x_t holds sqrt(alpha_bar) times the clean point":
                partial(_ideal, scale=lambda bar: 1.0),
            "the factor 2 in the exponent is missing, equation (3.1)":
                partial(_ideal, divisor=lambda bar: 1 - bar),
            "the exponent is divided by the standard deviation; (3.1) has the variance, "
            "1 - alpha_bar":
                partial(_ideal, divisor=lambda bar: 2 * (1 - bar) ** 0.5),
            "the exponent is divided by alpha_bar; (3.1) has the variance of the noise, "
            "1 - alpha_bar":
                partial(_ideal, divisor=lambda bar: 2 * bar),
            "the exponent is not divided; (3.1) divides by 2 (1 - alpha_bar)":
                partial(_ideal, divisor=lambda bar: 1.0),
            "the sign of the exponent is wrong: far points get the largest weights":
                partial(_ideal, divisor=lambda bar: -2 * (1 - bar)),
            "the distance is not squared, equation (3.1)": partial(_ideal, power=1),
            "far from all points every exponential is 0, and 0 / 0 is NaN: use softmax":
                partial(_ideal, shares=_divided),
            "the weights do not add up to 1: divide by their sum":
                partial(_ideal, shares=lambda logits: logits.exp()),
            "this is the unweighted mean of all points: multiply each point by its weight":
                partial(_ideal, mean=lambda weights, points: points.mean(0)),
            "this is the likeliest point, not the mean, equation (3.2)":
                partial(_ideal, mean=lambda weights, points: points[weights.argmax()]),
            "the weighted sum is divided by the number of points: the weights add up to 1":
                partial(_ideal, mean=lambda weights, points: weights @ points / len(points)),
            "this is the entropy; (3.3) has its exponential":
                partial(_ideal, number=lambda weights: torch.special.entr(weights).sum()),
            "a weight of 0 makes the entropy NaN: use torch.special.entr, which gives 0":
                partial(_ideal, number=lambda weights: (-(weights * weights.log()).sum()).exp()),
            "the sign of the entropy is wrong: this is the inverse of the number":
                partial(_ideal, number=lambda weights: (-torch.special.entr(weights).sum()).exp()),
            "this is 1 / sum of squared weights, another measure; (3.3) has the entropy":
                partial(_ideal, number=lambda weights: 1 / weights.square().sum()),
            "the logarithm has base 2, but the exponential has base e":
                partial(_ideal, number=lambda weights:
                    (torch.special.entr(weights).sum() / torch.tensor(2.0).log()).exp()),
            "this counts the weights above 0; (3.3) counts unequal weights as fewer":
                partial(_ideal, number=lambda weights: (weights > 0).sum()),
        },
    ),
    Exercise(
        "3.3",
        "x_0 from the noise",
        _by(_unmix),
        [_at(0), _at(50, 100, 250, 400), _at(150, 320)],
        {
            "the noise is gone but the image is still faint: divide by sqrt(alpha_bar), (2.10)":
                _by(lambda eps, x_t, bar: x_t - (1 - bar).sqrt() * eps),
            "only x_t is divided: put brackets around the difference, equation (2.10)":
                _by(lambda eps, x_t, bar: x_t / bar.sqrt() - (1 - bar).sqrt() * eps),
            "only the noise is divided: put brackets around the difference, equation (2.10)":
                _by(lambda eps, x_t, bar: x_t - (1 - bar).sqrt() * eps / bar.sqrt()),
            "eps is subtracted with weight 1; its weight in x_t is sqrt(1 - alpha_bar)":
                _by(lambda eps, x_t, bar: (x_t - eps) / bar.sqrt()),
            "this uses alpha_bar instead of its square root, equation (2.10)":
                _by(lambda eps, x_t, bar: (x_t - (1 - bar) * eps) / bar),
            "this divides by alpha_bar; (2.10) divides by its square root":
                _by(lambda eps, x_t, bar: (x_t - (1 - bar).sqrt() * eps) / bar),
            "the weight of eps lacks its root: it is sqrt(1 - alpha_bar), equation (2.10)":
                _by(lambda eps, x_t, bar: (x_t - (1 - bar) * eps) / bar.sqrt()),
            "the weight of eps is 1 - sqrt(alpha_bar); (2.10) has sqrt(1 - alpha_bar)":
                _by(lambda eps, x_t, bar: (x_t - (1 - bar.sqrt()) * eps) / bar.sqrt()),
            "this multiplies by sqrt(alpha_bar); (2.10) divides by it":
                _by(lambda eps, x_t, bar: (x_t - (1 - bar).sqrt() * eps) * bar.sqrt()),
            "the noise is added; (2.10) subtracts it":
                _by(lambda eps, x_t, bar: _unmix(-eps, x_t, bar)),
            "the two weights are swapped: eps has sqrt(1 - alpha_bar) in x_t":
                _by(lambda eps, x_t, bar: (x_t - bar.sqrt() * eps) / (1 - bar).sqrt()),
            "eps is treated as if it were v": _by(lambda eps, x_t, bar: _unturn(eps, x_t, bar)),
            FIRST: _first_timestep(_by(_unmix)),
            COLUMNS: _along_columns(_unmix),
            "x_0 is clipped to [-1, 1]; (2.10) does not do that":
                _by(lambda eps, x_t, bar: _unmix(eps, x_t, bar).clamp(-1, 1)),
        },
        tolerance=1e-4,
        exact_dtype=True,
    ),
    Exercise(
        "3.4",
        "x_0 from the velocity",
        _by(_unturn),
        [_at(0), _at(50, 100, 400, 500), _at(150, 320)],
        {
            "the sign of v is wrong: (3.4) subtracts the image":
                _by(lambda v, x_t, bar: bar.sqrt() * x_t + (1 - bar).sqrt() * v),
            "this is the noise, not the image: the two weights are swapped":
                _by(lambda v, x_t, bar: (1 - bar).sqrt() * x_t + bar.sqrt() * v),
            "the two weights are swapped": _by(lambda v, x_t, bar: _unturn(v, x_t, 1 - bar)),
            "v is treated as if it were eps, equation (2.10); solve (2.5) and (3.4) together":
                _by(lambda v, x_t, bar: (x_t - (1 - bar).sqrt() * v) / bar.sqrt()),
            "this uses alpha_bar instead of its square root":
                _by(lambda v, x_t, bar: bar * x_t - (1 - bar) * v),
            "the whole result has the wrong sign": _by(lambda v, x_t, bar: -_unturn(v, x_t, bar)),
            "x_t has the weight 1; it is sqrt(alpha_bar)":
                _by(lambda v, x_t, bar: x_t - (1 - bar).sqrt() * v),
            "v is subtracted with weight 1; its weight is sqrt(1 - alpha_bar)":
                _by(lambda v, x_t, bar: bar.sqrt() * x_t - v),
            "it is divided by sqrt(alpha_bar) at the end: the squares of the two weights add up "
            "to 1, so there is nothing to divide by":
                _by(lambda v, x_t, bar: _unturn(v, x_t, bar) / bar.sqrt()),
            FIRST: _first_timestep(_by(_unturn)),
            COLUMNS: _along_columns(_unturn),
            "x_0 is clipped to [-1, 1]; the task does not ask for that":
                _by(lambda v, x_t, bar: _unturn(v, x_t, bar).clamp(-1, 1)),
        },
        exact_dtype=True,
    ),
]  # fmt: skip
