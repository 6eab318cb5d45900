"""`Collection`: the images of a source, not yet read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Chunks = Iterator[tuple[np.ndarray, np.ndarray]]  # (n, 3, S, S) uint8 and (n,) int64


@dataclass(frozen=True)
class Collection:
    """Images with labels, and what identifies their cache.

    Attributes:
        name: name in messages, such as "cifar10" or the path of a folder.
        identity: everything that changes a pixel or a label, as JSON values.
        read: function of the side S that returns the class names, in the order of the labels, and
            an iterator over images and labels. Without names, the labels' numbers become the names.
        balance: store the images in `balanced_order`, not in the order in which they are read.
        origin: identifies a folder even after its images change, so that its older caches are
            removed; empty to keep them.
    """

    name: str
    identity: dict[str, Any]
    read: Callable[[int], tuple[tuple[str, ...], Chunks]]
    balance: bool = True
    origin: str = ""
