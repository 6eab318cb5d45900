"""Ready pictures on disk: one uint8 .npy, memory-mapped, beside a small JSON manifest.

The name holds a digest of everything that changes a pixel. Files are written beside their place
and moved there, the manifest last, so whoever finds a manifest finds a whole cache; sizes and
shapes are checked all the same, and a cache that fails is made again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .resize import FILTER

FORMAT = 1  # changes whenever the files' layout does

Chunks = Iterator[tuple[np.ndarray, np.ndarray]]  # (n, 3, S, S) uint8 and (n,) int64


@dataclass(frozen=True)
class Source:
    """Pictures that a cache can be made from.

    Attributes:
        name: the resolved source, as users know it.
        identity: everything about the source that changes a pixel, JSON-ready.
        classes: names, in the order of the labels.
        chunks: size -> the pictures at that size and their labels, chunk by chunk.
    """

    name: str
    identity: dict[str, Any]
    classes: tuple[str, ...]
    chunks: Callable[[int], Chunks]


@dataclass(frozen=True)
class Cached:
    """An open cache: images (N, 3, S, S) uint8, memory-mapped, and labels (N,) int64."""

    path: Path
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def paths(source: Source, size: int, folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Where a source's pictures and manifest lie, and the key that both are named by."""
    key = {"identity": source.identity, "size": size, "filter": FILTER, "format": FORMAT}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    stem = f"{source.identity['kind']}-{size}-{digest}"
    return folder / f"{stem}.npy", folder / f"{stem}.json", key


def open_cache(source: Source, size: int, folder: Path) -> Cached | None:
    """Open a ready cache; None where there is none, or one that is not whole."""
    images, manifest, key = paths(source, size, folder)
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        labels = np.asarray(found["labels"], dtype=np.int64)
        pixels = np.load(images, mmap_mode="r", allow_pickle=False)
        whole = (
            found["key"] == key
            and images.stat().st_size == found["bytes"]
            and pixels.dtype == np.uint8
            and pixels.shape == (len(labels), 3, size, size)
        )
        classes = tuple(found["classes"])
        whole = whole and 0 <= labels.min() and labels.max() < len(classes)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return Cached(images, pixels, labels, classes) if whole else None


def load(source: Source, size: int, folder: Path) -> Cached:
    """Open a source's cache, making it first where there is none.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: the source holds no pictures.
    """
    if ready := open_cache(source, size, folder):
        return ready  # needs no lock and no right to write
    from filelock import FileLock

    images = paths(source, size, folder)[0]
    lock = FileLock(images.with_suffix(".lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise unwritable(folder, error) from None
    with lock:
        lock.release()  # acquire() and `with` both count
        if not (ready := open_cache(source, size, folder)):
            _write(source, size, folder)
            ready = open_cache(source, size, folder)
    if ready is None:
        raise OSError(f"the cache {images} was written, but cannot be read back")
    return ready


def unwritable(folder: Path, error: OSError) -> OSError:
    reason = error.strerror or error
    return OSError(
        f"cannot write to the cache folder {folder} ({reason}); set DDPM_CACHE to one you can"
    )


def _write(source: Source, size: int, folder: Path) -> None:
    images, manifest, key = paths(source, size, folder)
    beside = images.with_suffix(".part")
    chunks = source.chunks(size)
    try:
        labels = _write_pixels(beside, chunks, size, folder)
        found = {
            "key": key,
            "bytes": beside.stat().st_size,
            "classes": source.classes,
            "labels": labels,
        }
        try:
            manifest.unlink(missing_ok=True)  # never an old manifest beside new pictures
            os.replace(beside, images)
            beside.write_text(json.dumps(found, separators=(",", ":")), encoding="utf-8")
            os.replace(beside, manifest)
        except OSError as error:
            raise unwritable(folder, error) from None
    finally:
        beside.unlink(missing_ok=True)


def _write_pixels(path: Path, chunks: Chunks, size: int, folder: Path) -> list[int]:
    """Write chunk after chunk, then the header again with the number that came."""
    labels: list[int] = []
    with open(path, "wb") as file:
        start = _header(file, 0, size)
        for pixels, ids in chunks:
            try:
                file.write(np.ascontiguousarray(pixels, dtype=np.uint8).data)
            except OSError as error:  # a full disk, say
                raise unwritable(folder, error) from None
            labels += ids.tolist()
        if not labels:
            raise ValueError("the source holds no pictures")
        file.seek(0)
        if _header(file, len(labels), size) != start:
            raise OSError("numpy wrote headers of two lengths")
    return labels


def _header(file: Any, count: int, size: int) -> int:
    """numpy leaves room for a number that grows: the header's length is the same for any."""
    layout = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, size, size)}
    np.lib.format.write_array_header_1_0(file, layout)
    return file.tell()
