"""Your own pictures: a folder of images, or one subfolder for each class."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .cache import Chunks, Source
from .decode import HEIC, NotAPicture, decode, readable, shown
from .layout import Labelled, Layout, Name, count, understand
from .order import balanced_order

FITS = ("crop", "pad")
LISTED = 20  # skipped files that are named; the others are only counted
VERSION = 2  # changes whenever a layout is understood or a pixel decoded in another way
CONVERT = "convert HEIC first, for instance with ImageMagick: magick mogrify -format jpg *.heic"
IGNORED = {"__MACOSX", "@eaDir"}  # copies that systems make of names and pictures
_CHUNK = 256


def source(split: str, folder: Path, fit: str = "crop") -> Source:
    """The pictures of one split of a folder.

    Args:
        split: "train" or "test"; `layout.understand` says which pictures are whose.
        fit: "crop" keeps the centre square, "pad" the whole picture between white bars.
        folder: one subfolder for each class, or pictures alone, which make one class.
    Raises:
        ValueError: no pictures, too few to hold some out for a test split, or a class in the test
            split that train lacks.
    """
    folder = folder.expanduser().resolve()
    layout = read_layout(folder)
    files = layout.train if split == "train" else _test(folder, layout)

    kept = cache(lambda: _readable_classes(folder, layout))  # the others' numbers close up

    def chunks(size: int) -> Chunks:
        for note in layout.notes:
            say(str(folder), note)
        number = {k: n for n, k in enumerate(kept())}
        _say_left_out(folder, layout, number)
        here = [(name, number[label]) for name, label in files if label in number]
        order = balanced_order([label for _, label in here])  # what the cache would bring them to
        yield from _chunks(folder, [here[k] for k in order], size, fit)

    def settle(labels: list[int]) -> tuple[list[int], tuple[str, ...]]:
        return labels, tuple(layout.classes[k] for k in kept()) if layout.classes else ()

    lines = _lines(folder, layout.train) + (_lines(folder, files) if split == "test" else [])
    digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    identity = {"kind": "folder", "version": VERSION, "files": digest, "split": split, "fit": fit}
    origin = hashlib.sha256(f"{folder}\0{split}\0{fit}".encode("utf-8", "surrogateescape"))
    return Source(
        str(folder), identity, layout.classes, chunks, interleave=True, settle=settle,
        origin=origin.hexdigest()[:16],
    )  # fmt: skip


def describe(folder: Path) -> Layout:
    """Print what was understood about a folder, unless it was said already; its layout."""
    layout = read_layout(folder)
    for note in layout.notes:
        say(str(folder), note)
    return layout


@cache
def say(folder: str, note: str) -> None:
    """Print a line about a folder, once in a process."""
    print(f"{shown(Path(folder).name)}: {shown(note)}", flush=True)


def read_layout(folder: Path) -> Layout:
    """Splits, classes and pictures of a folder, with notes on what was left out.

    Raises:
        ValueError: no pictures.
    """
    names, foreign = _listing(folder)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in foreign.most_common(8))
    convert = f"; {CONVERT}" if HEIC & foreign.keys() else ""
    if not names:
        found = f"; found {shown(kinds)}" if foreign else ""
        looked = ", ".join(sorted(readable()[0]))
        raise ValueError(f"no pictures in {shown(folder)} (looked for {looked}{found}){convert}")
    layout = understand(names)
    if foreign:
        layout.notes.append(f"other files were not looked at: {kinds}{convert}")
    if layout.unknown:
        lacking = _some(layout.unknown)
        layout.notes.append(f"the test split has classes that train lacks: {lacking}")
    return layout


def _test(folder: Path, layout: Layout) -> Labelled:
    if layout.unknown:
        raise ValueError(
            f"{shown(folder)}: the test split has classes that train lacks: "
            f"{_some(layout.unknown)}; train has {_some(layout.classes) or 'no class folders'}"
        )
    if not layout.test:
        few = count(len(layout.train))
        raise ValueError(
            f"{shown(folder)} has no split 'test', and {few} are too few to hold some out"
        )
    return layout.test


def _some(classes: tuple[str, ...]) -> str:
    return ", ".join(map(shown, classes[:10])) + (", …" if len(classes) > 10 else "")


def _listing(folder: Path) -> tuple[list[Name], Counter[str]]:
    """Names of the pictures below a folder, through links too, and the kinds of other files.

    Hidden files are not looked at; a link back to a folder above ends there.
    """
    names, foreign = [], Counter[str]()
    suffixes = readable()[0]
    waiting: list[tuple[Name, tuple[Any, ...]]] = [((), (_identity(folder),))]
    while waiting:
        at, above = waiting.pop()
        for entry in _entries(folder.joinpath(*at)):
            name, suffix = (*at, entry.name), Path(entry.name).suffix.lower()
            if entry.name.startswith(".") or entry.name in IGNORED:
                continue
            kind = _kind(entry)
            if kind == "folder":
                if (here := _identity(entry.path)) not in above:
                    waiting.append((name, (*above, here)))
            elif suffix not in suffixes:
                foreign[suffix or "no suffix"] += 1
            elif kind == "file":
                names.append(name)
            else:
                foreign[kind] += 1
    return sorted(names), foreign


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        print(f"skipped {shown(folder)}: {error.strerror}")
        return []


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself, or into a folder that may not be read
        pass
    return "broken link" if entry.is_symlink() else "special file"


def _identity(place: Any) -> tuple[int, int]:
    state = os.stat(place)
    return state.st_dev, state.st_ino


def _lines(folder: Path, files: Labelled) -> list[str]:
    """What changes when the pictures do: their names, sizes and times, not where they lie."""
    return [
        f"{'/'.join(name)}\0{label}\0{_state(folder.joinpath(*name))}\n" for name, label in files
    ]


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does, or when its owner lets us read it."""
    try:
        state = path.stat()
    except FileNotFoundError:  # gone since it was listed; reading it will say so
        return None
    return state.st_size, state.st_mtime_ns, state.st_mode


