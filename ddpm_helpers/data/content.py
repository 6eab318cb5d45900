"""A digest of what a dataset object holds, by which its cache is found again."""

import hashlib
import os
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

import torch

SAMPLED = 64  # items that are read: all of a small dataset


def content_digest(dataset: Any, read: Callable[[int], Any]) -> str:
    """A digest that changes with the images and labels of a dataset.

    It covers everything that the object holds, value by value, the size and modification time of
    each file that it names, its repr, and `SAMPLED` evenly spaced items. Of an object that cannot
    be pickled it covers the length, the repr and these items.

    Args:
        dataset: a map-style dataset.
        read: i -> item i.
    Raises:
        ValueError: an item that changes from one reading to the next.
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

    def write(self, data: Any) -> int:  # as a file, for the pickler
        self.sha256.update(data)
        return len(data)

    def add(self, value: Any) -> str:
        pickler = _Pickler(self, protocol=4)
        pickler.fast = True  # no notes on which objects are the same one, only on their values
        pickler.dump(value)
        return self.sha256.hexdigest()


class _Pickler(pickle.Pickler):
    """Pickles values that hold their address, or only a file's name, as what they stand for."""

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
