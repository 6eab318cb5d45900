"""Pictures to one square size: bicubic, antialiased.

Bicubic keeps edges that a linear filter blurs when 32×32 pictures grow to 64×64. Antialiasing
widens the filter when pictures shrink, so that fine patterns fade instead of turning into false
ones. The one filter does both, and every cache is keyed by its name.
"""

from typing import Any

import numpy as np
import torch

FILTER = "bicubic-antialias"


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize square pictures, (N, 3, H, H) uint8 -> (N, 3, size, size) uint8."""
    if images.shape[-1] == size:
        return images
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized.numpy()  # (N, 3, size, size)


def square(picture: Any, size: int) -> np.ndarray:
    """The centre square of a PIL picture, upright, in RGB: (3, size, size) uint8."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(picture).transpose(2, 0, 1)  # (3, size, size)
