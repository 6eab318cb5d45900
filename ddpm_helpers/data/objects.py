"""Images from a map-style dataset object: from torchvision, from the Hub, or your own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ddpm_helpers.checks import class_name

from .cache import Chunks, Source
from .content import content_digest
from .decode import NotAnImage, square
from .layout import ONE_CLASS
from .say import say_once

IMAGES, LABELS = ("image", "img"), ("label", "labels")  # keys, if items are dictionaries
UNLABELLED = -(2**63)  # no dataset uses this number
TOLERANCE = 0.5 / 255  # a value this far outside [0, 1] still rounds to 0 or 255


class UnusableItem(Exception):
    """An item that cannot be used; the message completes "item 3 of …"."""


def source(split: str, dataset: Any, fit: str) -> Source:
    """All images of a dataset object as one split.

    Items are read one by one in this process, because a dataset may not be thread-safe. Files
    that are not images are skipped and counted, and the first one is named.

    Args:
        split: must be "train": an object is one split.
        dataset: the map-style dataset.
        fit: "crop" or "pad", as in `square`.
    Raises:
        ValueError: the object is not a map-style dataset, the split is not "train", or an item
            cannot be converted.
    """
    name = _check_dataset(dataset, split)
    names = class_names(dataset)

    def sampled(i: int) -> Any:
        """One item as values that can be compared."""
        try:
            return _item(dataset, name, i, lambda image: image)
        except NotAnImage as damaged:
            return str(damaged)

    digest = content_digest(dataset, sampled)
    identity = {"kind": "dataset", "name": name, "digest": digest, "fit": fit,
                "names": list(names)}  # fmt: skip
    return Source(
        name, identity, names, lambda size: _chunks(dataset, name, size, fit), interleave=True,
        relabel=lambda labels: _relabel(labels, names, name),
    )  # fmt: skip


def _check_dataset(dataset: Any, split: str) -> str:
    """The name of a dataset object; a ValueError says what to pass if it is not a dataset."""
    name = type(dataset).__name__
    try:
        other = isinstance(dataset, (DataLoader, IterableDataset, Mapping))
        length = len(dataset) if hasattr(dataset, "__getitem__") and not other else None
    except (TypeError, NotImplementedError):
        length = None
    if length is None:
        raise ValueError(
            f"source is a {name}; it must be a name, a folder, or a dataset with __len__ and "
            "__getitem__ (of a DataLoader, pass its .dataset; of a dictionary, one of its values)"
        )
    if not length:
        raise ValueError(f"{name} holds no images: its length is 0")
    if split != "train":
        raise ValueError(
            f"a dataset object is one split: leave split={split!r} out and pass the {name} with "
            "those images (random_split with a seeded generator makes two of one)"
        )
    inner = getattr(dataset, "dataset", None)
    return f"{name} of {type(inner).__name__}" if isinstance(inner, Dataset) else name


def _chunks(dataset: Any, name: str, size: int, fit: str) -> Chunks:
    from tqdm.auto import tqdm

    skipped: list[str] = []
    for i in tqdm(range(len(dataset)), desc=f"reading {name}", unit=" images"):
        try:
            image, label = _item(dataset, name, i, lambda found: square(found, size, fit))
        except NotAnImage as damaged:
            skipped.append(f"item {i} ({damaged})")
            continue
        yield image[None], np.array([label])
    if skipped:
        print(f"{name}: {len(skipped):,} of {len(dataset):,} files are not images and were "
              f"skipped; the first is {skipped[0]}")  # fmt: skip


def _item(dataset: Any, name: str, i: int, convert: Callable[[Any], Any]) -> tuple[Any, int]:
    """Image i as a PIL image, converted by `convert`, and its label."""
    try:
        image, label = _image_and_label(dataset[i], name)
        return convert(_pil_image(image)), _whole_number(label)
    except UnusableItem as unusable:
        raise ValueError(f"item {i} of {name} {unusable}") from None
    except (OSError, SyntaxError) as error:  # PIL's decoders raise these without an errno
        if getattr(error, "errno", None) is not None:
            raise
        raise NotAnImage(" ".join(str(error).split())) from None
    except Exception as error:  # the dataset's code may raise anything
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"item {i} of {name} cannot be read: {why}") from error


def _image_and_label(item: Any, name: str) -> tuple[Any, Any]:
    """Image and label of an item: a pair, a single image, or a dictionary `image`, `label`.

    A missing label is None.
    """
    if isinstance(item, Mapping):
        image, label = (next((k for k in keys if k in item), None) for keys in (IMAGES, LABELS))
        found = ", ".join(map(repr, item))
        if image is None:
            raise UnusableItem(f"is a dictionary of {found}; it needs 'image'")
        if label is None and len(item) > 1:
            say_once(f"{name}: none of {found} is named 'label', so all images are one class", name)
        return item[image], None if label is None else item[label]
    if not isinstance(item, (tuple, list)):
        return item, None
    if len(item) not in (1, 2):
        raise UnusableItem(f"has {len(item)} parts; it must be (image, label)")
    return item[0], item[1] if len(item) == 2 else None


def _whole_number(label: Any) -> int:
    """A label of any integer type as an int; `UNLABELLED` for None."""
    if label is None:
        return UNLABELLED
    number = label.detach().cpu().numpy() if isinstance(label, torch.Tensor) else np.asarray(label)
    if number.size != 1 or number.dtype.kind not in "iub":
        kind = f"{type(label).__name__} of shape {number.shape}" if number.shape else repr(label)
        raise UnusableItem(
            f"has the label {kind}; it must be one whole number (a target_transform can make one)"
        )
    return int(number.item())


def _pil_image(image: Any) -> Any:
    """Convert a PIL image, a tensor (C, H, W) or an array (H, W, C) to a PIL image, loaded.

    C is 1, 3 or 4; the shape may be (H, W) too. Values are uint8, or floats in [0, 1].
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        image.load()
        return image
    if isinstance(image, torch.Tensor):
        values = image.detach().cpu()
        array = (values.float() if values.is_floating_point() else values).numpy()
    elif isinstance(image, np.ndarray):
        array = image
    else:
        kind = type(image).__name__
        raise UnusableItem(f"is a {kind}; an image is a PIL image, a tensor or an array")
    pixels = _bytes(_channels_last(array, channels_first=array is not image))
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _channels_last(array: np.ndarray, channels_first: bool) -> np.ndarray:
    """Convert to (H, W, C); `channels_first` decides if both ends could be the channels."""
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3 and 0 not in array.shape:
        first, last = (array.shape[side] in (1, 3, 4) for side in (0, 2))
        if first and (channels_first or not last):
            return array.transpose(1, 2, 0)
        if last:
            return array
    raise UnusableItem(
        f"has the shape {array.shape}; an image is (C, H, W) as a tensor or (H, W, C) as an "
        "array, C = 1, 3 or 4"
    )


