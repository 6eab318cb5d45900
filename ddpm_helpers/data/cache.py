"""Ready pictures on disk: one uint8 .npy, memory-mapped, beside a small JSON manifest.

The name holds a digest of everything that changes a pixel. Files are written beside their place
and moved there, the manifest last, so whoever finds a manifest finds a whole cache. Size, header
and labels are checked whenever it is opened. The pixels' checksum takes a second, so it is read
again only when the file's time of change is another than the one in the manifest; a cache that
fails is made again. `ddpm data verify` reads every checksum.
"""

import errno
import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .channels import to_channels
from .order import balanced_order
from .resize import FILTER

FORMAT = 3  # raise it when the files' layout changes, or the pixels that a source is decoded to

Chunks = Iterator[tuple[np.ndarray, np.ndarray]]  # (n, C, S, S) uint8 and (n,) int64


@dataclass(frozen=True)
class Source:
    """Pictures that a cache can be made from.

    Attributes:
        name: the resolved source, as users know it.
        identity: everything about the source that changes a pixel, JSON-ready.
        classes: names, in the order of the labels.
        chunks: size -> the pictures at that size and their labels, chunk by chunk.
        interleave: keep them in `balanced_order`, not in the order in which they come.
        origin: what stays the same when the pictures change; empty where they cannot.
        channels: C of the pictures that the cache keeps; chunks of the other kind are converted.
        settle: the labels as they came -> labels from 0, and classes, which are known only then.
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


def paths(source: Source, size: int, folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Where a source's pictures and manifest lie, and the key that both are named by."""
    key = {"identity": source.identity, "size": size, "filter": FILTER, "format": FORMAT}
    if source.channels != 3:  # left out where it is 3, as it was when all caches were in colour
        key["channels"] = source.channels
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    stem = f"{source.identity['kind']}-{size}-{digest}"
    return folder / f"{stem}.npy", folder / f"{stem}.json", key


def open_cache(source: Source, size: int, folder: Path) -> Cached | None:
    """Open a ready cache; None where there is none, or one that is not whole."""
    images, manifest, key = paths(source, size, folder)
    return read(images, manifest, key)


def read(images: Path, manifest: Path, key: Any = None, *, thorough: bool = False) -> Cached | None:
    """Open a pair of files.

    Args:
        images, manifest: the files, as `paths` names them.
        key: what they must have been made from; anything if None.
        thorough: read the pixels' checksum even if the file was not touched since.
    Returns:
        The cache, or None where it is not whole.
    """
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
            and state.st_size == found["bytes"] == len(header) + math.prod(shape)
            and found["labels_sha256"] == _labels_digest(labels, classes)
        )
        if not whole:
            return None
        pixels = np.memmap(images, np.uint8, "r", len(header), shape)
        touched = state.st_mtime_ns != found["modified"]
        if touched or thorough:
            whole = found["pixels_sha256"] == _pixels_digest(images, pixels.nbytes)
            if whole and touched:  # copied from elsewhere, say: check it this once
                _remember(manifest, found | {"modified": state.st_mtime_ns})
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None  # whatever an altered manifest leads to
    return Cached(images, pixels, labels, classes) if whole else None


def _labels_digest(labels: np.ndarray, classes: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps([labels.tolist(), classes]).encode()).hexdigest()


def _pixels_digest(images: Path, count: int) -> str:
    """Of the last `count` bytes, read piece by piece: memory stays free."""
    digest = hashlib.sha256()
    with open(images, "rb") as file:
        file.seek(-count, os.SEEK_END)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _remember(manifest: Path, found: dict[str, Any]) -> None:
    beside = manifest.with_suffix(f".{os.getpid()}.part")
    try:
        beside.write_text(json.dumps(found, separators=(",", ":")), encoding="utf-8")
        os.replace(beside, manifest)
    except OSError:  # a place that cannot be written: the next one checks again
        return


def load(source: Source, size: int, folder: Path) -> Cached:
    """Open a source's cache, making it first where there is none.

    Any number of processes may ask at once: one makes it, the others wait and say so. Where the
    folder cannot be written to, a temporary one takes its place.

    Raises:
        OSError: neither can be written to, or the disk is full.
        ValueError: the source holds no pictures.
    """
    if ready := open_cache(source, size, folder):
        return ready  # needs no lock and no right to write
    try:
        return _make(source, size, folder)
    except NotWritable as refused:
        place = temporary_folder()
        print(f"{refused}; until then pictures are kept in {place}", flush=True)
        return _make(source, size, place)


