"""Decode one image file to a square: upright, in sRGB, on a white background."""

import errno
import io
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")  # recognised by content
SUFFIXES = {
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
    ".pgm", ".avif",
}  # fmt: skip
FITS = ("crop", "pad")
FILE_ERRORS = (None, errno.EINVAL)  # errors with these, or without one, are the file's fault
_LARGE, _one_large = 25_000_000, Lock()  # images with more pixels are decoded one at a time
_LUMA = np.array([19595, 38470, 7471], np.uint32)[:, None, None]  # 0.299, 0.587, 0.114 times 65536


class NotAnImage(ValueError):
    """A file that cannot be decoded; the message says why."""


def decode(path: Path, size: int, fit: str) -> np.ndarray:
    """Decode one image file to a square, (3, size, size) uint8, with `square`.

    Raises:
        NotAnImage: the file is damaged, too large or not an image.
        OSError: a failure that is not the file's fault, such as a lost drive or too little memory.
            Such a file is not skipped: once it is readable again, it looks unchanged, so its image
            would never get into the cache.
    """
    Image.init()  # load the decoders; this Pillow may lack one, such as AVIF
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            with _one_large if image.width * image.height > _LARGE else nullcontext():
                return square(image, size, fit)
    except Exception as error:  # decoders raise nearly anything on damaged files
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in FILE_ERRORS:
            raise OSError(f"cannot read {path}: {error!r}") from error
        raise NotAnImage(str(error) or type(error).__name__) from error


def square(image: Image.Image, size: int, fit: str) -> np.ndarray:
    """Convert a PIL image to a square, (3, size, size) uint8.

    The image is rotated according to its EXIF block, transparent parts become white, and colours
    are converted from its colour profile to sRGB.

    Args:
        image: PIL image of any mode except floating point.
        size: side of the square in pixels.
        fit: "crop" keeps the centre square, "pad" keeps the whole image and adds white bars.
    Raises:
        ValueError: the values are neither 8-bit nor 16-bit, so white is unknown.
    """
    image.load()
    profile = image.info.get("icc_profile")
    with suppress(Exception):  # a damaged EXIF block makes Pillow raise nearly anything
        image = ImageOps.exif_transpose(image)
    image = _on_white(image)
    if fit == "pad":  # a side is at least 1 pixel, however long the other is
        sides = [max(1, round(side / max(image.size) * size)) for side in image.size]
        image = image.resize(sides, Image.Resampling.BICUBIC)
    else:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    image = ImageOps.pad(_to_srgb(image, profile), (size, size), color="white")  # no-op for crop
    return np.asarray(image).transpose(2, 0, 1)  # (3, size, size)


def _on_white(image: Image.Image) -> Image.Image:
    """Convert the image to 8 bits on a white background, mode L, RGB or CMYK."""
    if image.mode[0] in "IF":
        return _eight_bits(image)
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return image if image.mode in ("L", "CMYK") else image.convert(mode)
    clear = image.convert(mode + "A")
    flat = Image.new(mode, image.size, "white")
    flat.paste(clear.convert(mode), mask=clear.getchannel("A"))
    return flat


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey to 8 bits: 65,535 is white. Pillow's conversion clips at 255."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its values are neither 8-bit nor 16-bit, so white is unknown")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Any:
    """Convert an image of mode L, RGB or CMYK from its profile's colours to sRGB, mode RGB.

    Without a usable profile, the image is assumed to be sRGB.
    """
    if not profile:
        return image.convert("RGB")
    try:
        return ImageCms.profileToProfile(
            image,
            io.BytesIO(profile),
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):  # broken, or for a different mode
        return image.convert("RGB")


def to_grey(images: np.ndarray) -> np.ndarray:
    """Convert images (N, 3, H, W) uint8 to (N, 1, H, W): the luma of ITU-R 601, rounded.

    The result equals Pillow's mode L. Three equal channels become one, unchanged.
    """
    return ((_LUMA * images).sum(1, keepdims=True) + 32768 >> 16).astype(np.uint8)
