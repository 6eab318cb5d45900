"""Distances between sets of features against independent answers."""

import math

import numpy as np
import pytest
import torch

from ddpm_helpers.evaluation import frechet_distance, kernel_distance, precision_recall


def cloud(n, d, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(seed + 100).normal(size=(d, d))
    return torch.from_numpy(rng.normal(size=(n, d)) @ mix + shift)


@pytest.mark.parametrize("d", [1, 5, 40])
def test_frechet_distance_agrees_with_the_eigenvalues_of_the_product(d):
    """tr((AB)^(1/2)) is the sum of roots of the eigenvalues of AB, which is not symmetric."""
    a, b = cloud(300, d, 1), cloud(200, d, 2, shift=0.5)
    cov_a, cov_b = (np.cov(x.numpy().T).reshape(d, d) for x in (a, b))
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    want = apart + np.trace(cov_a) + np.trace(cov_b) - 2 * roots
    assert frechet_distance(a, b) == pytest.approx(want, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_a_shift_and_of_a_stretch():
    a = cloud(500, 6, 3)
    assert frechet_distance(a, a + 2) == pytest.approx(24, rel=1e-9)
    middle = a.mean(0)
    want = torch.cov(a.T).trace().item()  # (3 - 2)^2 times the variance, summed
    assert frechet_distance(middle + 2 * (a - middle), middle + 3 * (a - middle)) == pytest.approx(
        want
    )
    flat = torch.cat([a, torch.zeros(500, 3)], 1).double()  # singular covariances
    assert frechet_distance(flat, flat + 1) == pytest.approx(9, rel=1e-6)


def test_kernel_distance_agrees_with_a_plain_double_loop_and_is_unbiased():
    a, b = cloud(7, 3, 4), cloud(5, 3, 5)

    def k(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    def mean(pairs):
        values = [k(x, y) for x, y in pairs]
        return sum(values) / len(values)

    def others(s):
        return [(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]

    want = mean(others(a)) + mean(others(b)) - 2 * mean([(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(want)
    source = torch.Generator().manual_seed(0)
    draws = [
        kernel_distance(*torch.randn(2, 20, 4, generator=source, dtype=torch.float64))
        for _ in range(300)
    ]
    error = np.std(draws) / math.sqrt(300)
    assert abs(np.mean(draws)) < 4 * error and min(draws) < 0


def test_precision_and_recall_of_sets_whose_answer_is_known():
    real = torch.cat([torch.randn(100, 2), torch.randn(100, 2) + 50])
    assert precision_recall(real, real) == (1.0, 1.0)
    one_kind = real[:100] + 1e-3 * torch.randn(100, 2)
    good, covered = precision_recall(real, one_kind)
    assert good > 0.95 and 0.4 < covered < 0.6
    assert precision_recall(real, real + 1000) == (0.0, 0.0)
