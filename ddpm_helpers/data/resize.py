"""Resize pictures to one square size: bicubic, antialiased.

Bicubic keeps edges that a linear filter blurs when 32×32 pictures grow to 64×64. Antialiasing
widens the filter when pictures shrink, so that fine patterns fade instead of turning into false
ones (aliasing). One filter does both, and its name is part of every cache's key.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .colour import to_srgb

FILTER = "bicubic-antialias"
ORIENTATION = 0x0112  # tag of EXIF
STRIP = 256  # rows that are converted at once


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize square pictures, (N, C, H, H) uint8 -> (N, C, size, size) uint8."""
    if images.shape[-1] == size:
        return images
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized.numpy()  # (N, C, size, size)


def resized(
    images: np.ndarray, labels: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Square pictures at another size, chunk by chunk, and their labels."""
    for k in range(0, len(labels), 1000):
        yield resize(images[k : k + 1000], size), labels[k : k + 1000]


def square(picture: Any, size: int, fit: str = "crop") -> np.ndarray:
    """A PIL picture as a square, (3, size, size) uint8: upright, in sRGB, transparent parts white.

    "crop" keeps the centre square, "pad" the whole picture between white bars.
    """
    from PIL import Image

    profile = picture.info.get("icc_profile")
    picture = _upright(picture)
    picture = _opaque(picture)
    if fit == "pad":
        scale = size / max(picture.size)
        inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        canvas = Image.new("RGB", (size, size), "white")
        place = ((size - inner[0]) // 2, (size - inner[1]) // 2)
        canvas.paste(to_srgb(picture.resize(inner, Image.Resampling.BICUBIC), profile), place)
        return np.asarray(canvas).transpose(2, 0, 1)  # (3, size, size)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(to_srgb(picture, profile)).transpose(2, 0, 1)  # (3, size, size)


def _upright(picture: Any) -> Any:
    """The picture, turned as its EXIF block says."""
    from PIL import Image

    try:
        orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged block makes Pillow raise nearly anything
        orientation = 1
    turns = Image.Transpose
    how = {
        2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE, 6: turns.ROTATE_270, 7: turns.TRANSVERSE, 8: turns.ROTATE_90,
    }  # fmt: skip
    return picture.transpose(how[orientation]) if orientation in how else picture


def white_level(picture: Any) -> int:
    """The value of white: 255, 65,535, or 4,095 if values in 16 bits need no more than 12."""
    if picture.mode == "F":
        raise ValueError("floating-point values do not tell which one is white")
    if not picture.mode.startswith("I"):
        return 255
    values = np.asarray(picture)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"32-bit numbers ({low:,} to {high:,}) do not tell which one is white")
    if picture.mode == "I" and high <= 255:
        return 255
    return 4095 if high <= 4095 else 65535


def _opaque(picture: Any) -> Any:
    """The picture on a white background, as L, RGB or CMYK.

    It is converted strip by strip, so that a large picture needs little more memory.
    """
    from PIL import Image

    white = white_level(picture)
    deep, grey = picture.mode.startswith("I"), picture.mode in ("1", "L", "LA", "La")
    clear = picture.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in picture.info
    if not clear and not deep:
        return picture if picture.mode in ("L", "CMYK") else picture.convert("L" if grey else "RGB")
    mode = "L" if deep or grey else "RGB"
    flat = Image.new(mode, picture.size, "white")
    for top in range(0, picture.height, STRIP):
        strip = picture.crop((0, top, picture.width, min(top + STRIP, picture.height)))
        shown = _eight_bits(strip, white) if deep else strip.convert("LA" if grey else "RGBA")
        flat.paste(shown.convert(mode), (0, top), shown.getchannel("A"))
    return flat


def _eight_bits(picture: Any, white: int) -> Any:
    """Grey of more bits as 8 bits with an alpha channel; Pillow's conversion clips at 255."""
    from PIL import Image

    values = np.asarray(picture).astype(np.int64)
    grey = ((values * 255 + white // 2) // white).astype(np.uint8)
    seen = np.where(values == picture.info.get("transparency"), 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(seen)))
