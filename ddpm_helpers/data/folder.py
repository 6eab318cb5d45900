"""Your own pictures: a folder of images, or one subfolder for each class."""

import errno
import hashlib
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from .cache import Chunks, Source
from .order import balanced_order
from .resize import square

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # whatever the name says
FITS = ("crop", "pad")
# Failures that say nothing about the file: a cache without its picture would stay wrong.
PASSING = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}
MAX_PIXELS = 89_000_000  # a picture of more is not opened: it could take more than a gigabyte
LISTED = 20  # skipped files that are named; the others are only counted
_CHUNK = 256
_LARGE, _one_large = 8_000_000, Lock()  # pictures of more pixels are decoded one at a time


def source(split: str, folder: Path, fit: str = "crop") -> Source:
    """The pictures below a folder.

    Args:
        split: a folder with subfolders `train` and `test` gives the one asked for; any other
            folder is all training data.
        fit: "crop" keeps the centre square, "pad" the whole picture between white bars.
        folder: one subfolder for each class, or pictures alone, which make one class.
    Raises:
        ValueError: no pictures, or no such split.
    """
    folder = folder.expanduser().resolve()
    name = str(folder)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        folder = folder / split
    elif split != "train":
        raise ValueError(f"{folder} has no split {split!r}: it needs subfolders train and test")
    classes, files, foreign, loose = _listing(folder)
    if not files:
        found = f"; found {_kinds(foreign)}" if foreign else ""
        looked = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"no pictures in {_shown(folder)} (looked for {looked}{found})")
    digest = hashlib.sha256()
    for path, label in files:
        line = f"{path.relative_to(folder)}\0{label}\0{_state(path)}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    identity = {"kind": "folder", "path": str(folder), "files": digest.hexdigest(), "fit": fit}
    identity["order"] = "balanced"
    files = [files[k] for k in balanced_order([label for _, label in files])]

    def chunks(size: int) -> Chunks:
        yield from _chunks(folder, files, size, fit)
        if loose:
            print(f"{_shown(folder.name)}: left out {loose:,} pictures beside the class folders; "
                  "move them into the folder of their class")  # fmt: skip
        if foreign:
            print(f"{_shown(folder.name)}: other files were not looked at: {_kinds(foreign)}")

    return Source(name, identity, classes, chunks, by_class=True)


def _listing(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]], Counter[str], int]:
    """Class names and (path, label), both sorted: the same order on every machine.

    Then the kinds of files that are no pictures, and how many pictures lie beside the classes.
    """
    foreign: Counter[str] = Counter()  # suffix -> number of files that are no pictures
    below = {
        path.name: found
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
        if (found := _pictures(path, folder, foreign))
    }
    if below:
        files = [(p, k) for k, found in enumerate(below.values()) for p in found]
        return tuple(below), files, foreign, sum(map(_is_picture, folder.iterdir()))
    foreign.clear()
    return (folder.name,), [(p, 0) for p in _pictures(folder, None, foreign)], foreign, 0


def _pictures(folder: Path, above: Path | None, foreign: Counter[str]) -> list[Path]:
    """Pictures at any depth, through links too; each folder once, so that circles end."""
    seen = {_identity(above)} if above else set()
    found = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        if (here := _identity(place)) in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() not in SUFFIXES:
                foreign[path.suffix.lower() or "no suffix"] += 1
            elif _is_picture(path):
                found.append(path)
            else:
                foreign["broken link" if path.is_symlink() else "special file"] += 1
    return sorted(found)


def _is_picture(path: Path) -> bool:
    """By its name, and as far as it is a file at all; hidden ones are not looked at."""
    return (
        path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does, or when its owner lets us read it."""
    try:
        state = path.stat()
    except FileNotFoundError:  # gone since it was listed; reading it will say so
        return None
    return state.st_size, state.st_mtime_ns, state.st_mode


def _identity(place: Any) -> tuple[int, int]:
    state = os.stat(place)
    return state.st_dev, state.st_ino


def _unreadable(error: OSError) -> None:
    print(f"skipped {_shown(error.filename)}: {error.strerror}")


def _kinds(foreign: Counter[str]) -> str:
    return ", ".join(f"{count:,} {_shown(kind)}" for kind, count in foreign.most_common(8))


def _shown(path: Any) -> str:
    """A name that this terminal can print on one line, even one that is no valid text."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = str(path).encode(encoding, "backslashreplace").decode(encoding)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _chunks(folder: Path, files: list[tuple[Path, int]], size: int, fit: str) -> Chunks:
    """Decode on every core; name what is no picture, skip it and count it at the end."""
    from PIL import Image
    from tqdm.auto import tqdm

    Image.init()  # all decoders, before threads ask for them
    skipped = 0
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(files), desc=f"reading {_shown(folder.name)}", unit=" pictures") as bar,
    ):
        for k in range(0, len(files), _CHUNK):
            here = files[k : k + _CHUNK]
            good, labels = [], []
            decoded = pool.map(lambda file: _decode(file[0], size, fit), here)
            for (path, label), picture in zip(here, decoded, strict=True):
                if not isinstance(picture, str):
                    good.append(picture)
                    labels.append(label)
                    continue
                skipped += 1
                if skipped <= LISTED:
                    bar.write(f"skipped {_shown(path.relative_to(folder))}: {picture}")
            bar.update(len(here))
            if good:
                yield np.stack(good), np.array(labels, np.int64)
    if skipped == len(files):
        raise ValueError(f"none of the {len(files):,} files in {_shown(folder)} is a picture")
    if skipped:
        print(
            f"{_shown(folder.name)}: {skipped:,} of {len(files):,} files are no pictures and "
            f"were skipped" + (f" (the first {LISTED} are named)" if skipped > LISTED else "")
        )


def _decode(path: Path, size: int, fit: str) -> np.ndarray | str:
    """A picture, (3, size, size) uint8, or why it is none."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:
                return f"{picture.width:,}×{picture.height:,} pixels are too many"
            if pixels <= _LARGE:
                return square(picture, size, fit)
            with _one_large:
                return square(picture, size, fit)
    except Exception as error:  # decoders of damaged files raise nearly everything
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING:
            raise OSError(f"cannot read {_shown(path)}: {error or 'out of memory'}") from None
        if (state := _state(path)) and state[0] == 0:
            return "empty file"
        return _shown(error).replace(_shown(path), _shown(path.name)) or type(error).__name__
