"""Where images come from, the cache that keeps them ready, and `ImageDataset`."""

from .dataset import ImageDataset
from .order import balanced_order

__all__ = ["ImageDataset", "balanced_order"]
