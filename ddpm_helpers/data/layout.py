"""Find the splits, classes and labels of a folder from its image names alone."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from ddpm_helpers.checks import class_name

from .say import count

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first one with classes is used
HELD_OUT = 10  # without a test split, hold out one image in this many
ONE_CLASS = ("images",)  # the class of unlabelled data, whatever its folder is called

Name = tuple[str, ...]  # the parts of an image's path below the folder
Labelled = list[tuple[Name, int]]


@dataclass
class Layout:
    """The splits and classes of a folder's images, as `find_layout` returns them.

    Attributes:
        classes: names of the class folders, sorted; `ONE_CLASS` if there are none.
        train, test: the images of each split with their labels, indices into `classes`.
        notes: lines to print for the user.
    """

    classes: tuple[str, ...] = ONE_CLASS
    train: Labelled = field(default_factory=list)
    test: Labelled = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_layout(names: Iterable[Name]) -> Layout:
    """Find splits and classes from the names of a folder's images.

    A folder that only contains another folder is skipped. `train` and one of `TEST` beside it are
    splits. If no test split has a class of `train`, a tenth of every class is held out for testing.
    Other folders are classes.
    """
    layout, images = Layout(), sorted(names)
    depth = _descend(layout, images, 0)  # the number of folders above the splits or classes
    splits = _split_folders({name[depth] for name in images if len(name) > depth + 1})
    parts = {}
    for split in splits:
        part = [name for name in images if name[depth] == split]
        parts[split] = part, _descend(layout, part, depth + 1, split)
    train, train_depth = parts.pop(splits[0]) if splits else (images, depth)
    layout.classes = _classes(layout, train, train_depth)
    layout.train = _label(layout, train, train_depth)
    if not _use_test(layout, parts):
        _hold_out(layout, train_depth)
    if splits and (rest := sum(name[depth] not in splits for name in images)):
        layout.notes.append(f"left out {count(rest)} beside {splits[0]}/")
    return layout


def _descend(layout: Layout, names: list[Name], depth: int, split: str | None = None) -> int:
    """Go down from `depth` to the folder that holds the classes, and return its depth.

    A single folder is passed if it is called "images" or like its split. Outside of the splits, it
    is also passed if it is called "train" or holds folders only.
    """
    wrappers: list[str] = []
    while all(len(name) > depth + 1 for name in names):
        folders = {name[depth] for name in names}
        if len(folders) != 1:
            break
        (folder,) = folders
        holds_folders = split is None and all(len(name) > depth + 2 for name in names)
        if not holds_folders and folder.casefold() not in ("images", (split or "train").casefold()):
            break
        wrappers.append(folder)
        depth += 1
    if wrappers:
        layout.notes.append(f"descended into {'/'.join(wrappers)}/")
    return depth


def _classes(layout: Layout, names: list[Name], depth: int) -> tuple[str, ...]:
    """The class folders; none if most images lie beside them, as in an album with a subfolder."""
    folders = _class_folders(names, depth)
    loose = sum(len(name) == depth + 1 for name in names)
    if folders and 2 * loose > len(names):
        layout.notes.append(
            f"{loose:,} of {count(len(names))} lie beside the folders ({', '.join(folders[:3])}), "
            "so all are one class; for classes, move each into the folder of its class"
        )
        return ONE_CLASS
    return folders or ONE_CLASS


def _class_folders(names: list[Name], depth: int) -> tuple[str, ...]:
    return tuple(sorted({class_name(name[depth]) for name in names if len(name) > depth + 1}))


def _split_folders(folders: set[str]) -> list[str]:
    """The folder of the train split, then those of test splits in the order of `TEST`.

    Their names differ only in the word for the split, like train_set and test_set. The list is
    empty if the train folder or all test folders are missing.
    """
    candidates = []
    for folder in folders:
        words = re.findall(r"[^\W\d_]+", folder.casefold())
        for role, word in enumerate((*TRAIN, *TEST)):
            if word in words:
                words.remove(word)
                candidates.append((len(words), role, folder, words))
                break
    candidates.sort()
    for _, role, train, rest in candidates:
        tests = [name for _, k, name, words in candidates if k >= len(TRAIN) and words == rest]
        if role < len(TRAIN) and tests:
            return [train, *tests]
    return []


def _use_test(layout: Layout, parts: dict[str, tuple[list[Name], int]]) -> bool:
    """Label the first test split that has a class of the train split, if there is one."""
    test = None
    for split, (names, depth) in parts.items():
        shared = set(_class_folders(names, depth)) & set(layout.classes)
        if test is None and (shared or layout.classes == ONE_CLASS):
            test, layout.test = split, _label(layout, names, depth)
            layout.notes.append(f"{split}/ is the test split")
        else:
            why = "" if test else ", because it has no class of the train split"
            layout.notes.append(f"{split}/ ({count(len(names))}) is not used{why}")
    return test is not None


def _label(layout: Layout, names: list[Name], depth: int) -> Labelled:
    """Label images by their folder at `depth`; without classes all labels are 0."""
    if layout.classes == ONE_CLASS:
        return [(name, 0) for name in names]
    number = {key: k for k, key in enumerate(layout.classes)}
    inside = [name for name in names if len(name) > depth + 1]
    known = [name for name in inside if class_name(name[depth]) in number]
    if loose := len(names) - len(inside):
        layout.notes.append(
            f"left out {count(loose)} beside the class folders; "
            "move them into the folder of their class"
        )
    if unknown := sorted(set(_class_folders(names, depth)) - number.keys()):
        layout.notes.append(
            f"left out {count(len(inside) - len(known))} of classes that train lacks: "
            f"{', '.join(unknown)}"
        )
    return [(name, number[class_name(name[depth])]) for name in known]


def _hold_out(layout: Layout, depth: int) -> None:
    """Move a tenth of every class, the images with the smallest hashes, to the test split.

    Only the name below the first `depth` folders is hashed, so the split stays the same when the
    folder is moved or renamed. Every class keeps at least one image for training.
    """
    files = sorted(layout.train, key=lambda file: (file[1], _hash(file[0][depth:]), file))
    start = 0
    for _, group in groupby(files, key=lambda file: file[1]):
        members = list(group)
        end = start + len(members)  # rounding the running sum makes the total a tenth of all images
        tenth = end // HELD_OUT - start // HELD_OUT
        layout.test += members[: min(tenth, len(members) - 1)]
        start = end
    held_out = set(layout.test)
    layout.test.sort(key=lambda file: (file[1], file[0]))
    layout.train = [file for file in layout.train if file not in held_out]
    if held_out:
        layout.notes.append(
            f"no test split: held out {len(held_out):,} of {count(len(files))} as one, chosen by a "
            "hash of their names"
        )


def _hash(name: Name) -> bytes:
    """Hash of a name; it does not depend on how the file system stores accents."""
    return hashlib.sha256(class_name("/".join(name)).encode()).digest()
