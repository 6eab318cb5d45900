"""Colour to grey and back."""

import numpy as np


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert pictures to one channel or three.

    Grey is the luma of ITU-R 601, 0.299 R + 0.587 G + 0.114 B, rounded, as Pillow's mode L has it;
    a grey picture in colour has three equal channels, so grey to colour and back changes nothing.

    Args:
        images: (N, C, H, W) uint8, C = 1 or 3.
        channels: 1 or 3.
    Returns:
        (N, channels, H, W) uint8.
    """
    n, found, height, width = images.shape
    if found == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)  # (N, 3, H, W)
    from PIL import Image

    column = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(n * height, width, 3)
    return np.asarray(Image.fromarray(column).convert("L")).reshape(n, 1, height, width)
