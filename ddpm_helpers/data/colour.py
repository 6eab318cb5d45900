"""Embedded colour profiles: the colours that a picture means, in sRGB."""

import io
from functools import lru_cache
from typing import Any

import numpy as np


def to_srgb(picture: Any, profile: bytes | None) -> Any:
    """A PIL picture of mode L, RGB or CMYK in sRGB, as RGB.

    Args:
        picture: the picture.
        profile: its embedded ICC profile; sRGB is assumed if there is none, or if it is broken.
    """
    from PIL import ImageCms

    transform = _transform(profile, picture.mode) if profile else None
    if transform is None:
        return picture.convert("RGB")
    return ImageCms.applyTransform(picture, transform)


@lru_cache(maxsize=64)  # the pictures of one camera share one profile
def _transform(profile: bytes, mode: str) -> Any:
    """The way to sRGB; None where it is sRGB already, broken, or for another kind of colours."""
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
