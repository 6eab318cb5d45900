"""Your own pictures: a folder of images, or one subfolder for each class."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .cache import Chunks, Source
from .resize import square

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_CHUNK = 256


def source(split: str, folder: Path) -> Source:
    """The pictures below a folder.

    Args:
        split: a folder with subfolders `train` and `test` gives the one asked for; any other
            folder is all training data.
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
    classes, files = _listing(folder)
    if not files:
        raise ValueError(f"no pictures in {folder} (looked for {', '.join(sorted(SUFFIXES))})")
    digest = hashlib.sha256()
    for path, label in files:
        state = path.stat()
        line = f"{path.relative_to(folder)}\0{label}\0{state.st_size}\0{state.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    identity = {"kind": "folder", "path": str(folder), "files": digest.hexdigest()}
    return Source(name, identity, classes, lambda size: _chunks(folder, files, size))


def _listing(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names and (path, label), both sorted: the same order on every machine."""
    below = {
        path.name: found
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".") and (found := list(_pictures(path)))
    }
    if below:
        return tuple(below), [(p, k) for k, found in enumerate(below.values()) for p in found]
    return (folder.name,), [(p, 0) for p in _pictures(folder)]


def _pictures(folder: Path) -> Iterator[Path]:
    found = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES)
    return (p for p in found if p.is_file() and not p.name.startswith("."))


def _chunks(folder: Path, files: list[tuple[Path, int]], size: int) -> Chunks:
    """Decode on every core; name what is no picture, skip it and count it at the end."""
    from tqdm.auto import tqdm

    skipped = 0
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(files), desc=f"reading {folder.name}", unit=" pictures") as bar,
    ):
        for k in range(0, len(files), _CHUNK):
            here = files[k : k + _CHUNK]
            decoded = list(pool.map(lambda file: _decode(file[0], size), here))
            for (path, _), picture in zip(here, decoded, strict=True):
                if isinstance(picture, str):
                    bar.write(f"skipped {path.relative_to(folder)}: {picture}")
            pairs = zip(here, decoded, strict=True)
            labels = [label for (_, label), p in pairs if not isinstance(p, str)]
            good = [p for p in decoded if not isinstance(p, str)]
            skipped += len(here) - len(good)
            bar.update(len(here))
            if good:
                yield np.stack(good), np.array(labels, np.int64)
    if skipped == len(files):
        raise ValueError(f"none of the {len(files):,} files in {folder} is a picture")
    if skipped:
        print(
            f"{folder.name}: {skipped:,} of {len(files):,} files are no pictures and were skipped"
        )


def _decode(path: Path, size: int) -> np.ndarray | str:
    """A picture, (3, size, size) uint8, or why it is none."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return square(picture, size)
    except Exception as error:  # decoders of damaged files raise nearly everything
        return str(error).replace(str(path), path.name) or type(error).__name__
