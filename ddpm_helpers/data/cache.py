"""The cache of decoded images: one uint8 .npy file, memory-mapped, beside a small JSON manifest.

The file name holds a digest of everything that changes a pixel or a label. Both files are written
under temporary names and then renamed, the manifest last, so a cache with a manifest is complete.
"""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_helpers.files import prepare_folder, write_atomic

from .collection import Chunks, Collection
from .decode import to_grey
from .order import balanced_order
from .say import say

VERSION = 6  # increase it when the file layout, or any pixel, label or class name changes


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
    source = f"{collection.identity['kind']}-{shape[-1]}-{_digest(collection.identity, shape)}"
    name = f"{source}-{collection.state}.npy"
    if ready := _open(cache_dir / name):
        return ready  # needs neither the lock nor write permission
    cache_dir = _writable(cache_dir)
    path = cache_dir / name
    try:
        with locked(path.with_suffix(".lock"), f"making the cache of {collection.name}"):
            if not (ready := _open(path)):  # another process may have made it
                ready = _make(collection, shape, path)
                _remove(set(cache_dir.glob(f"{source}-*.npy")) - {path})
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"no room for the cache in {cache_dir}: set DDPM_CACHE to a folder on another drive"
        ) from error
    return ready


def map_images(path: Path) -> np.ndarray:
    """Memory-map the images of a .npy file; load them if the drive cannot map files."""
    try:
        return np.load(path, mmap_mode="r")
    except OSError:  # if the file is missing, the next line raises again
        return np.load(path)


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps((VERSION, values), sort_keys=True).encode()).hexdigest()[:16]


def _open(path: Path) -> Cached | None:
    """Open a cache; return None if it is missing or incomplete."""
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        images, labels = map_images(path), np.array(manifest["labels"], np.int64)
        classes = tuple(manifest["classes"])
    except (OSError, EOFError, ValueError, KeyError):
        return None
    return Cached(path, images, labels, classes) if len(images) == len(labels) else None


def _make(collection: Collection, shape: tuple[int, int, int], path: Path) -> Cached:
    """Read the images of a collection and write its cache, completely or not at all."""
    part, ordered = path.with_suffix(".part"), path.with_suffix(".ordered.part")
    try:
        classes, chunks = collection.read(shape[-1])
        if shape[0] == 1:
            chunks = ((to_grey(images), labels) for images, labels in chunks)
        labels = _write_images(part, chunks, shape)
        if collection.balance:
            order = balanced_order(labels)
            if (order != np.arange(len(labels))).any():
                labels = _write_images(ordered, _in_order(part, labels, order), shape)
                os.replace(ordered, part)
        if not classes:
            numbers, labels = np.unique(labels, return_inverse=True)
            classes = tuple(map(str, numbers))
        path.with_suffix(".json").unlink(missing_ok=True)  # so no old manifest describes new images
        os.replace(part, path)
        manifest = {"classes": classes, "labels": labels.tolist()}
        write_atomic(path.with_suffix(".json"), json.dumps(manifest).encode())
    finally:
        part.unlink(missing_ok=True)
        ordered.unlink(missing_ok=True)
    return Cached(path, map_images(path), labels, classes)


def _write_images(path: Path, chunks: Chunks, shape: tuple[int, int, int]) -> np.ndarray:
    """Write all chunks to a .npy file, flush it to the disk, and return the labels."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (0, *shape)}
    labels: list[int] = []
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)  # leaves room for a larger N
        for images, numbers in chunks:
            file.write(np.ascontiguousarray(images).data)
            labels += numbers.tolist()
        if not labels:
            raise ValueError("the source holds no image that can be read")
        file.seek(0)
        header["shape"] = (len(labels), *shape)
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        os.fsync(file.fileno())  # the images must reach the disk before the manifest
    return np.array(labels, np.int64)


def _in_order(path: Path, labels: np.ndarray, order: np.ndarray) -> Chunks:
    images = map_images(path)
    for k in order:
        yield images[k : k + 1], labels[k : k + 1]


def _remove(caches: set[Path]) -> None:
    """Remove caches of a folder's earlier states; a process that has one open can keep using it."""
    for path in caches:
        with suppress(OSError):  # Windows keeps a file that is open; the next call tries again
            path.unlink()
            path.with_suffix(".json").unlink()


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock between processes; the system releases it if this process is killed.

    Args:
        path: path of the lock file.
        doing: description of the work, printed by processes that wait for the lock.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        say(f"another process is {doing}: waiting for {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _writable(cache_dir: Path) -> Path:
    """Make the folder and return it; if it is not writable, say so and return a temporary one."""
    try:
        return prepare_folder(cache_dir)
    except OSError as error:
        folder = temporary_folder()
        say(f"{error}; set DDPM_CACHE to a writable one; until then images are kept in {folder}")
        return folder


def temporary_folder() -> Path:
    """The user's subfolder of the temporary folder; a new one if it belongs to somebody else."""
    user = os.getuid() if hasattr(os, "getuid") else 0  # as st_uid is on Windows
    folder = Path(tempfile.gettempdir()) / f"ddpm_helpers-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid == user:
        return folder
    return Path(tempfile.mkdtemp(prefix="ddpm_helpers-"))
