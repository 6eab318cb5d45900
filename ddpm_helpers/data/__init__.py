"""Where pictures come from, the cache that keeps them ready, and `ImageDataset`."""

from .dataset import ImageDataset

__all__ = ["ImageDataset"]
