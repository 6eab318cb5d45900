"""Arrange images in a grid."""

from __future__ import annotations

from torch import Tensor


def make_grid(x: Tensor) -> Tensor:
    """Arrange images, (n, C, S, S) in [-1, 1], in one grid, (3, H, W) in 0..1, ten per row."""
    from torchvision import utils

    return utils.make_grid(x, nrow=10, normalize=True, value_range=(-1, 1), padding=1)
