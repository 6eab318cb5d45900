"""CIFAR-10, MNIST and Fashion-MNIST: found on disk, else downloaded; torchvision verifies them.

Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html; LeCun et al. 1998; Xiao et al.
2017, https://github.com/zalandoresearch/fashion-mnist
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import objects
from .cache import locked
from .collection import Chunks, Collection

READERS = {  # torchvision's class, and where it keeps the unpacked files below a root folder
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw"),
}
BORDER = 2  # black pixels around a digit: 28 + 4 = 32, a side that the network can halve


def collection(name: str, split: str, roots: Sequence[Path]) -> Collection:
    """The images of one split, "train" or "test", of a published data set.

    The files are searched in all root folders, in torchvision's layout; if missing, they are
    downloaded to the first one. Digits and clothes are padded from 28×28 to 32×32.
    """

    def read(size: int) -> tuple[tuple[str, ...], Chunks]:
        dataset = _open(name, split, roots)
        classes = objects.class_names(dataset)
        return classes, objects.read_all(dataset, classes, size, "crop")

    return Collection(name, {"kind": name, "split": split}, read)


def find(name: str, roots: Sequence[Path]) -> Path | None:
    """The first root folder that holds the files of a data set, or None."""
    return next((root for root in roots if (root / READERS[name][1]).exists()), None)


def _open(name: str, split: str, roots: Sequence[Path]) -> Any:
    """torchvision's dataset object; missing files are downloaded first."""
    from torchvision import datasets, transforms  # slow: takes a second to import

    title, place = READERS[name]
    reader, root = getattr(datasets, title), find(name, roots) or roots[0]
    pad = None if name == "cifar10" else transforms.Pad(BORDER)
    options = {"train": split == "train", "transform": pad}
    try:
        with suppress(RuntimeError):  # a file is missing
            return reader(root, **options)
        with locked(root / f".{name}.lock", f"downloading {name}"):
            return reader(root, download=True, **options)
    except Exception as error:  # a network, file or disk error
        why = " ".join(str(error).split())
        raise OSError(
            f"{title} could not be read or downloaded ({why}): delete {root / place} if it is "
            "damaged, or unpack the files there yourself; or use the source cartoons, which needs "
            "no network"
        ) from error
