"""Pictures from a map-style dataset object: torchvision's, or one's own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .cache import Chunks, Source
from .decode import NotAPicture
from .fingerprint import fingerprint
from .items import LABELS, NO_LABEL, Wrong, parts, pil_picture, whole_label
from .resize import square


def source(split: str, dataset: Any, fit: str) -> Source:
    """All pictures of a dataset object, as the split "train".

    Items are read one after another in this process, since a dataset need not be safe for threads.
    Files that are not pictures are skipped and counted, and the first is named.

    Raises:
        ValueError: an object that is not a map-style dataset, another split, or an item that
            `items` cannot convert.
    """
    name = _name(dataset)
    if split != "train":
        raise ValueError(
            f"a dataset object is one split: leave split={split!r} out and pass the {name} with "
            "those pictures (random_split with a seeded generator makes two of one)"
        )

    def plain(i: int) -> Any:
        """One item as values that can be compared."""
        try:
            return _item(dataset, name, i, lambda picture: picture)
        except NotAPicture as damaged:
            return str(damaged)

    digest = fingerprint(dataset, plain)
    identity = {"kind": "dataset", "name": name, "digest": digest, "fit": fit}
    names = class_names(dataset)
    return Source(
        name, identity, names, lambda size: _chunks(dataset, name, size, fit), interleave=True,
        settle=lambda found: _settle(found, names, name),
    )  # fmt: skip


def _name(dataset: Any) -> str:
    """The name of a dataset object; a ValueError says what to pass instead of another object."""
    name = type(dataset).__name__
    if isinstance(dataset, DataLoader):
        raise ValueError("source is a DataLoader, which yields batches: pass its dataset, .dataset")
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f"source is an IterableDataset ({name}), whose items have no index: pass a dataset "
            "with __len__ and __getitem__, or write its pictures to a folder"
        )
    try:
        count = len(dataset) if hasattr(dataset, "__getitem__") else None
    except (TypeError, NotImplementedError):
        count = None
    if count is None:
        raise ValueError(
            f"source is a {name}; it must be a name, a folder, or a dataset with __len__ and "
            "__getitem__"
        )
    if not count:
        raise ValueError(f"{name} holds no pictures: its length is 0")
    inner = getattr(dataset, "dataset", None)
    return f"{name} of {type(inner).__name__}" if isinstance(inner, Dataset) else name


def _chunks(dataset: Any, name: str, size: int, fit: str) -> Chunks:
    from tqdm.auto import tqdm

    skipped: list[str] = []
    for i in tqdm(range(len(dataset)), desc=f"reading {name}", unit=" pictures"):
        try:
            picture, label = _item(dataset, name, i, lambda found: square(found, size, fit))
        except NotAPicture as damaged:
            skipped.append(f"item {i} ({damaged})")
            continue
        yield picture[None], np.array([label])
    if skipped:
        print(f"{name}: {len(skipped):,} of {len(dataset):,} files are not pictures and were "
              f"skipped; the first is {skipped[0]}")  # fmt: skip


def _item(
    dataset: Any, name: str, i: int, convert: Callable[[Any], Any]
) -> tuple[Any, int]:
    """Picture i as a PIL image, converted by `convert`, and its label."""
    try:
        picture, label = parts(dataset[i])
        return convert(pil_picture(picture)), whole_label(label)
    except Wrong as wrong:
        raise ValueError(f"item {i} of {name} {wrong}") from None
    except (OSError, SyntaxError) as error:  # what PIL's decoders raise, without a number
        if getattr(error, "errno", None) is not None:
            raise
        raise NotAPicture(" ".join(str(error).split())) from None
    except Exception as error:  # whatever the dataset's own code raises
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"item {i} of {name} cannot be read: {why}") from error


def class_names(dataset: Any) -> tuple[str, ...]:
    """The class names of a dataset, in the order of its labels; empty if it has none.

    They come from `classes`, `categories`, `class_to_idx` or `features["label"].names`, or from the
    dataset behind a Subset. With a target_transform, which may renumber classes, none are used.
    """
    if getattr(dataset, "target_transform", None) is not None:
        return ()
    for attribute in ("classes", "categories"):
        if names := _words(getattr(dataset, attribute, None)):
            return names
    numbers = getattr(dataset, "class_to_idx", None)
    if isinstance(numbers, Mapping) and sorted(numbers.values()) == list(range(len(numbers))):
        return tuple(map(str, sorted(numbers, key=numbers.__getitem__)))
    features = getattr(dataset, "features", None)
    for name in LABELS:
        feature = features.get(name) if isinstance(features, Mapping) else None
        if names := _words(getattr(feature, "names", None)):
            return names
    return class_names(dataset.dataset) if hasattr(dataset, "dataset") else ()


def _words(names: Any) -> tuple[str, ...]:
    """Names, or the first of each group of synonyms, such as ImageNet's."""
    if not isinstance(names, Sequence) or isinstance(names, str):
        return ()
    firsts = [name[0] if isinstance(name, (tuple, list)) and name else name for name in names]
    return tuple(firsts) if all(isinstance(name, str) for name in firsts) else ()


def _settle(
    labels: list[int], names: tuple[str, ...], name: str
) -> tuple[list[int], tuple[str, ...]]:
    """Labels from 0 and the names of their classes: those given if they fit, else the numbers."""
    found = sorted(set(labels))
    if found == [NO_LABEL]:
        return [0] * len(labels), (name,)
    if found[0] == NO_LABEL:
        raise ValueError(f"{labels.count(NO_LABEL):,} of {len(labels):,} pictures of {name} have "
                         "no label: give one to all of them or to none")  # fmt: skip
    if 0 <= found[0] and found[-1] < len(names):
        return labels, names
    if names:
        print(f"{name}: labels {found[0]}..{found[-1]} do not fit its {len(names)} class "
              "names; the numbers are used as names")  # fmt: skip
    elif found != list(range(len(found))):
        print(f"{name}: its {len(found):,} labels lie in {found[0]}..{found[-1]}; they are "
              "renumbered from 0, and the numbers found are used as names")  # fmt: skip
    place = {label: k for k, label in enumerate(found)}
    return [place[label] for label in labels], tuple(map(str, found))
