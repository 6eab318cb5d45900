"""The cache of decoded images: one uint8 .npy file, memory-mapped, beside a small JSON manifest.

The file name holds a digest of everything that changes a pixel. Both files are written under
temporary names and then renamed, the manifest last, so a cache with a manifest is complete. The
checksum of the pixels takes a second, so it is compared only if the file's modification time
has changed. A cache that is damaged, or was made by another version, is rebuilt.
"""

import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_helpers.files import write_atomic

from .order import balanced_order
from .squares import to_channels

FORMAT = 4  # increase it when the file layout or the decoded pixels change

Chunks = Iterator[tuple[np.ndarray, np.ndarray]]  # (n, C, S, S) uint8 and (n,) int64


@dataclass(frozen=True)
class Source:
    """Images from which a cache can be made.

    Attributes:
        name: the source's name in messages, such as "cifar10" or the path of a folder.
        identity: everything about the source that changes a pixel, as JSON values.
        classes: names, in the order of the labels.
        chunks: function of the image size that yields images and labels in chunks.
        interleave: store the images in `balanced_order`, not in the order of the chunks.
        origin: identifies the source even after its images change, so that its older caches are
            removed; empty to keep them.
        channels: number of channels C of the stored images; chunks are converted to it.
        relabel: function of all labels that returns labels from 0 and class names, for a source
            that knows its classes only after reading.
    """

    name: str
    identity: dict[str, Any]
    classes: tuple[str, ...]
    chunks: Callable[[int], Chunks]
    interleave: bool = False
    origin: str = ""
    channels: int = 3
    relabel: Callable[[list[int]], tuple[list[int], tuple[str, ...]]] | None = None


@dataclass(frozen=True)
class Cached:
    """An open cache: images (N, C, S, S) uint8, memory-mapped, and labels (N,) int64."""

    path: Path
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def path_and_key(source: Source, size: int, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path of a source's cache and the key whose digest is in its name."""
    shape = [source.channels, size, size]
    key = {"identity": source.identity, "shape": shape, "format": FORMAT}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{source.identity['kind']}-{size}-{digest}.npy", key


def open_cache(source: Source, size: int, folder: Path) -> Cached | None:
    """Open a source's cache; None if it is missing, incomplete or damaged."""
    return read(*path_and_key(source, size, folder))


def load(source: Source, size: int, folder: Path) -> Cached:
    """Open a source's cache; make it first if it does not exist.

    If several processes call this at once, one makes the cache and the others wait and print a
    line. If the folder cannot be written to, a temporary folder is used.

    Raises:
        OSError: neither folder can be written to, or the disk is full.
        ValueError: the source holds no images.
    """
    if ready := open_cache(source, size, folder):
        return ready  # needs neither the lock nor write permission
    folder = writable(folder)
    try:
        return _make(source, size, folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(f"{_refused(folder, error)}; name a drive with more room") from None


def read(path: Path, key: dict[str, Any]) -> Cached | None:
    """Open a cache; return None if it is missing, incomplete, damaged or has a different key.

    The arguments are what `path_and_key` returns.
    """
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        touched = path.stat().st_mtime_ns != found["modified"]
        if path.stat().st_size != found["bytes"] or found["key"] != key:
            return None
        images, labels = map_images(path), np.array(found["labels"], np.int64)
        if images.dtype != np.uint8 or images.shape != (len(labels), *key["shape"]):
            return None
        if touched and _checksum(path) != found["sha256"]:
            return None
        cached = Cached(path, images, labels, tuple(found["classes"]))
    except (OSError, ValueError, LookupError, TypeError, OverflowError):  # it has been modified
        return None
    if touched:  # such as a copied file: do not compare its checksum again
        with suppress(OSError):  # in a read-only folder, the checksum is compared each time
            _write_manifest(path, found | {"modified": path.stat().st_mtime_ns})
    return cached


def map_images(path: Path) -> np.ndarray:
    """Memory-map the images of a .npy file; load them if the drive cannot map files."""
    try:
        return np.load(path, mmap_mode="r")
    except OSError:  # if the file is missing, this raises again
        return np.load(path)


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock between processes; the system releases it if this process is killed.

    Args:
        path: path of the lock file.
        doing: description of the work, printed by processes that wait for the lock; if empty,
            raise filelock's `Timeout` instead of waiting.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, place in ((FileLock, path), (SoftFileLock, path.with_suffix(".softlock"))):
        lock = kind(place)
        with suppress(NotImplementedError):  # the drive does not support file locks
            try:
                lock.acquire(timeout=0.5)
            except Timeout:
                if not doing:
                    raise
                print(f"another process is {doing}: waiting for {place}", flush=True)
                lock.acquire()
            break
    try:
        yield
    finally:
        lock.release()


def _make(source: Source, size: int, folder: Path) -> Cached:
    """Make a source's cache under a lock, unless another process has made it meanwhile."""
    path, key = path_and_key(source, size, folder)
    with locked(path.with_suffix(".lock"), f"making the cache of {source.name}"):
        if not (ready := read(path, key)):
            _write(source, size, path, key)
            ready = read(path, key)
    if ready is None:
        raise OSError(f"the cache {path} was written, but cannot be read back")
    return ready


def _write(source: Source, size: int, path: Path, key: dict[str, Any]) -> None:
    """Write a source's cache, completely or not at all."""
    part, ordered = path.with_suffix(".part"), path.with_suffix(".ordered.part")
    chunks = ((to_channels(x, source.channels), y) for x, y in source.chunks(size))
    try:
        labels = _write_images(part, chunks, tuple(key["shape"]))
        order = balanced_order(labels) if source.interleave else np.arange(len(labels))
        if (order != np.arange(len(order))).any():
            labels = _write_images(ordered, _in_order(order, part, labels), tuple(key["shape"]))
            os.replace(ordered, part)
        labels, classes = source.relabel(labels) if source.relabel else (labels, source.classes)
        found = {
            "key": key,
            "origin": source.origin,
            "modified": part.stat().st_mtime_ns,
            "bytes": part.stat().st_size,
            "sha256": _checksum(part),
            "classes": classes,
            "labels": labels,
        }
        path.with_suffix(".json").unlink(missing_ok=True)  # so no old manifest describes new images
        os.replace(part, path)
        _write_manifest(path, found)
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
            raise ValueError("the source holds no images")
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


def _write_manifest(path: Path, found: dict[str, Any]) -> None:
    write_atomic(path.with_suffix(".json"), json.dumps(found, separators=(",", ":")).encode())


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def writable(folder: Path) -> Path:
    """Make the folder and return it; if it is not writable, print so and return a temporary one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        place = temporary_folder()
        print(f"{_refused(folder, error)}; until then images are kept in {place}", flush=True)
        return place


def _refused(folder: Path, error: OSError) -> str:
    why = error.strerror or error
    return f"cannot write to the cache folder {folder} ({why}); set DDPM_CACHE to a writable one"


def temporary_folder() -> Path:
    """The user's subfolder of the temporary folder; a new one if others can write to it."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / "ddpm_helpers"
    folder = Path(tempfile.gettempdir()) / f"ddpm_helpers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="ddpm_helpers-"))  # others could write to it
    return folder
