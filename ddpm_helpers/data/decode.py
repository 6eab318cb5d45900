"""Decode picture files to squares, or say why that is impossible."""

import errno
import io
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from .resize import square, white_level

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")  # recognised by content
SUFFIXES = {
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
    ".pgm", ".avif",
}  # fmt: skip
HEIC = {".heic", ".heif"}  # not read by Pillow alone
TWELVE_BITS = "12-bit values in 16 bits: 4,095 was taken for white"
# Temporary failures: if the file were skipped, the cache would lack it for good.
PASSING = {
    errno.EDEADLK,  # a file that a cloud service has yet to download
    errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
MAX_PIXELS = 89_000_000  # larger pictures are refused: one could take more than a gigabyte
END, RESTARTS = b"\xff\xd9", b"\xff\xdd"  # markers of JPEG: the end, and "I have restart markers"
FILLERS = [bytes([k]) * 64 for k in (0x24, 0x5A, 0xA5, 0xDB)]  # in place of missing data
_LARGE, _one_large = 8_000_000, Lock()  # larger pictures are decoded one at a time


class NotAPicture(ValueError):
    """A file that cannot be read; the message says why."""


@cache
def readable() -> tuple[set[str], tuple[str, ...]]:
    """Suffixes and formats that this Pillow decodes; builds without AVIF exist."""
    from PIL import Image

    Image.init()  # all decoders, before threads need them
    formats = tuple(name for name in FORMATS if name in Image.OPEN)
    return SUFFIXES - (set() if "AVIF" in formats else {".avif"}), formats


def decode(path: Path, size: int, fit: str) -> tuple[np.ndarray, str]:
    """Decode one picture to a square, see `square`, with a note for the user, mostly empty.

    Raises:
        NotAPicture: the file is damaged, too large, or of another kind.
        OSError: a failure that is not the file's fault, such as too little memory.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=readable()[1]) as picture:
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:
                raise ValueError(f"{picture.width:,}×{picture.height:,} pixels are too many")
            with _one_large if pixels > _LARGE else nullcontext():
                return _pixels(picture, path, size, fit)
    except Exception as error:  # decoders raise nearly anything on damaged files
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING:
            raise OSError(f"cannot read {shown(path)}: {error or 'out of memory'}") from None
        raise NotAPicture(_reason(error, path)) from None


def _pixels(picture: Any, path: Path, size: int, fit: str) -> tuple[np.ndarray, str]:
    try:
        picture.load()
    except OSError as error:
        if error.errno is not None or picture.format not in ("JPEG", "MPO"):
            raise
        picture = _with_end(path.read_bytes())
    return square(picture, size, fit), TWELVE_BITS if white_level(picture) == 4095 else ""


def _with_end(data: bytes) -> Any:
    """Read a JPEG that may lack no more than its end marker; an OSError otherwise.

    A decoder that misses data goes on with the bytes that follow: if others change the picture, it
    lacks some. Restart markers would hide that. A progressive picture may lack its last, finer
    scans.
    """
    from PIL import Image

    data = data.rstrip(b"\xff")  # perhaps half of the marker

    def completed(more: bytes) -> Any:
        return Image.open(io.BytesIO(data + more + END), formats=("JPEG",))

    picture = completed(b"")
    if RESTARTS in data or any(picture != completed(more) for more in FILLERS):
        raise OSError("image file is truncated")
    return picture


def _reason(error: Exception, path: Path) -> str:
    if path.exists() and path.stat().st_size == 0:
        return "empty file"
    return shown(error).replace(shown(path), shown(path.name)) or type(error).__name__


def shown(name: Any) -> str:
    """A name as text that this terminal can print on one line, even if it is not valid text."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = str(name).encode(encoding, "backslashreplace").decode(encoding)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
