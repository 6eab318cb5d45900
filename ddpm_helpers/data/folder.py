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
VERSION = 3  # increase it when layouts are read, or pixels decoded, differently
CONVERT = (
    "convert HEIC first, for instance with ImageMagick: "
    "magick mogrify -format jpg *.[hH][eE][iI][cCfF]"
)
IGNORED = {  # folders that systems add: copies of names and pictures, and recycle bins
    "__macosx", "@eadir", "$recycle.bin", "#recycle", "@recycle", "system volume information",
}  # fmt: skip
_CHUNK = 256  # files that are decoded ahead


def source(split: str, folder: Path, fit: str = "crop") -> Source:
    """The pictures of one split of a folder, as `understand` reads its layout.

    Raises:
        ValueError: no pictures, too few to hold some out for a test split, or a class in the test
            split that train lacks.
    """
    folder = folder.expanduser().resolve()
    layout = read_layout(folder)
    files = layout.train if split == "train" else _test(folder, layout)

    kept = cache(lambda: _readable_classes(folder, layout))  # the classes that keep a label

    def chunks(size: int) -> Chunks:
        describe(folder, layout)
        number = {k: n for n, k in enumerate(kept())}
        _say_left_out(folder, layout, number)
        here = [(name, number[label]) for name, label in files if label in number]
        order = balanced_order([label for _, label in here])  # as the cache stores them
        yield from _chunks(folder, [here[k] for k in order], size, fit)

    def settle(labels: list[int]) -> tuple[list[int], tuple[str, ...]]:
        return labels, tuple(layout.classes[k] for k in kept()) if layout.classes else ()

    lines = _lines(folder, layout.train) + (_lines(folder, files) if split == "test" else [])
    identity = {"kind": "folder", "version": VERSION, "files": _digest("".join(lines)),
                "split": split, "fit": fit}  # fmt: skip
    return Source(
        str(folder), identity, layout.classes, chunks, interleave=True, settle=settle,
        origin=_digest(f"{folder}\0{split}\0{fit}")[:16],
    )  # fmt: skip


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def describe(folder: Path, layout: Layout) -> None:
    """Print the notes on a folder's layout, each once in a process."""
    for note in layout.notes:
        _say(folder, note)


@cache
def _say(folder: Path, note: str) -> None:
    print(f"{shown(folder.name)}: {shown(note)}", flush=True)


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
        layout.notes.append(f"other files were ignored: {kinds}{convert}")
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
            f"{shown(folder)} has no test split, and {few} are too few to hold some out"
        )
    return layout.test


def _some(classes: tuple[str, ...]) -> str:
    return ", ".join(map(shown, classes[:10])) + (", …" if len(classes) > 10 else "")


def _listing(folder: Path) -> tuple[list[Name], Counter[str]]:
    """Names of the pictures below a folder, and how many other files there are of each kind.

    Links are followed, except to a folder above them; hidden files are ignored.
    """
    names, foreign = [], Counter[str]()
    suffixes = readable()[0]
    for place, folders, files in os.walk(folder, onerror=_say_skipped, followlinks=True):
        at = Path(place).relative_to(folder).parts
        above = [folder.joinpath(*at[:k]) for k in range(len(at) + 1)]
        folders[:] = [
            name
            for name in filter(_is_visible, folders)
            if not any(_is_same(os.path.join(place, name), one) for one in above)
        ]
        for name in filter(_is_visible, files):
            path, suffix = os.path.join(place, name), Path(name).suffix.lower()
            if suffix not in suffixes:
                foreign[suffix or "no suffix"] += 1
            elif os.path.isfile(path):
                names.append((*at, name))
            else:
                foreign["broken link" if os.path.islink(path) else "special file"] += 1
    return sorted(names), foreign


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in IGNORED


def _is_same(a: str, b: Path) -> bool:
    try:
        one, other = os.stat(a), os.stat(b)
    except OSError:  # `os.walk` will name it
        return False
    return one.st_ino != 0 and os.path.samestat(one, other)  # 0: a drive that numbers no files


def _say_skipped(error: OSError) -> None:
    print(f"skipped {shown(error.filename)}: {error.strerror}")


def _lines(folder: Path, files: Labelled) -> list[str]:
    """Name, label, size and modification time of each file, without the folder's own path."""
    lines = []
    for name, label in files:
        try:
            found = folder.joinpath(*name).stat()
            state: Any = (found.st_size, found.st_mtime_ns, found.st_mode)
        except FileNotFoundError:  # deleted meanwhile; reading it will report that
            state = None
        lines.append(f"{'/'.join(name)}\0{label}\0{state}\n")
    return lines


def _readable_classes(folder: Path, layout: Layout) -> list[int]:
    """Labels with a picture in train that can be read, usually their first one."""
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
        _say(folder, f"left out the class {layout.classes[label]}: {note}")


def _chunks(folder: Path, files: Labelled, size: int, fit: str) -> Chunks:
    """Decode in threads; skip and count files that are not images, and name the first ones."""
    from tqdm.auto import tqdm

    def read(file: tuple[Name, int]) -> tuple[np.ndarray | None, str]:
        try:
            return decode(folder.joinpath(*file[0]), size, fit)
        except NotAPicture as reason:
            return None, str(reason)

    skipped, notes = 0, Counter[str]()
    bar = tqdm(total=len(files), desc=f"reading {shown(folder.name)}", unit=" pictures")
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for k in range(0, len(files), _CHUNK):
            here = files[k : k + _CHUNK]
            for (name, label), (picture, note) in zip(here, pool.map(read, here), strict=True):
                bar.update()
                if picture is not None:
                    notes[note] += 1
                    yield picture[None], np.array([label])
                    continue
                skipped += 1
                if skipped <= LISTED:
                    bar.write(f"skipped {shown('/'.join(name))}: {note}")
    if skipped and not folder.is_dir():
        raise OSError(f"{shown(folder)} is gone: is its drive still connected?")
    said = f"{shown(folder.name)}: {{:,}} of {len(files):,} files {{}}".format
    if skipped:
        named = f" (the first {LISTED} are named)" if skipped > LISTED else ""
        print(said(skipped, f"are not images and were skipped{named}"))
    for note in filter(None, notes):
        print(said(notes[note], f"hold {note}"))
