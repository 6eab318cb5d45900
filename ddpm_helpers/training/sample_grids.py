"""Sample grids: the images that a training draws, side by side."""

from __future__ import annotations

from torch import Tensor


def make_grid(x: Tensor) -> Tensor:
    """Images (n, C, S, S) in [-1, 1] as one grid, (3, H, W) in 0..1, ten images per row."""
    from torchvision import utils

    return utils.make_grid(x, nrow=10, normalize=True, value_range=(-1, 1), padding=1)
