"""An image order in which the first n images have the same class proportions as all."""

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np


def balanced_order(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """Interleave the classes: a permutation that depends on the labels alone.

    Let s be a class's share of all N images. Among the first n, it has n·s, rounded up or down.
    Within a class, images keep their order. Images that are already in this order stay in it.
    Image k of a class (from 0) may be placed as soon as n·s > k, and must be among the first n when
    n·s ≥ k + 1, its deadline. Each step places the allowed image with the earliest deadline.

    Args:
        labels: (N,) integers.
    Returns:
        (N,) int64: indices of the images in their new order.
    Source: Tijdeman 1980, "The chairman assignment problem".
    """
    by_class = np.argsort(labels, kind="stable")  # sorted by class
    counts = np.unique(labels, return_counts=True)[1].tolist()
    N, starts = len(by_class), np.cumsum([0, *counts]).tolist()
    waiting = [(0, c, 0) for c in range(len(counts))]  # (first n, class, number in its class)
    ready: list[tuple[int, int, int, int]] = []  # (deadline, ...), earliest first
    rows = np.empty(N, np.int64)
    for n in range(N):
        while waiting and waiting[0][0] <= n:
            first, c, k = heappop(waiting)
            heappush(ready, (-(-(k + 1) * N // counts[c]), first, c, k))
        _, _, c, k = heappop(ready)
        rows[n] = starts[c] + k
        if k + 1 < counts[c]:
            heappush(waiting, ((k + 1) * N // counts[c], c, k + 1))
    return by_class[rows]
