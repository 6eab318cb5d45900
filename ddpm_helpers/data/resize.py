"""Pictures to one square size: bicubic, antialiased.

Bicubic keeps edges that a linear filter blurs when 32×32 pictures grow to 64×64. Antialiasing
widens the filter when pictures shrink, so that fine patterns fade instead of turning into false
ones. The one filter does both, and every cache is keyed by its name.
"""

from typing import Any

import numpy as np
import torch

FILTER = "bicubic-antialias"
STRIP = 256  # rows that are worked on at once where a picture must be converted


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize square pictures, (N, C, H, H) uint8 -> (N, C, size, size) uint8."""
    if images.shape[-1] == size:
        return images
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized.numpy()  # (N, C, size, size)


def square(picture: Any, size: int, fit: str = "crop") -> np.ndarray:
    """A PIL picture as a square, upright, in RGB, on white where it is transparent.

    Args:
        picture: of any kind but floating point, which does not say what white is.
        size: side of the square.
        fit: "crop" keeps the centre square, "pad" the whole picture between white bars.
    Returns:
        (3, size, size) uint8.
    Raises:
        ValueError: a floating-point picture.
    """
    from PIL import Image, ImageOps

    picture = _rgb(ImageOps.exif_transpose(picture))
    if fit == "pad":
        scale = size / max(picture.size)
        inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        canvas = Image.new("RGB", (size, size), "white")
        place = ((size - inner[0]) // 2, (size - inner[1]) // 2)
        canvas.paste(picture.resize(inner, Image.Resampling.BICUBIC), place)
        return np.asarray(canvas).transpose(2, 0, 1)  # (3, size, size)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(picture).transpose(2, 0, 1)  # (3, size, size)


def _rgb(picture: Any) -> Any:
    """Strip by strip where numbers grow on the way, so that a large picture stays one."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("floating-point pictures do not say which number is white")
    sixteen = picture.mode.startswith("I")
    clear = picture.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in picture.info
    if not clear and not sixteen:
        return picture.convert("RGB")
    flat = Image.new("RGB", picture.size, "white")
    for top in range(0, picture.height, STRIP):
        strip = picture.crop((0, top, picture.width, min(top + STRIP, picture.height)))
        shown = _eight_bits(strip) if sixteen else strip.convert("RGBA")
        flat.paste(shown.convert("RGB"), (0, top), shown.getchannel("A"))
    return flat


def _eight_bits(picture: Any) -> Any:
    """16 bits of grey, and where they are seen; Pillow's own conversion clips at 255."""
    from PIL import Image

    values = np.asarray(picture).astype(np.int64)
    grey = np.clip((values + 128) // 257, 0, 255).astype(np.uint8)
    seen = np.where(values == picture.info.get("transparency"), 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(seen)))
