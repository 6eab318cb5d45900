"""Exercises of notebook 09: measures of images."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ddpm_helpers.evaluation.distances import frechet_distance, precision_recall
from ddpm_helpers.evaluation.memorising import find_copies
from ddpm_helpers.exercises.exercise import Exercise
from ddpm_helpers.exercises.running import Case, noise


def _points(n: int, width: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return shift + scale * torch.randn(n, width, generator=generator, dtype=torch.float64) @ mixing


# ---- 9.1: the Fréchet distance -----------------------------------------------------------


def _apart(text: str, n: int, **other: float) -> Case:
    return Case(text, (_points(14, 3, 1), _points(n, 3, 2, **other)))


def _roots(C_a: Tensor, C_b: Tensor) -> Tensor:
    return torch.linalg.eigvals(C_a @ C_b).sqrt().real.sum()


def _off_the_diagonal(x: Tensor) -> Tensor:
    return torch.cov(x.T).sum() - torch.cov(x.T).trace()


def _square_of_means(a: Tensor, b: Tensor) -> Tensor:
    return (a.mean(0) - b.mean(0)).square().sum()


def _frechet(
    a: Tensor, b: Tensor, *, factor: float = 2.0,
    roots: Callable[[Tensor, Tensor], Tensor] = _roots,
    means: Callable[[Tensor, Tensor], Tensor] = _square_of_means,
    covariance: Callable[[Tensor], Tensor] = lambda x: torch.cov(x.T),
) -> Tensor:  # fmt: skip
    """The distance; change the arguments to make mistakes."""
    C_a, C_b = covariance(a), covariance(b)
    return means(a, b) + C_a.trace() + C_b.trace() - factor * roots(C_a, C_b)


# ---- 9.2: precision and recall -----------------------------------------------------------


REAL = _points(40, 2, 5)
NARROW, WIDE = 0.35 * REAL[:30] + 0.05, _points(35, 2, 5, 0.4, 1.8)


def _within_mean_radius(points: Tensor, cloud: Tensor) -> float:
    radius = torch.cdist(cloud, cloud).kthvalue(4, dim=1).values.mean()
    return (torch.cdist(points, cloud) <= radius).any(1).double().mean().item()


def _within_largest_radius(points: Tensor, cloud: Tensor) -> float:
    radius = torch.cdist(cloud, cloud).kthvalue(4, dim=1).values.max()
    return (torch.cdist(points, cloud) <= radius).any(1).double().mean().item()


def _share_among(points: Tensor, cloud: Tensor, radius_of: Tensor) -> float:
    """The share of points within the radii, of one set or another, around a cloud."""
    radius = torch.cdist(radius_of, radius_of).kthvalue(4, dim=1).values  # (n,)
    return (torch.cdist(points, cloud) <= radius[:, None]).any(1).double().mean().item()


def _within_all(points: Tensor, cloud: Tensor) -> float:
    radius = torch.cdist(cloud, cloud).kthvalue(4, dim=1).values
    return (torch.cdist(points, cloud) <= radius).double().mean().item()


# ---- 9.3: copies -------------------------------------------------------------------------

STRENGTHS = torch.tensor([0.2, 0.6, 0.65, 0.9, 1.2, 2.0])  # noise strength on a training image


def _near(n: int, m: int, scale: float = 1.0) -> Case:
    """Training images under more and more noise: the first three are copies."""
    training, away = (scale * noise(n + m, 3, 4, 5, seed=7)).split([m, n])
    picked = torch.tensor([4, 1, 6, 0, 3, 2])[:n] % m
    samples = training[picked] + STRENGTHS[:n, None, None, None] * away
    return Case(f"{n} samples and {m} training images", (samples, training))


def _line(samples: list[float], training: list[float]) -> tuple[Tensor, Tensor]:
    """Images of one value each."""
    return torch.tensor(samples).view(-1, 1, 1, 1), torch.tensor(training).view(-1, 1, 1, 1)


HALF = Case("a sample exactly half as far from one image as from the other",
            _line([0.0, 0.5, 3.0], [1.0, -2.0]))  # fmt: skip
ALIKE = Case("two training images that are nearly the same",
             _line([0.0, 1.15, 3.0], [1.0, -5.0, 1.2, 4.0]))  # fmt: skip


def _copies(
    x: Tensor, training: Tensor, *,
    copied: Callable[[Tensor, Tensor], Tensor] = lambda nearest, second: nearest < second / 2,
    measure: Callable[[Tensor], Tensor] = lambda rms: rms,
    second: Callable[[Tensor], Tensor] = lambda rms: rms.topk(2, largest=False).values[:, 1],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Nearest training image, distance, whether copied; change the arguments to make mistakes."""
    away = _distances(x, training)  # (n, N)
    nearest = away.min(1)
    return nearest.indices, measure(nearest.values), copied(nearest.values, second(away))


