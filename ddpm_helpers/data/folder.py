"""Your own images: a folder of files at any depth, or one subfolder for each class."""

import hashlib
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .cache import Chunks, Source
from .decode import HEIC, NotAnImage, decode, readable
from .layout import Labelled, Layout, Name, find_layout
from .order import balanced_order
from .say import count, printable, say_once

LISTED = 20  # name this many skipped files; only count the others
VERSION = 4  # increase it when reading layouts or decoding pixels changes
CONVERT = "convert HEIC first, such as by `magick mogrify -format jpg *.HEIC`"
IGNORED = {"__macosx", "thumbs.db"}  # beside hidden names, which begin with a dot
RUN = {"config.toml", "history.jsonl"}  # a folder that holds both is a training run
DRAWN = re.compile(r"samples_epoch_\d+\.png|learning\.gif")  # the sample grids of a run
_CHUNK = 256  # decode this many files ahead


def source(split: str, folder: Path, fit: str) -> Source:
    """The images of one split of a folder, as `find_layout` divides them.

    Raises:
        ValueError: no images, or too few to make a test split.
    """
    layout = read_layout(folder)
    files = layout.train if split == "train" else layout.test
    if not files:
        few = f"{count(len(layout.train))} is too few to make one"
        raise ValueError(f"{printable(folder)} has no test split, and {few}")
    order = balanced_order([label for _, label in files])  # the cache then need not sort them

    def chunks(size: int) -> Chunks:
        describe(folder, layout)
        yield from _chunks(folder, [files[k] for k in order], layout.classes, size, fit)

    lines = "".join([*_lines(folder, files), *(f"{name}\n" for name in layout.classes)])
    identity = {"kind": "folder", "version": VERSION, "files": _digest(lines), "split": split,
                "fit": fit}  # fmt: skip
    origin = _digest(f"{folder}\0{split}\0{fit}")[:16]
    return Source(str(folder), identity, layout.classes, chunks, interleave=True, origin=origin)


def read_layout(folder: Path) -> Layout:
    """Find splits, classes and images of a folder, with notes on what was left out.

    Raises:
        ValueError: no images.
    """
    names, others = _listing(folder)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in others.most_common(8))
    convert = f"; {CONVERT}" if HEIC & others.keys() else ""
    if not names:
        found = f"; found {printable(kinds)}" if others else ""
        looked = ", ".join(sorted(readable()[0]))
        raise ValueError(f"no images in {printable(folder)} (looked for {looked}{found}){convert}")
    layout = find_layout(names)
    if others:
        layout.notes.append(f"other files were ignored: {kinds}{convert}")
    return layout


def describe(folder: Path, layout: Layout) -> None:
    """Print the notes on a folder's layout, each once in a process."""
    for note in layout.notes:
        say_once(f"{folder.name}: {note}", folder)


def _listing(folder: Path) -> tuple[list[Name], Counter[str]]:
    """Names of the images below a folder, and the number of other files of each kind.

    Links are followed, except to a parent folder. Hidden files and the output of training runs
    are ignored: run folders below this one, and a run's images in this one.
    """
    names, others = [], Counter[str]()
    suffixes = readable()[0]
    for place, folders, files in os.walk(folder, onerror=_say_skipped, followlinks=True):
        at = Path(place).relative_to(folder).parts
        run = RUN <= set(files)
        if run and at:
            where = "/".join((folder.name, *at))
            say_once(f"{where}: skipped, because it holds a training run", place)
            folders.clear()
            continue
        above = [folder.joinpath(*at[:k]) for k in range(len(at) + 1)]
        folders[:] = [
            name
            for name in filter(_is_visible, folders)
            if not any(_is_same(os.path.join(place, name), one) for one in above)
        ]
        for name in filter(_is_visible, files):
            path, suffix = os.path.join(place, name), Path(name).suffix.lower()
            if run and DRAWN.fullmatch(name):
                continue
            if suffix not in suffixes:
                others[suffix or "no suffix"] += 1
            elif os.path.isfile(path):
                names.append((*at, name))
            else:
                others["broken link" if os.path.islink(path) else "special file"] += 1
    return sorted(names), others


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in IGNORED


def _is_same(a: str, b: Path) -> bool:
    return os.path.islink(a) and os.path.exists(a) and os.path.samefile(a, b)


def _say_skipped(error: OSError) -> None:
    print(f"skipped {printable(error.filename)}: {error.strerror}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _lines(folder: Path, files: Labelled) -> list[str]:
    """Name, label, size and modification time of each file, without the folder's own path."""
    lines = []
    for name, label in files:
        try:
            found = folder.joinpath(*name).stat()
            state: Any = (found.st_size, found.st_mtime_ns)
        except FileNotFoundError:  # it has been deleted; decoding will report it
            state = None
        lines.append(f"{'/'.join(name)}\0{label}\0{state}\n")
    return lines


def _chunks(folder: Path, files: Labelled, classes: tuple[str, ...], size: int, fit: str) -> Chunks:
    """Decode in threads; skip and count files that are not images, and name the first few."""
    from tqdm.auto import tqdm

    def read(file: tuple[Name, int]) -> np.ndarray | str:
        try:
            return decode(folder.joinpath(*file[0]), size, fit)
        except NotAnImage as reason:
            return str(reason)

    skipped, empty = 0, {label for _, label in files}
    bar = tqdm(total=len(files), desc=f"reading {printable(folder.name)}", unit=" images")
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for k in range(0, len(files), _CHUNK):
            here = files[k : k + _CHUNK]
            for (name, label), found in zip(here, pool.map(read, here), strict=True):
                bar.update()
                if not isinstance(found, str):
                    empty.discard(label)
                    yield found[None], np.array([label])
                    continue
                skipped += 1
                if skipped <= LISTED:
                    bar.write(f"skipped {printable('/'.join(name))}: {found}")
    if not skipped:
        return
    if not folder.is_dir():
        raise OSError(f"{printable(folder)} is gone: is its drive still connected?")
    if skipped == len(files):
        raise ValueError(f"none of the {count(skipped, 'file')} in {printable(folder)} is an image")
    named = f" (the first {LISTED} are named)" if skipped > LISTED else ""
    print(f"{printable(folder.name)}: {skipped:,} of {len(files):,} files are not images and were "
          f"skipped{named}")  # fmt: skip
    for label in sorted(empty):
        print(f"the class {printable(classes[label])} has no image that can be read")
