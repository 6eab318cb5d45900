"""CIFAR-10: found on disk (archive or Python batches), or downloaded; always verified.

Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .cache import Chunks, Source
from .download import Remote, fetch
from .resize import resized

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
ARCHIVE, ARCHIVE_BYTES = "cifar-10-binary.tar.gz", 170_052_171
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # nothing better is published
URLS = (  # a fast mirror first: CIFAR-10's own host is slow at times
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
PYTHON = "cifar-10-batches-py"


def source(split: str, folders: Sequence[Path]) -> Source:
    """CIFAR-10's pictures of one split: "train" (50,000) or "test" (10,000).

    If no folder holds them, they are downloaded to the first. They are read only if their checksums
    are the published ones.
    """
    identity = {"kind": "cifar10", "split": split, "order": "balanced"}

    def chunks(size: int) -> Chunks:
        place = find(folders) or download(folders[0])
        read = _read_archive if place.name == ARCHIVE else _read_python
        return resized(*read(place, split), size)

    return Source("cifar10", identity, CLASSES, chunks, interleave=True)


def find(folders: Sequence[Path]) -> Path | None:
    """The archive, or torchvision's folder of Python batches; None if there is neither."""
    places = [folder / name for folder in folders for name in (PYTHON, ARCHIVE)]
    return next((place for place in places if place.exists()), None)


def download(folder: Path) -> Path:
    """Download the archive and verify its size and checksum."""
    try:
        return fetch(Remote(ARCHIVE, ARCHIVE_BYTES, ARCHIVE_MD5), folder, URLS)
    except OSError as error:
        raise OSError(f"{error}; or use the source cartoons, which needs no network") from None


def _read_archive(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """One split, (N, 3, 32, 32) uint8 and (N,) int64, in memory: nothing is ever extracted."""
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "md5").hexdigest() != ARCHIVE_MD5:
            raise ValueError(f"{path} is damaged (not CIFAR-10's checksum): delete it")
    names = [f"data_batch_{k}" for k in range(1, 6)] if split == "train" else ["test_batch"]
    with tarfile.open(path) as archive:
        files = [archive.extractfile(f"cifar-10-batches-bin/{name}.bin") for name in names]
        raw = b"".join(file.read() for file in files if file)
    records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)  # a label, then RGB rows
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _read_python(place: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The same from torchvision, which opens these pickles only if their checksums are right."""
    from torchvision.datasets import CIFAR10

    try:
        found = CIFAR10(place.parent, train=split == "train")
    except RuntimeError:
        raise ValueError(f"{place} is damaged (not CIFAR-10's checksums): delete it") from None
    return found.data.transpose(0, 3, 1, 2), np.array(found.targets)
