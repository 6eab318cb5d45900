"""`balanced_order`: every beginning of it holds each class's share."""

import numpy as np
import pytest

from ddpm_helpers.data import balanced_order


def test_equal_classes_take_turns():
    assert balanced_order([0, 0, 0, 1, 1, 1]).tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("seed", range(8))
def test_every_beginning_holds_each_share_rounded_up_or_down(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, rng.choice([3, 30, 300]), rng.integers(1, 12))
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)  # labels need not be contiguous
    labels = rng.permutation(labels) if seed % 2 else labels
    order = balanced_order(labels)
    assert sorted(order) == list(range(len(labels)))
    for k, size in zip(np.unique(labels), sizes, strict=True):
        had = np.cumsum(labels[order] == k)  # (N,) images of class k among the first 1, 2, …
        shares = np.arange(1, len(labels) + 1) * size / len(labels)
        assert np.abs(had - shares).max() < 1


def test_within_a_class_images_keep_their_order():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    order = balanced_order(labels)
    for k in range(4):
        assert order[labels[order] == k].tolist() == np.flatnonzero(labels == k).tolist()


def test_balanced_data_keep_their_order():
    labels = np.repeat([0, 1, 2], [50, 20, 7])
    again = labels[balanced_order(labels)]
    assert balanced_order(again).tolist() == list(range(77))
