"""Convert arrays of square images to a different size or number of channels.

The resize filter is bicubic and antialiased. Bicubic keeps edges that a linear filter blurs when
32×32 images grow to 64×64. Antialiasing widens the filter when images shrink, so that fine
patterns fade and do not cause aliasing.
"""

from collections.abc import Iterator

import numpy as np
import torch


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize square images, (N, C, H, H) uint8 -> (N, C, size, size) uint8."""
    if images.shape[-1] == size:
        return images
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized.numpy()  # (N, C, size, size)


def in_chunks(
    images: np.ndarray, labels: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield resized square images with their labels, 1,000 at a time."""
    for k in range(0, len(labels), 1000):
        yield resize(images[k : k + 1000], size), labels[k : k + 1000]


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert images (N, C, H, W) uint8 to (N, channels, H, W); C and channels are 1 or 3.

    Grey is the luma of ITU-R 601, 0.299 R + 0.587 G + 0.114 B, rounded, as in Pillow's mode L. Grey
    becomes three equal channels, so converting grey to colour and back changes nothing.
    """
    n, found, height, width = images.shape
    if found == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)  # (N, 3, H, W)
    from PIL import Image

    column = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(n * height, width, 3)
    return np.asarray(Image.fromarray(column).convert("L")).reshape(n, 1, height, width)