def _make(source: Source, size: int, folder: Path) -> Cached:
    """Wait for the right to write, and write, unless another process did meanwhile."""
    try:
        lock = _lock(source, size, folder)
    except OSError as error:
        raise _refused(folder, error) from None
    with lock:
        if not (ready := open_cache(source, size, folder)):
            _write(source, size, folder)
            ready = open_cache(source, size, folder)
    if ready is None:
        images = paths(source, size, folder)[0]
        raise OSError(f"the cache {images} was written, but cannot be read back")
    return ready


def _lock(source: Source, size: int, folder: Path) -> Any:
    """The right to write this one cache, for use in `with`; it ends with its process."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths(source, size, folder)[0].with_suffix(".lock"))
    try:
        return lock.acquire(timeout=0.5)
    except Timeout:
        print(f"another process prepares the pictures of {source.name}: waiting", flush=True)
        return lock.acquire()


def temporary_folder() -> Path:
    """A folder of this user alone, the same one every time, below the system's temporary one."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / "ddpm_helpers"
    folder = Path(tempfile.gettempdir()) / f"ddpm_helpers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="ddpm_helpers-"))  # another user was there first
    return folder


class NotWritable(OSError):
    """A folder that nothing can be written to; one on a full disk is none."""


def _refused(folder: Path, error: OSError) -> OSError:
    kind = OSError if error.errno in (errno.ENOSPC, errno.EDQUOT) else NotWritable
    reason = error.strerror or error
    return kind(
        f"cannot write to the cache folder {folder} ({reason}); set DDPM_CACHE to one you can"
    )


def _write(source: Source, size: int, folder: Path) -> None:
    images, manifest, key = paths(source, size, folder)
    beside, again = images.with_suffix(".part"), images.with_suffix(f".{os.getpid()}.part")
    chunks = ((to_channels(x, source.channels), y) for x, y in source.chunks(size))
    shape = (source.channels, size, size)
    try:
        labels, digest = _write_pixels(beside, chunks, shape, folder)
        if source.interleave:
            labels, digest = _interleave(beside, again, labels, digest, shape, folder)
        labels, classes = source.settle(labels) if source.settle else (labels, source.classes)
        state = beside.stat()
        found = {
            "key": key,
            "origin": source.origin,
            "bytes": state.st_size,
            "modified": state.st_mtime_ns,
            "classes": classes,
            "labels": labels,
            "labels_sha256": _labels_digest(np.array(labels), classes),
            "pixels_sha256": digest,
        }
        try:
            manifest.unlink(missing_ok=True)  # never an old manifest beside new pictures
            os.replace(beside, images)
            beside.write_text(json.dumps(found, separators=(",", ":")), encoding="utf-8")
            os.replace(beside, manifest)
        except OSError as error:
            raise _refused(folder, error) from None
    finally:
        beside.unlink(missing_ok=True)
        again.unlink(missing_ok=True)


def _write_pixels(
    path: Path, chunks: Chunks, shape: tuple[int, int, int], folder: Path
) -> tuple[list[int], str]:
    """Write chunk after chunk, then the header again with the number that came."""
    labels: list[int] = []
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> int:
        """Write all of it at once: what a buffer keeps would fail again when the file is closed."""
        rest = memoryview(data).cast("B")
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:  # a full disk, say
            raise _refused(folder, error) from None
        return len(data)

    try:
        file = open(path, "wb", buffering=0)
    except OSError as error:  # a lock may lie in a folder that is read-only by now
        raise _refused(folder, error) from None
    with file:
        start = put(_header((0, *shape)))
        for pixels, ids in chunks:
            pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
            digest.update(pixels.data)
            put(pixels.data)
            labels += ids.tolist()
        if not labels:
            raise ValueError("the source holds no pictures")
        file.seek(0)
        if put(_header((len(labels), *shape))) != start:
            raise OSError("numpy wrote headers of two lengths")
        os.fsync(file.fileno())  # no manifest may reach the disk before its pictures
    return labels, digest.hexdigest()


def _interleave(
    path: Path,
    again: Path,
    labels: list[int],
    digest: str,
    shape: tuple[int, int, int],
    folder: Path,
) -> tuple[list[int], str]:
    """Write the pictures once more in `balanced_order`, unless they came in it."""
    order, whole = balanced_order(labels), (len(labels), *shape)
    if (order == np.arange(len(order))).all():
        return labels, digest
    pixels = np.memmap(path, np.uint8, "r", len(_header(whole)), whole)
    parts = np.split(order, range(1000, len(order), 1000))
    rows = ((pixels[part], np.array(labels)[part]) for part in parts)
    written = _write_pixels(again, rows, shape, folder)
    del pixels, rows  # some systems replace no file that is mapped
    os.replace(again, path)
    return written


def _header(shape: tuple[int, ...]) -> bytes:
    """What a .npy file of bytes begins with.

    numpy leaves room for a first number that grows: the length is the same for any.
    """
    buffer = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, layout)
    return buffer.getvalue()
