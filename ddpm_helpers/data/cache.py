"""The cache of decoded images: one uint8 .npy file, memory-mapped, beside a small JSON manifest.

The file name holds a digest of everything that changes a pixel. Both files are written under
temporary names and then renamed, the manifest last, so a cache with a manifest is complete. A
cache that was modified, or made by another version, is rebuilt.
"""

import errno
import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_helpers.files import write_atomic

from .cache_folder import locked, remove_older, writable
from .collection import Chunks, Collection
from .decode import to_grey
from .order import balanced_order

VERSION = 5  # increase it when the file layout, or any pixel, label or class name changes
RESOLUTION = 2e9  # ns; FAT drives, the coarsest, store modification times in steps of 2 s


@dataclass(frozen=True)
class Cached:
    """An open cache: images (N, C, S, S) uint8, memory-mapped, and labels (N,) int64."""

    path: Path
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def load(collection: Collection, shape: tuple[int, int, int], cache_dir: Path) -> Cached:
    """Open a collection's cache; make it first if it does not exist.

    If several processes call this at once, one makes the cache; the others print a line and
    wait. If the cache folder cannot be written to, a temporary folder is used.

    Args:
        collection: what to cache.
        shape: (C, S, S) of an image.
        cache_dir: the cache folder.
    Raises:
        OSError: neither folder can be written to, or the disk is full.
        ValueError: the collection holds no images.
    """
    name, key = _name_and_key(collection, shape)
    if ready := _read(cache_dir / name, key):
        return ready  # needs neither the lock nor write permission
    cache_dir = writable(cache_dir)
    path = cache_dir / name
    try:
        with locked(path.with_suffix(".lock"), f"making the cache of {collection.name}"):
            if not (ready := _read(path, key)):  # another process may have made it
                _write(collection, path, key)
                ready = _read(path, key)
                remove_older(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"no room for the cache in {cache_dir}: set DDPM_CACHE to a folder on another drive"
        ) from None
    if ready is None:
        raise OSError(f"the cache {path} was written, but cannot be read back")
    return ready


def map_images(path: Path) -> np.ndarray:
    """Memory-map the images of a .npy file; load them if the drive cannot map files."""
    try:
        return np.load(path, mmap_mode="r")
    except OSError:  # if the file is missing, the next line raises again
        return np.load(path)


def _name_and_key(
    collection: Collection, shape: tuple[int, int, int]
) -> tuple[str, dict[str, Any]]:
    """Return the file name of a collection's cache, and the key whose digest the name holds."""
    key = {"identity": collection.identity, "shape": list(shape), "version": VERSION}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return f"{collection.identity['kind']}-{shape[-1]}-{digest}.npy", key


def _read(path: Path, key: dict[str, Any]) -> Cached | None:
    """Open a cache; return None if it is missing, incomplete, damaged or has a different key."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        state = path.stat()
        modified = abs(state.st_mtime_ns - manifest["modified"]) > RESOLUTION
        if modified or state.st_size != manifest["bytes"] or manifest["key"] != key:
            return None
        images, labels = map_images(path), np.array(manifest["labels"], np.int64)
        if images.dtype != np.uint8 or images.shape != (len(labels), *key["shape"]):
            return None
        return Cached(path, images, labels, tuple(manifest["classes"]))
    except (OSError, ValueError, LookupError, TypeError, OverflowError):  # it has been modified
        return None


def _write(collection: Collection, path: Path, key: dict[str, Any]) -> None:
    """Write a collection's cache, completely or not at all."""
    channels, size, _ = shape = tuple(key["shape"])
    part, ordered = path.with_suffix(".part"), path.with_suffix(".ordered.part")
    try:
        classes, chunks = collection.read(size)
        if channels == 1:
            chunks = ((to_grey(images), labels) for images, labels in chunks)
        labels = _write_images(part, chunks, shape)
        order = balanced_order(labels) if collection.balance else np.arange(len(labels))
        if (order != np.arange(len(labels))).any():
            labels = _write_images(ordered, _in_order(order, part, labels), shape)
            os.replace(ordered, part)
        if not classes:
            numbers, places = np.unique(labels, return_inverse=True)
            classes, labels = tuple(map(str, numbers)), places.tolist()
        manifest = {
            "key": key,
            "origin": collection.origin,
            "modified": part.stat().st_mtime_ns,
            "bytes": part.stat().st_size,
            "classes": classes,
            "labels": labels,
        }
        path.with_suffix(".json").unlink(missing_ok=True)  # so no old manifest describes new images
        os.replace(part, path)
        text = json.dumps(manifest, separators=(",", ":"))
        write_atomic(path.with_suffix(".json"), text.encode())
    finally:
        part.unlink(missing_ok=True)
        ordered.unlink(missing_ok=True)


def _write_images(path: Path, chunks: Chunks, shape: tuple[int, ...]) -> list[int]:
    """Write all chunks, then the header with the number of images; return the labels."""
    labels: list[int] = []
    with open(path, "wb") as file:
        file.write(_header((0, *shape)))
        for pixels, numbers in chunks:
            file.write(np.ascontiguousarray(pixels, dtype=np.uint8).data)
            labels += numbers.tolist()
        if not labels:
            raise ValueError("the source holds no image that can be read")
        file.seek(0)
        file.write(_header((len(labels), *shape)))
        file.flush()
        os.fsync(file.fileno())  # the images must reach the disk before the manifest
    return labels


def _header(shape: tuple[int, ...]) -> bytes:
    """Header of a uint8 .npy file; its length does not depend on the number of images."""
    buffer = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, layout)  # leaves room for a larger N
    return buffer.getvalue()


def _in_order(order: np.ndarray, path: Path, labels: list[int]) -> Chunks:
    images, numbers = map_images(path), np.array(labels)
    for rows in np.split(order, range(1000, len(order), 1000)):
        yield images[rows], numbers[rows]