def _bytes(array: np.ndarray) -> np.ndarray:
    """Keep uint8; multiply floats in [0, 1] by 255 and round."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    low, high = float(array.min()), float(array.max())  # NaN if there is one
    if array.dtype.kind != "f" or not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        raise UnusableItem(
            f"holds {array.dtype} from {low:.4g} to {high:.4g}; give uint8, or floats in [0, 1] "
            "(ToTensor without Normalize)"
        )
    return np.ascontiguousarray((array.clip(0, 1) * 255).round().astype(np.uint8))


def class_names(dataset: Any) -> tuple[str, ...]:
    """The class names of a dataset, in the order of its labels; empty if it has none.

    They come from `classes`, `categories`, `class_to_idx` or `features["label"].names`, from the
    dataset behind a Subset, or from the parts of a ConcatDataset if they agree. Names are not used
    with a target_transform, which may renumber classes.
    """
    if getattr(dataset, "target_transform", None) is not None:
        return ()
    for attribute in ("classes", "categories"):
        if names := _words(getattr(dataset, attribute, None)):
            return names
    numbers = getattr(dataset, "class_to_idx", None)
    if isinstance(numbers, Mapping) and sorted(numbers.values()) == list(range(len(numbers))):
        return _words(sorted(numbers, key=numbers.__getitem__))
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        label = next((features[key] for key in LABELS if key in features), None)
        return _words(getattr(label, "names", None))
    if hasattr(dataset, "datasets"):
        found = {class_names(part) for part in dataset.datasets}
        return found.pop() if len(found) == 1 else ()
    return class_names(dataset.dataset) if hasattr(dataset, "dataset") else ()


def _words(names: Any) -> tuple[str, ...]:
    """Names, or the first name of each group of synonyms, as in ImageNet."""
    if not isinstance(names, (Sequence, np.ndarray)) or isinstance(names, str):
        return ()
    firsts = [name[0] if isinstance(name, (tuple, list)) and name else name for name in names]
    return tuple(map(class_name, firsts))


def _relabel(
    labels: list[int], names: tuple[str, ...], name: str
) -> tuple[list[int], tuple[str, ...]]:
    """Labels from 0 and their class names: the given names if they fit, else the numbers."""
    found = sorted(set(labels))
    if found == [UNLABELLED]:
        return [0] * len(labels), ONE_CLASS
    if found[0] == UNLABELLED:
        raise ValueError(f"{labels.count(UNLABELLED):,} of {len(labels):,} images of {name} have "
                         "no label: give one to all of them or to none")  # fmt: skip
    if 0 <= found[0] and found[-1] < len(names):
        return labels, names
    if names or found != list(range(len(found))):
        print(f"{name}: its {len(found):,} labels in {found[0]}..{found[-1]} do not fit "
              f"{len(names)} class names; they are renumbered from 0 and named by their "
              "numbers")  # fmt: skip
    place = {label: k for k, label in enumerate(found)}
    return [place[label] for label in labels], tuple(map(str, found))
