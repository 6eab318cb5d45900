"""Your own images: a folder of files at any depth, or one subfolder for each class."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .collection import Chunks, Collection
from .decode import SUFFIXES, NotAnImage, decode
from .layout import Labelled, Layout, Name, find_layout
from .order import balanced_order
from .say import count, printable, say_once

LISTED = 20  # name this many skipped files; only count the others
HEIC = {".heic", ".heif"}  # Pillow alone cannot read them
CONVERT = "convert HEIC first, such as by `magick mogrify -format jpg *.HEIC`"
IGNORED = {"__macosx", "thumbs.db"}  # beside hidden names, which begin with a dot
RUN = "history.jsonl"  # a subfolder with this file is a training run; its sample grids are not data
IMAGE = "image"  # the kind of a file that is read
_CHUNK = 256  # decode this many files ahead


def collection(folder: Path, split: str, fit: str) -> Collection:
    """The images of one split of a folder, as `find_layout` divides them.

    Raises:
        ValueError: no images, or too few to make a test split.
    """
    layout = read_layout(folder)
    files = layout.train if split == "train" else layout.test
    if not files:
        few = f"{count(len(layout.train))} is too few to make one"
        raise ValueError(f"{printable(folder)} has no test split, and {few}")

    def read(size: int) -> tuple[tuple[str, ...], Chunks]:
        describe(folder, layout)
        order = balanced_order([label for _, label in files])  # the cache then need not sort them
        return layout.classes, _decode_all(folder, [files[k] for k in order], size, fit)

    lines = "".join([*_lines(folder, files), *(f"{name}\n" for name in layout.classes)])
    identity = {"kind": "folder", "files": _digest(lines), "split": split, "fit": fit}
    return Collection(str(folder), identity, read, origin=_digest(f"{folder}\0{split}\0{fit}")[:16])


def read_layout(folder: Path) -> Layout:
    """Find splits, classes and images of a folder, with notes on what was left out.

    Raises:
        ValueError: no images.
    """
    files = sorted(_files(str(folder)))
    names = [name for name, kind in files if kind == IMAGE]
    others = Counter(kind for _, kind in files if kind != IMAGE)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in others.most_common(8))
    convert = f"; {CONVERT}" if HEIC & others.keys() else ""
    if not names:
        raise ValueError(
            f"no images in {printable(folder)} (looked for {', '.join(sorted(SUFFIXES))}; other "
            f"files: {printable(kinds) or 'none'}){convert}"
        )
    layout = find_layout(names)
    if others:
        layout.notes.append(f"other files were ignored: {kinds}{convert}")
    return layout


def describe(folder: Path, layout: Layout) -> None:
    """Print the notes on a folder's layout, each once in a process."""
    for note in layout.notes:
        say_once(f"{folder.name}: {note}", folder)


def _files(
    folder: str, name: Name = (), parents: tuple[str, ...] = ()
) -> Iterator[tuple[Name, str]]:
    """Yield the name of each visible file, with `IMAGE` or, if it is not one, its suffix.

    Links are followed, except to a parent folder. Training runs inside the folder are ignored.
    """
    target = os.path.realpath(folder)
    try:
        entries = [] if target in parents else list(filter(_is_visible, os.listdir(folder)))
    except OSError as error:
        print(f"skipped {printable(folder)}: {error.strerror}")
        return
    if name and RUN in entries:
        say_once(f"{'/'.join(name)}: skipped, because it holds a training run", folder)
        return
    for entry in entries:
        path, suffix = os.path.join(folder, entry), os.path.splitext(entry)[1].lower()
        if suffix in SUFFIXES and os.path.isfile(path):
            yield (*name, entry), IMAGE
        elif os.path.isdir(path):
            yield from _files(path, (*name, entry), (*parents, target))
        else:
            kind = "broken link or special file" if suffix in SUFFIXES else suffix or "no suffix"
            yield (*name, entry), kind


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in IGNORED


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _lines(folder: Path, files: Labelled) -> Iterator[str]:
    """Name, label, size and modification time of each file, without the folder's own path."""
    for name, label in files:
        stat = folder.joinpath(*name).stat()
        yield f"{'/'.join(name)}\0{label}\0{stat.st_size, stat.st_mtime_ns}\n"


def _decode_all(folder: Path, files: Labelled, size: int, fit: str) -> Chunks:
    """Decode in threads; skip and count the files that cannot be, and name the first few.

    Raises:
        OSError: a file cannot be read for another reason, such as a lost drive.
    """
    from tqdm.auto import tqdm

    def read(file: tuple[Name, int]) -> np.ndarray | NotAnImage:
        try:
            return decode(folder.joinpath(*file[0]), size, fit)
        except NotAnImage as reason:
            return reason

    skipped = 0
    bar = tqdm(total=len(files), desc=f"reading {printable(folder.name)}", unit=" images")
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for k in range(0, len(files), _CHUNK):
            chunk = files[k : k + _CHUNK]
            for (name, label), image in zip(chunk, pool.map(read, chunk), strict=True):
                bar.update()
                if not isinstance(image, NotAnImage):
                    yield image[None], np.array([label])
                    continue
                skipped += 1
                if skipped <= LISTED:
                    bar.write(f"skipped {printable('/'.join(name))}: {image}")
    if skipped:
        named = f" (the first {LISTED} are named)" if skipped > LISTED else ""
        print(f"{printable(folder.name)}: {skipped:,} of {len(files):,} files could not be decoded "
              f"and were skipped{named}")  # fmt: skip
