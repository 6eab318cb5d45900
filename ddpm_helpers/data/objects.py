"""Images from a map-style dataset object: torchvision's, one from the Hub, or your own."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from ddpm_helpers import checks

from .collection import Chunks, Collection
from .decode import square
from .layout import ONE_CLASS

SAMPLED = 64  # compare at most this many items with those that were cached


def collection(dataset: Any, split: str, size: int, fit: str) -> Collection:
    """All images of a dataset object as one split.

    A cache is used again if the name of the object's class, its length and `SAMPLED` evenly spaced
    items are the same.

    Args:
        dataset: the map-style dataset.
        split: must be "train": an object is one split.
        size: side of the images in pixels.
        fit: "crop" or "pad", as in `square`.
    Raises:
        ValueError: the split is not "train", an item cannot be read or converted, or reading it
            twice gives different images.
    """
    name = type(dataset).__name__
    if split != "train":
        raise ValueError(
            f"a dataset object is one split: leave split={split!r} out and pass the {name} with "
            "those images (random_split with a seeded generator divides one in two)"
        )
    classes, digest = class_names(dataset), _sample(dataset, size, fit)
    identity = {"kind": "dataset", "name": name, "digest": digest, "fit": fit, "classes": classes}
    return Collection(name, identity, lambda side: (classes, read_all(dataset, classes, side, fit)))


def class_names(dataset: Any) -> tuple[str, ...]:
    """The names in `classes` of a dataset, or of the one behind a Subset; empty if there are none.

    They are not used with a target_transform, which may renumber classes. A dataset whose first
    item has no label is one class.
    """
    if _item(dataset, 0, 1, "crop")[1] is None:
        return ONE_CLASS
    while hasattr(dataset, "dataset") and not hasattr(dataset, "classes"):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if getattr(dataset, "target_transform", None) or not isinstance(names, (list, tuple)):
        return ()
    return tuple(map(checks.class_name, names))


def read_all(dataset: Any, classes: tuple[str, ...], size: int, fit: str) -> Chunks:
    """Read the items one by one in this process, because a dataset may not be thread-safe.

    Raises:
        ValueError: an item cannot be converted, or its label is not a number of a class.
    """
    from tqdm.auto import tqdm

    most = len(classes) - 1 if classes else None
    for i in tqdm(range(len(dataset)), desc=f"reading {type(dataset).__name__}", unit=" images"):
        image, label = _item(dataset, i, size, fit)
        if classes == ONE_CLASS and label is None:
            label = 0
        yield image[None], np.array([checks.count(f"the label of item {i}", label, 0, most)])


def _sample(dataset: Any, size: int, fit: str) -> str:
    """A digest of the length and of at most `SAMPLED` evenly spaced items."""
    digest = hashlib.sha256(str(len(dataset)).encode())
    for i in sorted({k * len(dataset) // SAMPLED for k in range(SAMPLED)}):
        image, label = _item(dataset, i, size, fit)
        if not np.array_equal(image, _item(dataset, i, size, fit)[0]):
            raise ValueError(
                f"item {i} changes from one reading to the next (a random transform?), but a cache "
                "keeps one image of each: leave random transforms out; training flips images itself"
            )
        digest.update(image.tobytes() + str(label).encode())
    return digest.hexdigest()


def _item(dataset: Any, i: int, size: int, fit: str) -> tuple[np.ndarray, Any]:
    """Image i as a square, (3, size, size) uint8, and its label, None if it has none.

    An item is an image, or a tuple, list or dictionary whose first value is the image and whose
    second, if any, is the label.
    """
    try:
        item = dataset[i]
        if isinstance(item, Mapping):
            item = tuple(item.values())
        image, label, *_ = (*item, None) if isinstance(item, (tuple, list)) else (item, None)
        return square(_pil_image(image), size, fit), label
    except Exception as error:  # the dataset's code may raise anything
        name = type(dataset).__name__
        raise ValueError(f"source: item {i} of {name} cannot be read: {error!r}") from error


def _pil_image(image: Any) -> Image.Image:
    """Convert a tensor (C, H, W) or an array (H, W, C) to a PIL image.

    C is 1, 3 or 4; the shape may be (H, W) too. Values are uint8, or floats in [0, 1].
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor):
        image = image.numpy(force=True)
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image  # (H, W, C)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"its image is a {type(image).__name__}, not a PIL image, tensor or array")
    if image.dtype.kind == "f":
        low, high = image.min(), image.max()
        if not (low > -0.5 / 255 and high < 1 + 0.5 / 255):  # NaN fails too
            raise ValueError(f"floats must lie in [0, 1], got {low:.4g} to {high:.4g}")
        image = (image * 255).round().astype(np.uint8)
    return Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
