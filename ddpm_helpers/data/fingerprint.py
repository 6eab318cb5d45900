"""A digest that tells dataset objects apart by their attributes and items."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

SAMPLED = 64  # items that are read: all of a small dataset


def fingerprint(dataset: Any, read: Callable[[int], Any]) -> str:
    """A digest that changes with the pictures and labels of a dataset.

    It covers the object's class, length, repr (torchvision's has root, split and transforms) and
    attributes: arrays and tensors with all values, lists and tables value by value, and the size
    and modification time of each file that they name. Pictures that come from elsewhere, such as
    files opened on demand, are covered by `SAMPLED` evenly spaced items alone.

    Args:
        dataset: a map-style dataset.
        read: i -> item i as arrays, numbers and strings.
    Raises:
        ValueError: an item that changes from one reading to the next.
    """
    whole = hashlib.sha256()
    for i in sorted({k * len(dataset) // SAMPLED for k in range(SAMPLED)}):
        first, second = _digest(read(i)), _digest(read(i))
        if first != second:
            raise ValueError(
                f"item {i} changes from one reading to the next (a random transform?), but a cache "
                "keeps one picture of each: leave random transforms out; training mirrors "
                "pictures itself (flip)"
            )
        whole.update(first)
    about = [len(dataset), _without_addresses(repr(type(dataset)))]
    whole.update(_digest([*about, dataset, getattr(dataset, "__dict__", None)]))
    return whole.hexdigest()


def _digest(value: Any) -> bytes:
    digest = hashlib.sha256()
    _add(digest, value, {})
    return digest.digest()


def _add(digest: Any, value: Any, seen: dict[int, Any]) -> None:
    """Add a value and its parts; `seen`, id -> value, ends cycles and keeps ids unique."""
    digest.update(f"\0{type(value).__name__} ".encode())
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    elif hasattr(value, "to_numpy"):  # a table of pandas
        value = value.to_numpy()
    if isinstance(value, (set, frozenset)):  # their order changes from process to process
        value = sorted(map(repr, value))
    if isinstance(value, np.memmap) and value.filename:  # known by its file: it may be large
        value = [value.shape, value.offset, str(value.filename)]
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        value = value.tolist()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    elif isinstance(value, (list, tuple, Mapping, Dataset)):
        if id(value) not in seen:
            seen[id(value)] = value
            _add_parts(digest, value, seen)
    elif isinstance(value, (str, os.PathLike)):
        digest.update(os.fspath(value).encode("utf-8", "surrogatepass") + _state(value))
    elif isinstance(value, bytes):
        digest.update(value)
    elif hasattr(value, "tobytes") and hasattr(value, "mode"):  # a PIL picture
        about = f"{value.mode} {value.size} {value.getpalette()} {value.info.get('transparency')} "
        digest.update(about.encode() + value.tobytes())
    else:
        digest.update(_without_addresses(repr(value)).encode("utf-8", "surrogatepass"))


def _add_parts(digest: Any, value: Any, seen: dict[int, Any]) -> None:
    if isinstance(value, Dataset):
        parts = [_without_addresses(repr(value)), vars(value)]
    elif isinstance(value, Mapping):
        parts = [part for key in value for part in (key, value[key])]
    else:
        parts = list(value)
    digest.update(f"{len(parts)} ".encode())
    for part in parts:
        _add(digest, part, seen)


def _state(path: Any) -> bytes:
    """Size and modification time of a file; empty if the text names none."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null character
        return b""
    return f" {state.st_size} {state.st_mtime_ns}".encode() if stat.S_ISREG(state.st_mode) else b""


def _without_addresses(text: str) -> str:
    """A repr without addresses in memory, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
