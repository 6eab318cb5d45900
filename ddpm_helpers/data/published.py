"""CIFAR-10, MNIST and Fashion-MNIST: found on disk, else downloaded; torchvision verifies them.

Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html; LeCun et al. 1998; Xiao et al.
2017, https://github.com/zalandoresearch/fashion-mnist
"""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .cache import Chunks, Source, locked
from .squares import in_chunks

READERS = {"cifar10": "CIFAR10", "mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
# torchvision names them only in files that it has read.
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TIMEOUT = 30.0  # give up a download after this many seconds without data
BORDER = 2  # black pixels around a digit: 28 + 4 = 32, a side that the network can halve


def source(name: str, split: str, folders: Sequence[Path]) -> Source:
    """The images of one split, "train" or "test", of a published data set.

    The files are searched in all folders, in torchvision's layout; if missing, they are downloaded
    to the first folder. Digits and clothes are padded from 28×28 to 32×32.
    """
    reader = _reader(name)
    classes = CLASSES if name == "cifar10" else tuple(reader.classes)

    def chunks(size: int) -> Chunks:
        images, labels = _read(reader, split, find(name, folders) or folders[0])
        return in_chunks(images, labels, size)

    identity = {"kind": name.replace("_", ""), "split": split}
    return Source(name, identity, classes, chunks, interleave=True)


def find(name: str, folders: Sequence[Path]) -> Path | None:
    """The first folder that holds the files or the archive of a data set, or None."""
    reader = _reader(name)
    archive = getattr(reader, "filename", "no archive")
    places = ((folder, (_files(reader, folder), folder / archive)) for folder in folders)
    return next((folder for folder, files in places if any(f.exists() for f in files)), None)


def _reader(name: str) -> Any:
    from torchvision import datasets  # slow: takes a second to import

    return getattr(datasets, READERS[name])


def _files(reader: Any, folder: Path) -> Path:
    """Where torchvision keeps the unpacked files."""
    if hasattr(reader, "base_folder"):
        return folder / reader.base_folder
    return folder / reader.__name__ / "raw"


def _read(reader: Any, split: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """One split, (N, C, 32, 32) uint8 and (N,) int64; downloaded first if necessary."""
    options = {"root": folder, "train": split == "train"}
    try:
        try:
            found = reader(**options)
        except RuntimeError:  # the files are missing or damaged
            with locked(folder / f".{reader.__name__}.lock", f"downloading {reader.__name__}"):
                found = _download(reader, options)
        images = torch.as_tensor(found.data).numpy()
        labels = torch.as_tensor(found.targets, dtype=torch.int64).numpy()
    except Exception as error:  # a network, file or disk error
        where, why = _files(reader, folder), " ".join(str(error).split())
        raise OSError(
            f"{reader.__name__} could not be read or downloaded ({why}): delete {where} if it is "
            "damaged, or unpack the files there yourself; or use the source cartoons, which needs "
            "no network"
        ) from None
    if images.ndim == 4:
        return images.transpose(0, 3, 1, 2), labels
    sides = ((0, 0), (0, 0), (BORDER, BORDER), (BORDER, BORDER))
    return np.pad(images[:, None], sides), labels


def _download(reader: Any, options: dict[str, Any]) -> Any:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none
    try:
        return reader(**options, download=True)  # skips files that another process has downloaded
    finally:
        socket.setdefaulttimeout(before)
