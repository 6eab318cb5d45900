"""Images from a map-style dataset object: torchvision's, one from the Hub, or your own."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ddpm_helpers import checks

from .collection import Chunks, Collection
from .decode import square
from .layout import ONE_CLASS
from .say import say_once

SAMPLED = 64  # compare at most this many items with those that were cached


def collection(dataset: Any, split: str, fit: str) -> Collection:
    """All images of a dataset object as one split.

    A cache is used again if the name of the object's class, its length and `SAMPLED` evenly spaced
    items are the same. If there are more items, a line says that the others are not compared.

    Args:
        dataset: the map-style dataset.
        split: must be "train": an object is one split.
        fit: "crop" or "pad", as in `square`.
    Raises:
        ValueError: the object is not a map-style dataset, the split is not "train", an item cannot
            be converted, or reading it twice gives different images.
    """
    name = type(dataset).__name__
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(
            f"source is a {name}; it must be a name, a folder, or a dataset with __len__ and "
            "__getitem__ (of a DataLoader, pass its .dataset)"
        )
    if split != "train":
        raise ValueError(
            f"a dataset object is one split: leave split={split!r} out and pass the {name} with "
            "those images (random_split with a seeded generator divides one in two)"
        )
    if len(dataset) > SAMPLED:
        say_once(
            f"{name}: a cache is used again if the length and {SAMPLED} of the {len(dataset):,} "
            "items are the same; if you changed others, use another cache_dir"
        )
    classes = class_names(dataset)
    identity = {"kind": "dataset", "name": name, "digest": _sample(dataset), "fit": fit,
                "classes": list(classes)}  # fmt: skip
    return Collection(name, identity, lambda size: (classes, read_all(dataset, classes, size, fit)))


def class_names(dataset: Any) -> tuple[str, ...]:
    """The names in `classes` of a dataset, or of the one behind a Subset; empty if there are none.

    They are not used with a target_transform, which may renumber classes. A dataset whose first
    item has no label is one class.
    """
    if len(dataset) and _item(dataset, 0)[1] is None:
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
        image, label = _item(dataset, i)
        if classes == ONE_CLASS and label is None:
            label = 0
        number = checks.count(f"the label of item {i}", label, 0, most)
        try:
            pixels = square(image, size, fit)
        except ValueError as error:
            raise _unreadable(dataset, i, error) from error
        yield pixels[None], np.array([number])


def _sample(dataset: Any) -> str:
    """A digest of the length and of at most `SAMPLED` evenly spaced items."""
    digest = hashlib.sha256(str(len(dataset)).encode())
    for i in sorted({k * len(dataset) // SAMPLED for k in range(SAMPLED) if len(dataset)}):
        first, second = _item(dataset, i), _item(dataset, i)
        if first != second:
            raise ValueError(
                f"item {i} changes from one reading to the next (a random transform?), but a cache "
                "keeps one image of each: leave random transforms out; training flips images itself"
            )
        image, label = first
        looks = [image.info.get(key) for key in ("exif", "icc_profile", "transparency")]
        about = f"{image.mode} {image.size} {image.getpalette()} {looks} {label}"
        digest.update(about.encode() + image.tobytes())
    return digest.hexdigest()


def _item(dataset: Any, i: int) -> tuple[Any, Any]:
    """Image i as a PIL image, loaded, and its label, None if it has none.

    An item is an image, or a sequence or dictionary that begins with an image and a label.
    """
    try:
        item = dataset[i]
        if isinstance(item, Mapping):
            item = tuple(item.values())
        first, label, *_ = (*item, None) if isinstance(item, (tuple, list)) else (item, None)
        image = _pil_image(first)
        image.load()
        return image, label if label is None else checks.count("its label", label, 0)
    except Exception as error:  # the dataset's code may raise anything
        raise _unreadable(dataset, i, error) from error


def _unreadable(dataset: Any, i: int, error: Exception) -> ValueError:
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ValueError(f"item {i} of {type(dataset).__name__} cannot be read: {why}")


def _pil_image(image: Any) -> Any:
    """Convert a tensor (C, H, W) or an array (H, W, C) to a PIL image.

    C is 1, 3 or 4; the shape may be (H, W) too. Values are uint8, or floats in [0, 1].
    """
    from PIL import Image

    if isinstance(image, torch.Tensor):
        values = image.float() if image.is_floating_point() else image
        image = values.numpy(force=True)
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image  # (H, W, C)
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        raise TypeError(f"its image is a {type(image).__name__}, not a PIL image, tensor or array")
    if image.dtype.kind == "f":
        if not (image.min() > -0.5 / 255 and image.max() < 1 + 0.5 / 255):  # NaN fails too
            raise ValueError(
                f"floats from {image.min():.4g} to {image.max():.4g}; give uint8, or floats in "
                "[0, 1] (ToTensor without Normalize)"
            )
        image = (image * 255).round().astype(np.uint8)
    return Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
