"""Sample grids as PNGs, and an animation of how they improve."""

from __future__ import annotations

import io
from pathlib import Path

from torch import Tensor

from ddpm_helpers.files import write_atomic


def make_grid(x: Tensor) -> Tensor:
    """Images (n, C, S, S) in [-1, 1] as one grid, (3, H, W) in 0..1, ten images per row."""
    from torchvision import utils

    return utils.make_grid(x, nrow=10, normalize=True, value_range=(-1, 1), padding=1)


def save_grid(grid: Tensor, path: Path) -> None:
    """Write (3, H, W) in 0..1 as a PNG."""
    from torchvision.utils import save_image

    content = io.BytesIO()
    save_image(grid, content, format="png")
    write_atomic(path, content.getvalue())


def save_animation(grids: list[Path], path: Path) -> None:
    """Join sample grids, if there are at least two, into a GIF."""
    from PIL import Image

    frames = []
    for grid in grids:
        with Image.open(grid) as image:
            frames.append(image.convert("RGB"))
    if len(frames) < 2:
        return
    times = [400] * (len(frames) - 1) + [2000]  # milliseconds; the last one is shown longest
    content = io.BytesIO()
    frames[0].save(
        content, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0
    )
    write_atomic(path, content.getvalue())
