"""The picture cache on disk: one uint8 .npy file, memory-mapped, and a small JSON manifest.

The file name holds a digest of everything that changes a pixel. Writes are atomic and the manifest
comes last, so a cache with a manifest is complete. Size, header and labels are checked at every
opening. The pixels' checksum takes a second, so it is checked only if the file's modification time
differs from the one in the manifest. A cache that fails a check is made again. `ddpm data verify`
checks every checksum.
"""

import errno
import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .colour import to_channels
from .order import balanced_order
from .resize import FILTER

FORMAT = 3  # increase it when the file layout changes, or the pixels that a source decodes to

Chunks = Iterator[tuple[np.ndarray, np.ndarray]]  # (n, C, S, S) uint8 and (n,) int64


@dataclass(frozen=True)
class Source:
    """Pictures from which a cache can be made.

    Attributes:
        name: of the source in messages, such as "cifar10" or the path of a folder.
        identity: everything about the source that changes a pixel, as JSON values.
        classes: names, in the order of the labels.
        chunks: size -> the pictures at that size and their labels, chunk by chunk.
        interleave: store the pictures in `balanced_order`, not in the order of the chunks.
        origin: identifies the source even after its pictures change, so that its older caches are
            removed; empty to keep them.
        channels: C of the stored pictures; the chunks are converted to it.
        settle: labels of all chunks -> labels from 0, and the classes, if these are known only
            after reading.
    """

    name: str
    identity: dict[str, Any]
    classes: tuple[str, ...]
    chunks: Callable[[int], Chunks]
    interleave: bool = False
    origin: str = ""
    channels: int = 3
    settle: Callable[[list[int]], tuple[list[int], tuple[str, ...]]] | None = None


@dataclass(frozen=True)
class Cached:
    """An open cache: images (N, C, S, S) uint8, memory-mapped, and labels (N,) int64."""

    path: Path
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


class NotWritable(OSError):
    """The folder refuses to be written to. A full disk is a plain OSError."""