def _readable_classes(folder: Path, layout: Layout) -> list[int]:
    """Labels of which at least one picture in train can be read; as a rule the first one can."""
    found: set[int] = set()
    for name, label in layout.train:
        if label not in found:
            try:
                decode(folder.joinpath(*name), 8, "crop")
                found.add(label)
            except NotAPicture:
                continue
    return sorted(found)


def _say_left_out(folder: Path, layout: Layout, kept: dict[int, int]) -> None:
    counts = Counter(label for _, label in layout.train)
    if not kept:
        raise ValueError(f"none of the {len(layout.train):,} files in {shown(folder)} is a picture")
    for label in sorted(set(counts) - set(kept)):
        note = f"none of its {count(counts[label], 'file')} can be read"
        say(str(folder), f"left out the class {layout.classes[label]}: {note}")


def _chunks(folder: Path, files: Labelled, size: int, fit: str) -> Chunks:
    """Decode on every core; name the files that are not images, skip and count them."""
    from tqdm.auto import tqdm

    skipped, notes = 0, Counter[str]()
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(files), desc=f"reading {shown(folder.name)}", unit=" pictures") as bar,
    ):

        def read(file: tuple[Name, int]) -> tuple[np.ndarray | None, str]:
            try:
                return decode(folder.joinpath(*file[0]), size, fit)
            except NotAPicture as reason:
                return None, str(reason)

        for k in range(0, len(files), _CHUNK):
            here = files[k : k + _CHUNK]
            good, labels = [], []
            for (name, label), (picture, note) in zip(here, pool.map(read, here), strict=True):
                if picture is not None:
                    good.append(picture)
                    labels.append(label)
                    notes[note] += 1
                    continue
                skipped += 1
                if skipped <= LISTED:
                    bar.write(f"skipped {shown('/'.join(name))}: {note}")
            bar.update(len(here))
            if good:
                yield np.stack(good), np.array(labels, np.int64)
    _sum_up(folder, len(files), skipped, notes)


def _sum_up(folder: Path, total: int, skipped: int, notes: Counter[str]) -> None:
    if skipped == total:
        raise ValueError(f"none of the {total:,} files in {shown(folder)} is a picture")
    of_all = f"of {total:,} files"
    if skipped:
        named = f" (the first {LISTED} are named)" if skipped > LISTED else ""
        print(f"{shown(folder.name)}: {skipped:,} {of_all} are not images and were skipped{named}")
    for note in filter(None, notes):
        print(f"{shown(folder.name)}: {notes[note]:,} {of_all} hold {note}")
