"""A digest of a dataset object's content, which identifies its cache."""

import hashlib
import os
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

import torch

SAMPLED = 64  # read this many items, or all of a smaller dataset


def content_digest(dataset: Any, read: Callable[[int], Any]) -> str:
    """A digest that changes with the images and labels of a dataset.

    It covers the object's attributes, the size and modification time of each file that they name,
    the repr, and `SAMPLED` evenly spaced items. If the object cannot be pickled, it covers only
    the length, the repr and these items.

    Args:
        dataset: a map-style dataset.
        read: function of an index that returns the item.
    Raises:
        ValueError: reading an item twice gives different values.
    """
    whole = _Digest()
    for i in sorted({k * len(dataset) // SAMPLED for k in range(SAMPLED)}):
        first, second = (_Digest().add(read(i)) for _ in range(2))
        if first != second:
            raise ValueError(
                f"item {i} changes from one reading to the next (a random transform?), but a cache "
                "keeps one image of each: leave random transforms out; training mirrors images "
                "itself (flip)"
            )
        whole.add(first)
    whole.add([len(dataset), re.sub(r" at 0x[0-9a-fA-F]+", "", repr(dataset))])
    with suppress(Exception):  # pickling runs the object's own code
        whole.add(_Digest().add(dataset))
    return whole.add(type(dataset).__qualname__)


class _Digest:
    """The sha256 of pickled values, the same in every process."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:  # the pickler calls it like a file's `write`
        self.sha256.update(data)
        return len(data)

    def add(self, value: Any) -> str:
        pickler = _Pickler(self, protocol=4)
        pickler.fast = True  # pickle values only, not which objects are identical
        pickler.dump(value)
        return self.sha256.hexdigest()


class _Pickler(pickle.Pickler):
    """Pickles tensors, sets, functions and file names by content, not by address or order."""

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            whole = value.detach().cpu()
            return "tensor", (whole.float() if whole.dtype == torch.bfloat16 else whole).numpy()
        if isinstance(value, (set, frozenset)):  # their order differs from process to process
            return "set", sorted(map(repr, value))
        if isinstance(value, (type, FunctionType, MethodType)):  # a lambda cannot be pickled
            return "name", value.__module__, value.__qualname__
        if isinstance(value, (str, os.PathLike)) and os.path.isfile(value):
            state = os.stat(value)
            return "file", os.fsencode(value), state.st_size, state.st_mtime_ns
        return None
