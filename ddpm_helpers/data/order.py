"""An order of images whose first n have the classes in the proportions of all, for every n."""

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np


def balanced_order(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """Interleave the classes: a permutation that depends on the labels alone.

    Of the first n images, a class that makes up a share s of all N has n·s, rounded up or down.
    Within a class, images keep their order. Images that are already in this order stay in it.

    Args:
        labels: (N,) integers.
    Returns:
        (N,) int64: the places of the images, in their new order.
    Source: Tijdeman 1980, "The chairman assignment problem". Image k of a class may come once
    n·s > k, and must have come once n·s ≥ k + 1; of those that may, the one with the earliest
    deadline is taken.
    """
    by_class = np.argsort(labels, kind="stable")  # class after class
    counts = np.unique(labels, return_counts=True)[1].tolist()
    N, starts = len(by_class), np.cumsum([0, *counts]).tolist()
    waiting = [(0, c, 0) for c in range(len(counts))]  # (first n, class, number in its class)
    ready: list[tuple[int, int, int, int]] = []  # the same behind its deadline, the earliest first
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
