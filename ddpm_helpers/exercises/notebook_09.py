"""Exercises of notebook 09: measures of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.evaluation.distances import (
    frechet_distance,
    precision_recall,
)
from ddpm_helpers.evaluation.memorising import nearest_neighbours
from ddpm_helpers.exercises.exercise import Answer, Exercise, Trial, noise


def _points(n: int, width: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return shift + scale * torch.randn(n, width, generator=generator, dtype=torch.float64) @ mixing


# ---- 9.1: the Fréchet distance -----------------------------------------------------------


def _frechet_trial(text: str, **other: float) -> Trial:
    return Trial(text, lambda f: f(_points(12, 3, 1), _points(12, 3, 2, **other)))


def _frechet(
    a: Tensor, b: Tensor, *, power: int = 2, factor: float = 2.0, by_element: bool = False,
    covariance: Callable[[Tensor], Tensor] = lambda x: torch.cov(x.T),
) -> Tensor:  # fmt: skip
    """The distance, and with other arguments its mistakes."""
    C_a, C_b = covariance(a), covariance(b)
    roots = torch.linalg.eigvals(C_a @ C_b).sqrt().real.sum()
    if by_element:
        roots = (C_a @ C_b).abs().sqrt().trace()
    means = (a.mean(0) - b.mean(0)).norm() ** power
    return means + C_a.trace() + C_b.trace() - factor * roots


# ---- 9.2: precision and recall -----------------------------------------------------------


REAL = _points(40, 2, 5)
NARROW, WIDE = 0.35 * REAL[:30] + 0.05, _points(40, 2, 5, 0.4, 1.8)


def _within_mean_radius(points: Tensor, cloud: Tensor) -> float:
    radius = torch.cdist(cloud, cloud).kthvalue(4, dim=1).values.mean()
    return (torch.cdist(points, cloud) <= radius).any(1).double().mean().item()


# ---- 9.3: the nearest training picture ---------------------------------------------------


def _neighbours(answer: Answer) -> tuple[Tensor, Tensor]:
    training, away = noise(10, 3, 4, 4, seed=7).split([7, 3])
    return answer(training[[4, 1, 6]] + 0.3 * away, training)


def _nearest(
    x: Tensor, training: Tensor, *, measure: Callable[[Tensor], Tensor] = lambda rms: rms
) -> tuple[Tensor, Tensor]:
    found = nearest_neighbours(x, training)
    return found.index[:, 0], measure(found.distance[:, 0])


def _distances(x: Tensor, training: Tensor) -> Tensor:
    return torch.cdist(x.flatten(1), training.flatten(1)) / math.sqrt(x[0].numel())  # (n, N)


# ---- 9.4: a term of the bound ------------------------------------------------------------


def _term(answer: Answer, t: int) -> Tensor:
    x_0, error = noise(2, 2, 3, 4, 4, seed=6)
    bar = DiffusionUtils(100).alpha_bar
    return answer(x_0.double(), (x_0 + 0.1 * error).double(), t, bar)


def _bits(
    x_0: Tensor, guess: Tensor, t: int, bar: Tensor, *,
    log_2: float = math.log(2), power: int = 2, of_beta: bool = False, total: bool = False,
) -> Tensor:  # fmt: skip
    """L_{t-1} in bits per dimension, and with other arguments its mistakes."""
    beta = 1 - bar[t] / bar[t - 1]
    a = bar[t - 1].sqrt() * beta / (1 - bar[t])
    variance = beta if of_beta else (1 - bar[t - 1]) / (1 - bar[t]) * beta
    square = (x_0 - guess).square().flatten(1)
    return a**power / (2 * variance) * (square.sum(1) if total else square.mean(1)) / log_2


EXERCISES = [
    Exercise(
        "9.1",
        "the Fréchet distance of two sets of features",
        lambda a, b: torch.tensor(frechet_distance(a, b), dtype=torch.float64),
        [
            _frechet_trial("other means", shift=1.5),
            _frechet_trial("another width", scale=2.0),
        ],
        {
            "the root is taken entry by entry: it is the root of a matrix, whose trace is the "
            "sum of the roots of the eigenvalues of C_a C_b":
                partial(_frechet, by_element=True),
            "the distance of the means lacks its square, equation (9.2)":
                partial(_frechet, power=1),
            "the root lacks its factor 2, equation (9.2)": partial(_frechet, factor=1.0),
            "torch.cov takes variables as rows: give it a.T, or it compares pictures "
            "instead of features": partial(_frechet, covariance=torch.cov),
        },
        tolerance=1e-4,
    ),
    Exercise(
        "9.2",
        "precision and recall",
        precision_recall,
        [
            Trial("fakes that are too much alike", lambda f: f(REAL.clone(), NARROW.clone())),
            Trial("fakes that are too wild", lambda f: f(REAL.clone(), WIDE.clone())),
        ],
        {
            "the two are swapped: precision is the share of the fakes that lie among the "
            "real ones": lambda real, fake: precision_recall(fake, real),
            "each point counts as its own first neighbour: take the fourth smallest distance":
                partial(precision_recall, k=2),
            "one mean radius for all: each point has its own, wide where the set is sparse":
                lambda real, fake: (
                    _within_mean_radius(fake, real), _within_mean_radius(real, fake)),
        },
    ),
    Exercise(
        "9.3",
        "the nearest training picture of each sample, and how far it is",
        _nearest,
        [Trial("3 samples and 7 training pictures", _neighbours)],
        {
            "sample i is compared with training picture i alone: compare it with all":
                lambda x, training: (torch.arange(len(x)), _distances(x, training).diagonal()),
            "this is the sum of squares: take the root of the mean":
                partial(_nearest, measure=lambda rms: 3 * 4 * 4 * rms.square()),
            "this is the mean square: its root is in the units of the pixels":
                partial(_nearest, measure=Tensor.square),
            "this is the most distant picture":
                lambda x, training: _distances(x, training).max(1)[::-1],
            "this finds each training picture's nearest sample: swap the two":
                lambda x, training: _nearest(training, x),
        },
        tolerance=1e-4,
    ),
    Exercise(
        "9.4",
        "a term of the bound, in bits per dimension",
        _bits,
        [Trial(f"t = {t}", partial(_term, t=t)) for t in (2, 40)],
        {
            "these are nats: divide by log 2": partial(_bits, log_2=1.0),
            "this is the sum over all values: per dimension means their mean":
                partial(_bits, total=True),
            "a_t lacks its square, equation (9.6)": partial(_bits, power=1),
            "this divides by beta_t: the posterior's variance is smaller, equation (6.10)":
                partial(_bits, of_beta=True),
        },
    ),
]  # fmt: skip
