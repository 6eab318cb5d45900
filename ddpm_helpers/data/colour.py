"""Convert colour to grey and back, and from an embedded colour profile to sRGB."""

import io
from functools import lru_cache
from typing import Any

import numpy as np


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert pictures (N, C, H, W) uint8 to (N, channels, H, W); C and channels are 1 or 3.

    Grey is the luma of ITU-R 601, 0.299 R + 0.587 G + 0.114 B, rounded, as in Pillow's mode L. A
    grey picture in colour has three equal channels, so grey to colour and back changes nothing.
    """
    n, found, height, width = images.shape
    if found == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)  # (N, 3, H, W)
    from PIL import Image

    column = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(n * height, width, 3)
    return np.asarray(Image.fromarray(column).convert("L")).reshape(n, 1, height, width)


def to_srgb(picture: Any, profile: bytes | None) -> Any:
    """Convert a PIL picture of mode L, RGB or CMYK from its profile's colours to sRGB, mode RGB.

    Without a profile that can be used, the picture is taken to be sRGB already.
    """
    from PIL import ImageCms

    transform = _transform(profile, picture.mode) if profile else None
    if transform is None:
        return picture.convert("RGB")
    return ImageCms.applyTransform(picture, transform)


@lru_cache(maxsize=64)  # the pictures of one camera share one profile
def _transform(profile: bytes, mode: str) -> Any:
    """The transform to sRGB; None if the profile is sRGB, broken, or made for another mode."""
    from PIL import Image, ImageCms

    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        lattice = np.indices([6] * len(mode), np.uint8).reshape(len(mode), -1) * 51
        channels = [Image.fromarray(channel[None]) for channel in lattice]  # each 0, 51, … 255
        colours = channels[0] if mode == "L" else Image.merge(mode, channels)
        changed = np.asarray(ImageCms.applyTransform(colours, transform), np.int64)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    plain = np.asarray(colours.convert("RGB"), np.int64)
    return transform if np.abs(changed - plain).max() > 1 else None
