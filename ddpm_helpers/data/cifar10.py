"""CIFAR-10: found on disk (archive, binary or Python batches), or downloaded and verified.

Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cache import Chunks, Source
from .download import Remote, fetch
from .resize import resized

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
ARCHIVE, ARCHIVE_BYTES = "cifar-10-binary.tar.gz", 170_052_171
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
URLS = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
)
BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
PYTHON_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
PER_BATCH = 10_000
_RECORD = 1 + 3 * 32 * 32  # a label, then red, green and blue rows


def source(split: str, folders: Sequence[Path], urls: Sequence[str] | None = None) -> Source:
    """CIFAR-10's pictures of one split: "train" (50,000) or "test" (10,000).

    If no folder holds them, they are downloaded to the first. The archive and
    `cifar-10-batches-py` are read only if their checksums are the published ones. None are
    published for an unpacked `cifar-10-batches-bin`: the sizes and modification times of its files
    are part of the identity, so changed files get a new cache.
    """
    identity: dict[str, Any] = {"kind": "cifar10", "split": split, "order": "balanced"}
    if (found := find(folders)) and found.name == BINARY:
        states = [(found / f"{name}.bin").stat() for name in _batches(split)]
        identity["files"] = [[state.st_size, state.st_mtime_ns] for state in states]

    def chunks(size: int) -> Chunks:
        place = find(folders) or download(folders[0], urls)
        for name in _batches(split):
            yield from resized(*_read(place, name), size)

    return Source("cifar10", identity, CLASSES, chunks, interleave=True)


def find(folders: Sequence[Path]) -> Path | None:
    """The archive or the folder that holds CIFAR-10; None if there is none."""
    for folder in folders:
        for name, inside in ((PYTHON, "data_batch_1"), (BINARY, "data_batch_1.bin"), (ARCHIVE, "")):
            place = folder / name
            if (place / inside).is_file():
                return place
    return None


def download(folder: Path, urls: Sequence[str] | None = None) -> Path:
    """Download the archive and verify its size and checksum."""
    remote = Remote(ARCHIVE, ARCHIVE_BYTES, ARCHIVE_MD5, "md5")  # nothing better is published
    try:
        return fetch(remote, folder, URLS if urls is None else urls)
    except OSError as error:
        raise OSError(f"{error}; or use the source cartoons, which needs no network") from None


def _batches(split: str) -> list[str]:
    return [f"data_batch_{k}" for k in range(1, 6)] if split == "train" else ["test_batch"]


def _read(place: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One batch: (10000, 3, 32, 32) uint8 and (10000,) int64."""
    if place.name == PYTHON:
        pixels, labels = _read_python(place / name)
    else:
        packed = place.is_file()
        raw = _read_archive(place, name) if packed else (place / f"{name}.bin").read_bytes()
        if len(raw) != (right := PER_BATCH * _RECORD):
            raise ValueError(f"{place}: {name}.bin has {len(raw):,} bytes instead of {right:,}")
        records = np.frombuffer(raw, np.uint8).reshape(PER_BATCH, _RECORD)
        pixels, labels = records[:, 1:], records[:, 0].astype(np.int64)
    if pixels.shape != (PER_BATCH, _RECORD - 1) or not 0 <= labels.min() <= labels.max() < 10:
        raise ValueError(f"{place}: {name} does not hold CIFAR-10's pictures and labels")
    return pixels.reshape(PER_BATCH, 3, 32, 32), labels


def _read_archive(path: Path, name: str) -> bytes:
    """A member's bytes, in memory: nothing is ever extracted."""
    if name.endswith(("_1", "test_batch")) and _md5(path) != ARCHIVE_MD5:  # once per split
        raise ValueError(f"{path} is damaged (its checksum is not CIFAR-10's): delete it")
    with tarfile.open(path) as archive:
        member = archive.extractfile(f"{BINARY}/{name}.bin")
        return member.read() if member else b""


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = path.read_bytes()
    if hashlib.md5(raw, usedforsecurity=False).hexdigest() != PYTHON_MD5[path.name]:
        raise ValueError(f"{path} is damaged (its checksum is not CIFAR-10's): delete its folder")
    batch = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
    return np.asarray(batch["data"], np.uint8), np.asarray(batch["labels"], np.int64)


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numpy arrays and calls nothing else, whatever a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        whole = (module.replace("numpy._core", "numpy.core"), name)
        if whole == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        if whole in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        raise pickle.UnpicklingError(f"a CIFAR-10 file calls {module}.{name}: refused")