def _solution(x: Tensor, training: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = find_copies(x, training)
    return found.index, found.distance, found.copied


def _distances(x: Tensor, training: Tensor) -> Tensor:
    return torch.cdist(x.flatten(1), training.flatten(1)) / math.sqrt(x[0].numel())  # (n, N)


def _with_values(values: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """The right images and copies, but different distances."""
    return lambda x, training: (
        _copies(x, training)[0], values(x, training), _copies(x, training)[2])  # fmt: skip


EXERCISES = [
    Exercise(
        "9.1",
        "the Fréchet distance of two sets of features",
        lambda a, b: torch.tensor(frechet_distance(a, b), dtype=torch.float64),
        [
            _apart("other means", 11, shift=1.5),
            _apart("a different width, equally many images in both sets", 14, scale=2.0),
            Case("features in which the sets differ unevenly",
                 (_points(14, 4, 3) * torch.tensor([1, 3, 0.2, 2.0]), _points(19, 4, 4, 0.7))),
        ],
        {
            "the root is taken of each entry: use the matrix root, whose trace is the "
            "sum of the roots of the eigenvalues of C_a C_b":
                partial(_frechet, roots=lambda C_a, C_b: (C_a @ C_b).abs().sqrt().trace()),
            "the root is missing: this is the trace of C_a C_b, equation (9.2)":
                partial(_frechet, roots=lambda C_a, C_b: (C_a @ C_b).trace()),
            "C_a and C_b are multiplied entry by entry: (9.2) has the matrix product, @":
                partial(_frechet, roots=lambda C_a, C_b: (
                    _roots(C_a * C_b, torch.eye(len(C_a), dtype=C_a.dtype)))),
            "this uses the singular values of C_a C_b: use its eigenvalues":
                partial(_frechet, roots=lambda C_a, C_b: (
                    torch.linalg.svdvals(C_a @ C_b).sqrt().sum())),
            "the eigenvalues of C_a and C_b are multiplied one by one: take those of the product":
                partial(_frechet, roots=lambda C_a, C_b: (
                    torch.linalg.eigvalsh(C_a) * torch.linalg.eigvalsh(C_b)).sqrt().sum()),
            "these are correlations: (9.2) has covariances, `torch.cov`":
                partial(_frechet, covariance=lambda x: torch.corrcoef(x.T)),
            "all entries of C_a and C_b are summed: the trace is the sum of the diagonal":
                lambda a, b: _frechet(a, b) + _off_the_diagonal(a) + _off_the_diagonal(b),
            "the root is taken of the sum of the eigenvalues; (9.2) is the sum of their roots":
                partial(_frechet, roots=lambda C_a, C_b: (C_a @ C_b).trace().sqrt()),
            "this is the product of the eigenvalues, not the sum of their roots":
                partial(_frechet, roots=lambda C_a, C_b: torch.linalg.det(C_a @ C_b).sqrt()),
            "only the variances of single features are used: (9.2) uses the covariances too":
                partial(_frechet, roots=lambda C_a, C_b: (C_a.diag() * C_b.diag()).sqrt().sum()),
            "the distance of the means is not squared, equation (9.2)":
                partial(_frechet, means=lambda a, b: _square_of_means(a, b).sqrt()),
            "the squared distance of the means is a sum over the features, not a mean":
                partial(_frechet, means=lambda a, b: _square_of_means(a, b) / a.shape[1]),
            "the distance of the means is missing, equation (9.2)":
                partial(_frechet, means=lambda a, b: a.new_zeros(())),
            "the means are over all values: compute one mean per feature, mean(0)":
                partial(_frechet, means=lambda a, b: (a.mean() - b.mean()).square()),
            "the root lacks its factor 2, equation (9.2)": partial(_frechet, factor=1.0),
            "the term with the root is missing, equation (9.2)": partial(_frechet, factor=0.0),
            "the root is added; (9.2) subtracts it": partial(_frechet, factor=-2.0),
            "this is the distance of the means alone; (9.2) has the covariances too":
                _square_of_means,
            "this is the root of the distance; (9.2) has no root":
                lambda a, b: _frechet(a, b).sqrt(),
            "these are sums of products, not divided by n: use `torch.cov`":
                partial(_frechet, covariance=lambda x: (x - x.mean(0)).T @ (x - x.mean(0))),
            "torch.cov takes variables as rows: give it a.T, or it compares images instead of "
            "features": partial(_frechet, covariance=torch.cov),
            "the means are not subtracted before the covariances are computed":
                partial(_frechet, covariance=lambda x: x.T @ x / len(x)),
        },
        tolerance=1e-4,
        also_right=[partial(_frechet, covariance=lambda x: torch.cov(x.T, correction=0))],
    ),
    Exercise(
        "9.2",
        "precision and recall",
        precision_recall,
        [
            Case("fakes that are too much alike", (REAL, NARROW)),
            Case("fakes that are too wild", (REAL, WIDE)),
        ],
        {
            "precision and recall are swapped: precision is the share of the fakes among the "
            "real ones": lambda real, fake: precision_recall(fake, real),
            "each point counts as its own first neighbour: use the fourth smallest distance":
                partial(precision_recall, k=2),
            "the radius reaches the fourth neighbour: kthvalue counts from 1, and the smallest "
            "distance is to the point itself": partial(precision_recall, k=4),
            "the radius is the distance to the nearest neighbour; use the third":
                partial(precision_recall, k=1),
            "all points have the mean radius: each needs its own, larger where the set is sparse":
                lambda real, fake: (
                    _within_mean_radius(fake, real), _within_mean_radius(real, fake)),
            "this is a share of pairs; a point counts once, if it is near *any* point "
            "of the cloud":
                lambda real, fake: (_within_all(fake, real), _within_all(real, fake)),
            "the radii are those of the points: use the radius of each point of the cloud":
                lambda real, fake: (
                    _share_among(fake, real, fake), _share_among(real, fake, real)),
            "all points have the largest radius: use the radius of each point of the cloud":
                lambda real, fake: (
                    _within_largest_radius(fake, real), _within_largest_radius(real, fake)),
            "these are percentages; return shares in 0..1":
                lambda real, fake: tuple(100 * share for share in precision_recall(real, fake)),
            "precision is returned twice": lambda real, fake: precision_recall(real, fake)[:1] * 2,
            "recall is returned twice": lambda real, fake: precision_recall(real, fake)[1:2] * 2,
        },
    ),
    Exercise(
        "9.3",
        "the nearest training image of each sample, how far it is, and which are copies",
        _solution,
        [_near(6, 7), _near(4, 5), _near(5, 7, 0.3), HALF, ALIKE],
        {
            "this is the sum of squares: take the root of the mean":
                _with_values(lambda x, training:
                    x[0].numel() * _copies(x, training)[1].square()),
            "this is the root of the sum of squares: divide by the root of the number of values, "
            "for the root of the mean":
                partial(_copies, measure=lambda rms: rms.new_tensor(60).sqrt() * rms),
            "the root of the sum is divided by the number of values; divide by its root":
                partial(_copies, measure=lambda rms: rms / rms.new_tensor(60).sqrt()),
            "this is the mean square: take its root, which has the units of the pixels":
                partial(_copies, measure=Tensor.square),
            "this is the mean distance to all training images: use the smallest":
                _with_values(lambda x, training: _distances(x, training).mean(1)),
            "this is the distance to the second nearest image: sort from the smallest":
                _with_values(lambda x, training: _distances(x, training).sort(1).values[:, 1]),
            "the distance is returned first: return the index of the image, then the distance":
                lambda x, training: tuple(_copies(x, training)[k] for k in (1, 0, 2)),
            "a copy is *less* than half as far: exactly half is not a copy, equation (9.4)":
                partial(_copies, copied=lambda nearest, second: nearest <= second / 2),
            "every sample that is nearer to one image than to the others counts as a copy: (9.4) "
            "asks for less than half":
                partial(_copies, copied=lambda nearest, second: nearest < second),
            "the sample must be less than *half* as far, not a third, equation (9.4)":
                partial(_copies, copied=lambda nearest, second: nearest < second / 3),
            "squared distances are compared, so the ratio is the root of 1/2: compare "
            "the distances":
                partial(_copies, copied=lambda nearest, second:
                    nearest.square() < second.square() / 2),
            "a copy is *nearer*: the comparison is the wrong way round, equation (9.4)":
                partial(_copies, copied=lambda nearest, second: nearest > second / 2),
            "one threshold in pixels for all: (9.4) compares with each sample's own second "
            "nearest":
                partial(_copies, copied=lambda nearest, second: nearest < 0.5),
            "this compares with the mean distance to all training images; (9.4) has the second "
            "nearest":
                partial(_copies, second=lambda rms: rms.mean(1)),
            "this compares with the third nearest image: indices start at 0":
                partial(_copies, second=lambda rms:
                    rms.topk(min(3, rms.shape[1]), largest=False).values[:, -1]),
            "this compares with the most distant training image; (9.4) has the second nearest":
                partial(_copies, second=lambda rms: rms.max(1).values),
        },
        tolerance=1e-4,
    ),
]  # fmt: skip
