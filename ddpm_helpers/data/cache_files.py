"""The two files of a cache: reading them with every check, and writing them whole or not at all."""

import errno
import hashlib
import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .channels import to_channels
from .order import balanced_order
from .resize import FILTER
from .source import Chunks, Source

FORMAT = 3  # raise it when the files' layout changes, or the pixels that a source is decoded to


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


class NotWritable(OSError):
    """A folder that nothing can be written to; a full disk is another error."""


def refused(folder: Path, error: OSError) -> OSError:
    """What to raise where a folder refused a file: with what to do about it."""
    kind = OSError if error.errno in (errno.ENOSPC, errno.EDQUOT) else NotWritable
    reason = error.strerror or error
    return kind(
        f"cannot write to the cache folder {folder} ({reason}); set DDPM_CACHE to one you can"
    )


def write(source: Source, size: int, folder: Path) -> None:
    """Make a source's cache in a folder.

    Raises:
        NotWritable: nothing can be written there.
        OSError: the disk is full.
        ValueError: the source holds no pictures.
    """
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
            raise refused(folder, error) from None
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
            raise refused(folder, error) from None
        return len(data)

    try:
        file = open(path, "wb", buffering=0)
    except OSError as error:  # a lock may lie in a folder that is read-only by now
        raise refused(folder, error) from None
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
