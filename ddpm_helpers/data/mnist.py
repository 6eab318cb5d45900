"""MNIST and Fashion-MNIST, found on disk, else downloaded and read by torchvision's classes.

Source: LeCun et al. 1998; Xiao et al. 2017, https://github.com/zalandoresearch/fashion-mnist
"""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cache import Chunks, Source
from .download import TIMEOUT
from .resize import resized

READERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # source -> torchvision's class
SIDE, PADDED = 28, 32  # a side that the network's stages can halve


def source(name: str, split: str, folders: Sequence[Path]) -> Source:
    """The pictures of one split, "train" (60,000) or "test" (10,000), padded by two black pixels.

    `MNIST/raw` or `FashionMNIST/raw` is looked for in all folders, packed (.gz) or unpacked, else
    downloaded to the first. Archives are verified by torchvision's checksums.
    """
    from torchvision import datasets  # takes a second: not at import

    reader = getattr(datasets, READERS[name])
    place = next((folder for folder in folders if _is_there(reader, folder)), folders[0])

    def chunks(size: int) -> Chunks:
        pixels, labels = _read(reader, split, place)
        around = ((PADDED - SIDE) // 2,) * 2
        padded = np.pad(pixels[:, None], ((0, 0), (0, 0), around, around))  # (N, 1, 32, 32)
        return resized(padded, labels, size)

    identity = {"kind": name.replace("_", ""), "split": split}
    return Source(name, identity, tuple(reader.classes), chunks, interleave=True)


def _raw(reader: Any, folder: Path) -> Path:
    return folder / reader.__name__ / "raw"


def _is_there(reader: Any, folder: Path, *, unpacked: bool = False) -> bool:
    """Whether a folder holds all four files; `unpacked`: as torchvision reads them."""
    for name, _ in reader.resources:
        archive = _raw(reader, folder) / name
        if not (archive.with_suffix("").is_file() or (archive.is_file() and not unpacked)):
            return False
    return True


def _read(reader: Any, split: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """One split, (N, 28, 28) uint8 and (N,) int64; unpacked or downloaded first if need be."""
    _fetch(reader, folder)
    where = _raw(reader, folder)
    try:
        found = reader(folder, train=split == "train")
        pixels, labels = found.data.numpy(), found.targets.numpy().astype(np.int64)
    except Exception as error:  # a file cut short or altered breaks it in many ways
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"a file of {where} is damaged ({why}): delete that folder") from None
    right = pixels.shape == (len(labels), SIDE, SIDE) and pixels.dtype == np.uint8
    if not right or not 0 <= labels.min(initial=0) <= labels.max(initial=0) < len(reader.classes):
        raise ValueError(
            f"{where} does not hold {reader.__name__}'s pictures of {SIDE}×{SIDE} and labels "
            f"0..{len(reader.classes) - 1}: delete that folder"
        )
    return pixels, labels


def _fetch(reader: Any, folder: Path) -> None:
    """Let torchvision unpack the files, after a download if they are missing."""
    from filelock import FileLock

    raw = _raw(reader, folder)
    try:
        if _is_there(reader, folder, unpacked=True):
            return
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw.parent / ".download.lock"):  # of both splits at once, for instance
            before = socket.getdefaulttimeout()
            socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none
            try:
                reader(folder, download=True)
            finally:
                socket.setdefaulttimeout(before)
    except Exception as error:  # of the network, of a file, of the disk
        names = ", ".join(name for name, _ in reader.resources)
        raise OSError(
            f"{reader.__name__} could not be downloaded ({' '.join(str(error).split())}); put "
            f"{names} into {raw}, or use the source cartoons, which needs no network"
        ) from None