def path_and_key(source: Source, size: int, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The path of a source's cache, and the key whose digest is in its name."""
    key = {"identity": source.identity, "size": size, "filter": FILTER, "format": FORMAT}
    if source.channels != 3:  # older caches, all in colour, have no such entry
        key["channels"] = source.channels
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{source.identity['kind']}-{size}-{digest}.npy", key


def open_cache(source: Source, size: int, folder: Path) -> Cached | None:
    """Open a source's cache; None if it is missing, incomplete or damaged."""
    return read(*path_and_key(source, size, folder))


def load(source: Source, size: int, folder: Path) -> Cached:
    """Open a source's cache; make it first if there is none.

    Several processes may do so at once: one makes the cache, the others wait and say so. If the
    folder cannot be written to, a temporary one is used.

    Raises:
        OSError: neither folder can be written to, or the disk is full.
        ValueError: the source holds no pictures.
    """
    if ready := open_cache(source, size, folder):
        return ready  # needs neither the lock nor write permission
    try:
        return _make(source, size, folder)
    except NotWritable as refused:
        place = temporary_folder()
        print(f"{refused}; until then pictures are kept in {place}", flush=True)
        return _make(source, size, place)


def read(images: Path, key: Any = None, *, thorough: bool = False) -> Cached | None:
    """Open a cache; None if it is missing, incomplete or damaged.

    Args:
        images: path of its .npy file, see `path_and_key`.
        key: the key that its manifest must have; any if None.
        thorough: check the pixels' checksum even if the modification time is unchanged.
    """
    manifest = images.with_suffix(".json")
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        labels = np.asarray(found["labels"], dtype=np.int64)
        classes, state = tuple(found["classes"]), images.stat()
        size, channels = found["key"]["size"], found["key"].get("channels", 3)
        shape = (len(labels), channels, size, size)
        header = _header(shape)
        with open(images, "rb") as file:
            begins_well = file.read(len(header)) == header
        whole = (
            begins_well
            and found["key"] == (key or found["key"])
            and state.st_size == len(header) + math.prod(shape)
            and found["labels_sha256"] == _labels_digest(labels, classes)
        )
        if not whole:
            return None
        pixels = np.memmap(images, np.uint8, "r", len(header), shape)
        touched = state.st_mtime_ns != found["modified"]
        if touched or thorough:
            whole = found["pixels_sha256"] == _pixels_digest(images, pixels.nbytes)
            if whole and touched:  # a copied file, for instance: check it only once
                try:
                    _write_manifest(manifest, found | {"modified": state.st_mtime_ns})
                except OSError:  # a read-only folder: the next opening checks again
                    pass
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None  # what an altered manifest can lead to
    return Cached(images, pixels, labels, classes) if whole else None


def _make(source: Source, size: int, folder: Path) -> Cached:
    """Make a source's cache under a lock, unless another process did meanwhile."""
    from filelock import FileLock, Timeout

    images, key = path_and_key(source, size, folder)
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(images.with_suffix(".lock"))  # released when its process ends
        try:
            held = lock.acquire(timeout=0.5)
        except Timeout:
            print(f"another process is making the cache of {source.name}: waiting", flush=True)
            held = lock.acquire()
    with held:
        if not (ready := read(images, key)):
            _write(source, size, images, key)
            ready = read(images, key)
    if ready is None:
        raise OSError(f"the cache {images} was written, but cannot be read back")
    return ready


def _write(source: Source, size: int, images: Path, key: dict[str, Any]) -> None:
    """Write a source's cache, completely or not at all."""
    folder, manifest = images.parent, images.with_suffix(".json")
    beside, again = images.with_suffix(".part"), images.with_suffix(f".{os.getpid()}.part")
    chunks = ((to_channels(x, source.channels), y) for x, y in source.chunks(size))
    shape = (source.channels, size, size)
    try:
        labels, digest = _write_pixels(beside, chunks, shape)
        order = balanced_order(labels) if source.interleave else np.arange(len(labels))
        if (order != np.arange(len(order))).any():
            labels, digest = _write_pixels(again, _in_order(order, beside, labels), shape)
            os.replace(again, beside)
        labels, classes = source.settle(labels) if source.settle else (labels, source.classes)
        found = {
            "key": key,
            "origin": source.origin,
            "modified": beside.stat().st_mtime_ns,
            "classes": classes,
            "labels": labels,
            "labels_sha256": _labels_digest(np.array(labels), classes),
            "pixels_sha256": digest,
        }
        with _writing_to(folder):
            manifest.unlink(missing_ok=True)  # never an old manifest with new pictures
            os.replace(beside, images)
            _write_manifest(manifest, found)
    finally:
        beside.unlink(missing_ok=True)
        again.unlink(missing_ok=True)


def _write_pixels(path: Path, chunks: Chunks, shape: tuple[int, ...]) -> tuple[list[int], str]:
    """Write all chunks, then the header again with their number; labels and checksum."""
    labels: list[int] = []
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        rest = memoryview(data).cast("B")
        with _writing_to(path.parent):
            while rest:
                rest = rest[file.write(rest) :]

    with _writing_to(path.parent):
        file = open(path, "wb", buffering=0)  # a failed write would fail again at close
    with file:
        put(_header((0, *shape)))
        for pixels, ids in chunks:
            pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
            digest.update(pixels.data)
            put(pixels.data)
            labels += ids.tolist()
        if not labels:
            raise ValueError("the source holds no pictures")
        file.seek(0)
        put(_header((len(labels), *shape)))
        os.fsync(file.fileno())  # no manifest may reach the disk before its pictures
    return labels, digest.hexdigest()


def _in_order(order: np.ndarray, path: Path, labels: list[int]) -> Chunks:
    pixels, numbers = np.load(path, mmap_mode="r"), np.array(labels)
    for rows in np.split(order, range(1000, len(order), 1000)):
        yield pixels[rows], numbers[rows]


def _write_manifest(manifest: Path, found: dict[str, Any]) -> None:
    part = manifest.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(found, separators=(",", ":")), encoding="utf-8")
    os.replace(part, manifest)


def _header(shape: tuple[int, ...]) -> bytes:
    """Header of a uint8 .npy file, of the same length for any number of pictures."""
    buffer = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, layout)  # leaves room for a larger N
    return buffer.getvalue()


def _labels_digest(labels: np.ndarray, classes: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps([labels.tolist(), classes]).encode()).hexdigest()


def _pixels_digest(images: Path, count: int) -> str:
    with open(images, "rb") as file:
        file.seek(-count, os.SEEK_END)
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Turn an OSError into one line that says what to do."""
    try:
        yield
    except OSError as error:
        kind = OSError if error.errno in (errno.ENOSPC, errno.EDQUOT) else NotWritable
        why = error.strerror or error
        raise kind(
            f"cannot write to the cache folder {folder} ({why}); set DDPM_CACHE to a writable one"
        ) from None


def temporary_folder() -> Path:
    """This user's folder in the system's temporary one; a new one if others may write to it."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / "ddpm_helpers"
    folder = Path(tempfile.gettempdir()) / f"ddpm_helpers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="ddpm_helpers-"))  # not safely ours
    return folder
