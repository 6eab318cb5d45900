"""What a cache can be made from: pictures in chunks, and all that is known about them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Chunks = Iterator[tuple[np.ndarray, np.ndarray]]  # (n, C, S, S) uint8 and (n,) int64


@dataclass(frozen=True)
class Source:
    """Pictures that a cache can be made from.

    Attributes:
        name: the resolved source, as users know it.
        identity: everything about the source that changes a pixel, JSON-ready.
        classes: names, in the order of the labels.
        chunks: size -> the pictures at that size and their labels, chunk by chunk.
        interleave: keep them in `balanced_order`, not in the order in which they come.
        origin: what stays the same when the pictures change; empty where they cannot.
        channels: C of the pictures that the cache keeps; chunks of the other kind are converted.
        settle: the labels as they came -> labels from 0, and classes, which are known only then.
    """

    name: str
    identity: dict[str, Any]
    classes: tuple[str, ...]
    chunks: Callable[[int], Chunks]
    interleave: bool = False
    origin: str = ""
    channels: int = 3
    settle: Callable[[list[int]], tuple[list[int], tuple[str, ...]]] | None = None
