"""`ImageDataset` reads images from a source and returns them as tensors in [-1, 1]."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddpm_helpers import checks
from ddpm_helpers.checks import class_name
from ddpm_helpers.config import CHANNELS, OF_SOURCE, SOURCES
from ddpm_helpers.config import cache_dir as default_cache_dir
from ddpm_helpers.files import user_path

from . import cache, cartoons, image_folder, objects, published
from .collection import Collection
from .decode import FITS
from .say import count

SPLITS = ("train", "test")


class ImageDataset(Dataset):
    """A map-style dataset of square, labelled images, read from a memory-mapped cache.

    Args:
        source: "cartoons" (built in), "cifar10", "mnist", "fashion_mnist", a folder of images, or
            "auto" (CIFAR-10 if it is on disk, else cartoons; prints which). Or a map-style dataset
            whose items are (image, label): it is cached and used as the train split. The cache is
            reused if the dataset's Python class, its length and 64 of its items are unchanged.
        image_size: side S of an image in pixels, at least 1.
        split: "train" or "test". A folder's test split is its subfolder `test`, `testing`, `val`,
            `valid` or `validation`, in upper or lower case, next to `train`. Without such a
            subfolder, it is a fixed tenth of each class.
        root: folder for CIFAR-10, MNIST and Fashion-MNIST. It is searched before `cache_dir`, and
            downloads are stored in it. A `source` that is a relative path is relative to `root`.
        cache_dir: folder of the cache; by default DDPM_CACHE or the user's cache folder.
        limit: use only the first `limit` images; None uses all. The class proportions stay the
            same, because images are stored in `balanced_order` (cartoons: 50 of each class in every
            500).
        fit: for a folder or a map-style dataset: "crop" keeps the centre square of each
            image, "pad" keeps the whole image and adds white bars.
        channels: 3 for colour, 1 for grey; images are converted. None means 1 for MNIST and
            Fashion-MNIST, and 3 for all other sources.
    Attributes:
        images: (N, C, S, S) uint8, memory-mapped and read-only.
        labels: (N,) int64.
        classes: names, in the order of the labels; one class, "images", for data without labels.
        source: the source in use: the choice of "auto", the absolute path of a folder, or the
            class name of a map-style dataset.
        name: short name of the source; for a folder, the last part of its path.
        settings: the arguments that open the same source again (source, root and fit), as strings
            with absolute paths. Empty for a map-style dataset, and for a path that is not UTF-8.
    Raises:
        ValueError: source, split or fit is unknown, image_size or limit is below 1, channels is
            neither 1 nor 3, or a folder has no images or too few for a test split.
        OSError: the cache cannot be written, or a download failed.
    """

    def __init__(
        self,
        source: Any = "auto",
        image_size: int = 64,
        *,
        split: str = "train",
        root: str | Path | None = None,
        cache_dir: str | Path | None = None,
        limit: int | None = None,
        fit: str = "crop",
        channels: int | None = None,
    ) -> None:
        image_size = checks.count("image_size", image_size)
        limit = None if limit is None else checks.count("limit", limit)
        checks.one_of("split", split, SPLITS)
        checks.one_of("fit", fit, FITS)
        if channels is None:
            of_source = OF_SOURCE.get(source, {}) if isinstance(source, str) else {}
            channels = of_source.get("channels", 3)
        if channels not in CHANNELS:
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), got {channels!r}")
        cache_dir = default_cache_dir() if cache_dir is None else user_path(cache_dir)
        root = None if root is None else user_path(root)
        collection = _collection(source, split, root, cache_dir, image_size, fit, limit)
        cached = cache.load(collection, (int(channels), image_size, image_size), cache_dir)
        self.source, self.split = collection.name, split
        self.name = class_name(Path(self.source).name) or "images"
        self.settings = _settings(collection, root, fit)
        self.labels, self.classes = cached.labels[:limit], cached.classes
        self.images = cached.images[:limit]  # (N, C, S, S) uint8
        self._path = cached.path
        self._resident: dict[torch.device, tuple[Tensor, Tensor]] = {}  # pixels and labels on a GPU

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without pixels, because a worker process maps the cache again."""
        left_out = ("images", "_resident")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        images = cache.map_images(state["_path"])[: len(state["labels"])]
        vars(self).update(state, images=images, _resident={})

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image, (C, S, S)."""
        return self.images.shape[1:]

    @property
    def channels(self) -> int:
        """Number of channels C: 3 for colour, 1 for grey."""
        return self.images.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return image `index`, float32 (C, S, S) in [-1, 1], and its label."""
        pixels = torch.from_numpy(np.array(self.images[index]))  # a copy: the cache is read-only
        return to_float(pixels), int(self.labels[index])

    def __repr__(self) -> str:
        size, classes = self.images.shape[-1], len(self.classes)
        images = count(len(self), "grey image" if self.channels == 1 else "image")
        return (
            f"ImageDataset({self.source!r}, {self.split}: {images} of {size}×{size}, {classes} "
            f"{'class' if classes == 1 else 'classes'})"
        )

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        device: torch.device | str | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch, copied from the cache to the device.

        Args:
            batch_size: B, at least 1; the last batch may be smaller.
            seed: at least 0; the order depends only on (seed, epoch).
            epoch: at least 0; every epoch has its own order.
            device: device of the tensors; pixels are copied to it as bytes and converted there. A
                CUDA device with enough free memory keeps all pixels after the first call.
            shuffle: False keeps the order of the cache, in which the classes are mixed.
            drop_last: leave out the last batch if it is smaller.
        Yields:
            x, float32 (B, C, S, S) in [-1, 1], and y, int64 (B,).
        Raises:
            ValueError: batch_size is below 1, or seed or epoch is below 0.
        """
        checks.count("batch_size", batch_size)
        checks.count("seed", seed, least=0)
        checks.count("epoch", epoch, least=0)
        order = np.arange(len(self))
        if shuffle:
            order = np.random.default_rng((seed, epoch)).permutation(len(self))
        if drop_last:
            order = order[: len(self) // batch_size * batch_size]
        device = torch.device(device or "cpu")
        if device not in self._resident and _has_room(device, self.images.nbytes):
            pixels = torch.from_numpy(np.array(self.images))  # a copy: the cache is read-only
            self._resident[device] = pixels.to(device), torch.from_numpy(self.labels).to(device)
        return self._batches(order, batch_size, device)

    def _batches(
        self, order: np.ndarray, batch_size: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if device in self._resident:
            pixels, labels = self._resident[device]
            for rows in torch.from_numpy(order).to(device).split(batch_size):  # each (B,)
                yield to_float(pixels[rows]), labels[rows]
            return
        images = np.asarray(self.images)  # a plain view: indexing it is faster than a memmap
        for k in range(0, len(order), batch_size):
            rows = order[k : k + batch_size]  # (B,)
            pixels = torch.from_numpy(images[rows]).to(device)  # (B, C, S, S) uint8
            yield to_float(pixels), torch.from_numpy(self.labels[rows]).to(device)


def _has_room(device: torch.device, needed: int) -> bool:
    """Return whether to keep all pixels on a device: on CUDA, if four times their size is free.

    The rest is for the network and its activations.
    """
    return device.type == "cuda" and 4 * needed <= torch.cuda.mem_get_info(device)[0]


def to_float(pixels: Tensor) -> Tensor:
    """Convert bytes 0..255 to float32 in [-1, 1]; both ends are exact."""
    return pixels.to(torch.float32).div_(127.5).sub_(1)


def to_bytes(x: Tensor) -> Tensor:
    """Convert floats in [-1, 1] to bytes 0..255, rounded; values outside are clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _settings(collection: Collection, root: Path | None, fit: str) -> dict[str, str]:
    """Return the arguments that open a source again, for a settings file; defaults are left out."""
    name = collection.name
    is_text = name.encode("utf-8", "ignore").decode() == name
    if collection.identity["kind"] == "dataset" or not is_text:
        return {}  # a settings file can hold neither an object nor a path that is not UTF-8
    given = {"source": name}
    if name in published.READERS and root is not None:
        given["root"] = str(root)
    return given if fit == "crop" else given | {"fit": fit}


def _collection(
    source: Any, split: str, root: Path | None, cache_dir: Path, size: int, fit: str, limit: Any
) -> Collection:
    """Return the `Collection` of a source. The arguments are those of `ImageDataset`."""
    if not isinstance(source, str | Path):
        return objects.collection(source, split, size, fit)
    roots = [cache_dir] if root is None else [root, cache_dir]
    if source == "auto":
        found = published.find("cifar10", roots)
        source = "cifar10" if found else "cartoons"
        print(f"source auto: {source} (CIFAR-10 is {'' if found else 'not '}on disk)")
    if source == "cartoons":
        return cartoons.collection(split, limit)
    if source in published.READERS:
        return published.collection(source, split, roots)
    folder = user_path(os.path.join(root or "", os.path.expanduser(source)))
    if source == "" or not folder.is_dir():
        choices = f"{', '.join(SOURCES)} or a folder that exists"
        raise ValueError(f"unknown source {source!r}; choose {choices}")
    return image_folder.collection(folder, split, fit)
