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
        identity: the source and every setting that changes a pixel or a label, as JSON values.
        read: function of the side S that returns the class names, in the order of the labels, and
            an iterator over images and labels. Without names, the label numbers are used as names.
        balance: store the images in `balanced_order`, not in the order in which they are read.
        state: digest of a folder's files, or "fixed" for other sources. A cache with the same
            identity and another state is out of date, and is removed.
    """

    name: str
    identity: dict[str, Any]
    read: Callable[[int], tuple[tuple[str, ...], Chunks]]
    balance: bool = True
    state: str = "fixed"
