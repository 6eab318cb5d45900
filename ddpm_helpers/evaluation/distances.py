"""Distances between two sets of images, computed from features (n, d)."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Compute the Fréchet distance of two Gaussians with the sets' means and covariances.

        |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    It falls as n grows, even for perfect samples. Compare only values at the same n and the same
    class counts, and report the noise floor (`noise_floor`) with them.

    Args:
        a, b: features, (n, d) and (m, d), at least 2 each; n and m well above d.
    Returns:
        A number of at least 0, in the features' units squared.
    Raises:
        ValueError: a feature is NaN or infinite.
    Source: Heusel et al. 2017, eq. 6; the root is computed from a symmetric matrix,
        tr((C_a C_b)^(1/2)) = tr((C_a^(1/2) C_b C_a^(1/2))^(1/2)).
    """
    a, b = _doubles(a, b)
    root_a = _root(torch.cov(a.T).reshape(a.shape[1], -1))  # (d, d)
    cov_b = torch.cov(b.T).reshape(b.shape[1], -1)
    middle = root_a @ cov_b @ root_a
    mixed = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp(min=0).sqrt().sum()
    spread = (root_a**2).sum() + cov_b.trace() - 2 * mixed
    return max(0.0, float((a.mean(0) - b.mean(0)).square().sum() + spread))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Compute the kernel distance (KID's formula): squared MMD with k(x, y) = (x . y / d + 1)^3.

    Unbiased: 0 on average for two random sets from one source, for every n, so it may be
    negative. Sets with equal class counts are not random: their average is below 0.

    Args:
        a, b: features, (n, d) and (m, d), at least 2 each.
    Returns:
        A number, around 0 or above.
    Raises:
        ValueError: for the same reasons as in `frechet_distance`.
    Source: Binkowski et al. 2018, section 4.
    """
    a, b = _doubles(a, b)
    n, m, d = len(a), len(b), a.shape[1]
    aa, bb, ab = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum() - aa.trace()) / (n * (n - 1)) + (bb.sum() - bb.trace()) / (m * (m - 1))
    return float(within - 2 * ab.mean())


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Compute the share of fakes that are among the real images, and the reverse.

    A point is among a set if its distance to some point of the set is at most that point's
    distance to its k-th neighbour in the set.

    Args:
        real, fake: features, (n, d) and (m, d), more than k each.
        k: number of neighbours, at least 1.
    Returns:
        precision (are the fakes realistic?) and recall (do they cover all kinds?), each in 0..1.
    Raises:
        ValueError: for the same reasons as in `frechet_distance`.
    Source: Kynkäänniemi et al. 2019, section 2.
    """
    real, fake = _doubles(real, fake)
    return _among(fake, real, k), _among(real, fake, k)


def _among(points: Tensor, cloud: Tensor, k: int) -> float:
    """Compute the share of points that are among the cloud, as `precision_recall` defines it."""
    radius = torch.cdist(cloud, cloud).kthvalue(k + 1, dim=1).values  # the point itself is first
    return float((torch.cdist(points, cloud) <= radius).any(1).double().mean())


def _root(matrix: Tensor) -> Tensor:
    """Compute the symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _doubles(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("features hold NaN or infinite numbers")
    return a.detach().cpu().double(), b.detach().cpu().double()
