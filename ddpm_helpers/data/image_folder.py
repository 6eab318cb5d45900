"""Your own images: a folder of files at any depth, with or without a subfolder for each class."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ddpm_helpers.checks import class_name

from .collection import Chunks, Collection
from .decode import SUFFIXES, NotAnImage, decode
from .layout import Labelled, Layout, Name, find_layout
from .order import balanced_order
from .say import count, say, say_once

LISTED = 20  # name at most this many skipped files
IGNORED = {"__macosx", "thumbs.db"}  # beside hidden names, which begin with a dot
RUN = "history.jsonl"  # a subfolder with this file is a training run; its sample grids are not data
_CHUNK = 256  # decode at most this many files ahead of the writer


def collection(folder: Path, split: str, fit: str) -> Collection:
    """The images of one split of a folder, as `find_layout` divides them.

    Raises:
        ValueError: no images, or too few to make a test split.
    """
    layout = read_layout(folder)
    files = layout.train if split == "train" else layout.test
    if not files:
        few = f"{count(len(layout.train))} is too few to make one"
        raise ValueError(f"{folder} has no test split, and {few}")

    def read(size: int) -> tuple[tuple[str, ...], Chunks]:
        order = balanced_order([label for _, label in files])  # the cache then need not sort them
        return layout.classes, _decode_all(folder, [files[k] for k in order], size, fit)

    identity = {"kind": "folder", "path": str(folder), "split": split, "fit": fit}
    return Collection(str(folder), identity, read, state=_state(folder, files, layout.classes))


def read_layout(folder: Path) -> Layout:
    """Find splits, classes and images of a folder, and print what was left out.

    Raises:
        ValueError: no images.
    """
    images, others = [], Counter[str]()
    for name in sorted(_files(folder)):
        suffix = os.path.splitext(name[-1])[1].lower()
        if suffix in SUFFIXES:
            images.append(name)
        else:
            others[suffix or "no suffix"] += 1
    kinds = ", ".join(f"{number:,} {suffix}" for suffix, number in others.most_common(8))
    if not images:
        raise ValueError(
            f"no images in {folder} (looked for {', '.join(sorted(SUFFIXES))}; other files: "
            f"{kinds or 'none'})"
        )
    layout = find_layout(images)
    if others:
        layout.notes.append(f"other files were ignored: {kinds}")
    for note in layout.notes:
        say_once(f"{folder.name}: {note}", folder)
    return layout


def _files(folder: Path, name: Name = (), parents: tuple[str, ...] = ()) -> Iterator[Name]:
    """Yield the names of all visible files, except those of training runs inside the folder.

    Links are followed, except to a parent folder.
    """
    here = os.path.realpath(folder.joinpath(*name))
    if here in parents:
        return
    entries = os.listdir(here)
    if name and RUN in entries:
        say_once(f"{'/'.join(name)}: skipped, because it holds a training run", folder)
        return
    for entry in entries:
        path = os.path.join(here, entry)
        if entry.startswith(".") or entry.casefold() in IGNORED:
            continue
        if os.path.isfile(path):
            yield (*name, entry)
        elif os.path.isdir(path):
            yield from _files(folder, (*name, entry), (*parents, here))


def _state(folder: Path, files: Labelled, classes: tuple[str, ...]) -> str:
    """A digest of the classes, and of name, label, size and modification time of each file."""
    digest = hashlib.sha256(repr(classes).encode())
    for name, label in files:
        stat = folder.joinpath(*name).stat()
        digest.update(repr((name, label, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _decode_all(folder: Path, files: Labelled, size: int, fit: str) -> Chunks:
    """Decode in threads; skip the files that cannot be decoded, count them and name some.

    Raises:
        OSError: a file cannot be read for another reason, such as a lost drive.
    """
    from tqdm.auto import tqdm

    def read(file: tuple[Name, int]) -> np.ndarray | NotAnImage:
        try:
            return decode(folder.joinpath(*file[0]), size, fit)
        except NotAnImage as reason:
            return reason

    skipped = []
    bar = tqdm(total=len(files), desc=f"reading {class_name(folder.name)}", unit=" images")
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for k in range(0, len(files), _CHUNK):
            chunk = files[k : k + _CHUNK]
            for (name, label), image in zip(chunk, pool.map(read, chunk), strict=True):
                bar.update()
                if isinstance(image, NotAnImage):
                    skipped.append(f"  {'/'.join(name)}: {image}")
                else:
                    yield image[None], np.array([label])
    if skipped:
        what = f"{len(skipped):,} of {count(len(files), 'file')} that cannot be decoded"
        say("\n".join([f"{folder.name}: skipped {what}, such as:", *skipped[:LISTED]]))
