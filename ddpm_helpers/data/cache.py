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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .colour import to_channels
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


class NotWritable(OSError):
    """A folder that nothing can be written to; a full disk is another error."""


def path_and_key(source: Source, size: int, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where a source's pictures lie, the manifest beside them, and the key that names both."""
    key = {"identity": source.identity, "size": size, "filter": FILTER, "format": FORMAT}
    if source.channels != 3:  # left out where it is 3, as it was when all caches were in colour
        key["channels"] = source.channels
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{source.identity['kind']}-{size}-{digest}.npy", key


def open_cache(source: Source, size: int, folder: Path) -> Cached | None:
    """Open a ready cache; None where there is none, or one that is not whole."""
    return read(*path_and_key(source, size, folder))


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


def read(images: Path, key: Any = None, *, thorough: bool = False) -> Cached | None:
    """Open a cache; None where it is not whole.

    Args:
        images: its pictures, as `path_and_key` names them.
        key: what it must have been made from; anything if None.
        thorough: read the pixels' checksum even if the file was not touched since.
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
                try:
                    _write_manifest(manifest, found | {"modified": state.st_mtime_ns})
                except OSError:  # a place that cannot be written: the next one checks again
                    pass
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None  # whatever an altered manifest leads to
    return Cached(images, pixels, labels, classes) if whole else None


def _make(source: Source, size: int, folder: Path) -> Cached:
    """Wait for the right to write, and write, unless another process did meanwhile."""
    from filelock import FileLock, Timeout

    images, key = path_and_key(source, size, folder)
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(images.with_suffix(".lock"))  # it ends with its process
        try:
            held = lock.acquire(timeout=0.5)
        except Timeout:
            print(f"another process prepares the pictures of {source.name}: waiting", flush=True)
            held = lock.acquire()
    with held:
        if not (ready := read(images, key)):
            _write(source, size, images, key)
            ready = read(images, key)
    if ready is None:
        raise OSError(f"the cache {images} was written, but cannot be read back")
    return ready


def _write(source: Source, size: int, images: Path, key: dict[str, Any]) -> None:
    """Make a source's cache, whole or not at all."""
    folder, manifest = images.parent, images.with_suffix(".json")
    beside, again = images.with_suffix(".part"), images.with_suffix(f".{os.getpid()}.part")
    chunks = ((to_channels(x, source.channels), y) for x, y in source.chunks(size))
    shape = (source.channels, size, size)
    try:
        labels, digest = _write_pixels(beside, chunks, shape)
        order = balanced_order(labels) if source.interleave else np.arange(len(labels))
        if (order != np.arange(len(order))).any():
            labels, digest = _write_pixels(again, _in_order(order, beside, labels, shape), shape)
            os.replace(again, beside)
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
        with _writing_to(folder):
            manifest.unlink(missing_ok=True)  # never an old manifest beside new pictures
            os.replace(beside, images)
            _write_manifest(manifest, found)
    finally:
        beside.unlink(missing_ok=True)
        again.unlink(missing_ok=True)


def _write_pixels(path: Path, chunks: Chunks, shape: tuple[int, ...]) -> tuple[list[int], str]:
    """Write chunk after chunk, then the header again with the number that came."""
    labels: list[int] = []
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        rest = memoryview(data).cast("B")
        with _writing_to(path.parent):
            while rest:
                rest = rest[file.write(rest) :]

    with _writing_to(path.parent):
        file = open(path, "wb", buffering=0)  # what a buffer keeps would fail again when closed
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


def _in_order(
    order: np.ndarray, path: Path, labels: list[int], shape: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    whole = (len(labels), *shape)
    pixels = np.memmap(path, np.uint8, "r", len(_header(whole)), whole)
    for rows in np.split(order, range(1000, len(order), 1000)):
        yield pixels[rows], np.array(labels)[rows]


def _write_manifest(manifest: Path, found: dict[str, Any]) -> None:
    part = manifest.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(found, separators=(",", ":")), encoding="utf-8")
    os.replace(part, manifest)


def _header(shape: tuple[int, ...]) -> bytes:
    """What a .npy file of bytes begins with, of one length however many pictures there are."""
    buffer = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, layout)  # leaves room for a number that grows
    return buffer.getvalue()


def _labels_digest(labels: np.ndarray, classes: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps([labels.tolist(), classes]).encode()).hexdigest()


def _pixels_digest(images: Path, count: int) -> str:
    with open(images, "rb") as file:
        file.seek(-count, os.SEEK_END)
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Say what to do where a folder refuses a file."""
    try:
        yield
    except OSError as error:
        kind = OSError if error.errno in (errno.ENOSPC, errno.EDQUOT) else NotWritable
        why = error.strerror or error
        raise kind(
            f"cannot write to the cache folder {folder} ({why}); set DDPM_CACHE to one you can"
        ) from None


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
