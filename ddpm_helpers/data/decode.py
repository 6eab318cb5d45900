"""Decode one image file to a square: upright, in sRGB, on a white background."""

import errno
import io
from contextlib import nullcontext
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from .say import printable

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")  # recognised by content
SUFFIXES = {
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
    ".pgm", ".avif",
}  # fmt: skip
HEIC = {".heic", ".heif"}  # Pillow alone cannot read them
FITS = ("crop", "pad")
# Not the fault of the file. If it were skipped, the cache would lack its image for good.
TEMPORARY = {
    errno.EDEADLK,  # a file that a cloud service has yet to download
    errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
    errno.ETIMEDOUT,
}  # fmt: skip
MAX_PIXELS = 89_000_000  # refuse larger images, which can take more than a gigabyte
_LARGE, _one_large = 8_000_000, Lock()  # larger images are decoded one at a time


class NotAnImage(ValueError):
    """A file that cannot be decoded; the message says why."""


@cache
def readable() -> tuple[set[str], tuple[str, ...]]:
    """Suffixes and formats that this Pillow build can decode; some builds lack AVIF."""
    from PIL import Image

    Image.init()  # load all decoders before threads use them
    formats = tuple(name for name in FORMATS if name in Image.OPEN)
    return SUFFIXES - (set() if "AVIF" in formats else {".avif"}), formats


def decode(path: Path, size: int, fit: str) -> np.ndarray:
    """Decode one image file to a square, (3, size, size) uint8, with `square`.

    Raises:
        NotAnImage: the file is damaged, too large or not an image.
        OSError: a failure that is not the file's fault, such as too little memory.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=readable()[1]) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise ValueError(f"{image.width:,}×{image.height:,} pixels are too many")
            with _one_large if pixels > _LARGE else nullcontext():
                return square(image, size, fit)
    except Exception as error:  # decoders raise nearly anything on damaged files
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in TEMPORARY:
            raise OSError(f"cannot read {printable(path)}: {error or 'out of memory'}") from None
        if path.exists() and path.stat().st_size == 0:
            raise NotAnImage("empty file") from None
        why = printable(error).replace(printable(path), printable(path.name))
        raise NotAnImage(why or type(error).__name__) from None


def square(image: Any, size: int, fit: str) -> np.ndarray:
    """Convert a PIL image to a square, (3, size, size) uint8.

    The image is rotated according to its EXIF block, transparent parts become white, and colours
    are converted from its colour profile to sRGB.

    Args:
        image: PIL image of any mode except floating point.
        size: side of the square in pixels.
        fit: "crop" keeps the centre square, "pad" keeps the whole image and adds white bars.
    Raises:
        ValueError: the range of the values does not tell which value is white.
    """
    from PIL import Image, ImageOps

    profile, bicubic = image.info.get("icc_profile"), Image.Resampling.BICUBIC
    image = _on_white(_upright(image))
    if fit == "pad":
        whole = _to_srgb(ImageOps.contain(image, (size, size), bicubic), profile)
        image = ImageOps.pad(whole, (size, size), color="white")
    else:
        image = _to_srgb(ImageOps.fit(image, (size, size), bicubic), profile)
    return np.asarray(image).transpose(2, 0, 1)  # (3, size, size)


def _upright(image: Any) -> Any:
    """Rotate the image according to its EXIF block; leave it if the block is damaged."""
    from PIL import ImageOps

    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged block makes Pillow raise nearly anything
        return image


def _on_white(image: Any) -> Any:
    """Convert the image to 8 bits on a white background, mode L, RGB or CMYK."""
    from PIL import Image

    if image.mode[0] in "IF":
        return _eight_bits(image)
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return image if image.mode in ("L", "CMYK") else image.convert(mode)
    clear = image.convert(mode + "A")
    flat = Image.new(mode, image.size, "white")
    flat.paste(clear.convert(mode), mask=clear.getchannel("A"))
    return flat


def _eight_bits(image: Any) -> Any:
    """Convert 16-bit grey to 8 bits: 65,535 is white. Pillow's conversion clips at 255."""
    from PIL import Image

    values = np.asarray(image)
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" or low < 0 or high > 65535:
        raise ValueError(f"values from {low:,} to {high:,} do not say which one is white")
    if image.mode != "I" or high > 255:
        values = (values.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(values.astype(np.uint8))


def _to_srgb(image: Any, profile: bytes | None) -> Any:
    """Convert an image of mode L, RGB or CMYK from its profile's colours to sRGB, mode RGB.

    Without a usable profile, the image is assumed to be sRGB.
    """
    from PIL import ImageCms

    transform = _transform(profile, image.mode) if profile else None
    return ImageCms.applyTransform(image, transform) if transform else image.convert("RGB")


@lru_cache(maxsize=64)  # the images of one camera share one profile
def _transform(profile: bytes, mode: str) -> Any:
    """The transform to sRGB; None if the profile is broken or is for a different mode."""
    from PIL import ImageCms

    try:
        return ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
