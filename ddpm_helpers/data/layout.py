"""Find the splits, classes and labels of a folder from its image names alone."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
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

    classes: tuple[str, ...]
    train: Labelled
    test: Labelled
    notes: list[str]


def find_layout(names: Iterable[Name]) -> Layout:
    """Find splits and classes from the names of a folder's images.

    A folder that contains nothing but one other folder is passed through. `train` and one of `TEST`
    beside it are splits. All other folders are classes. If no test split has a class of `train`,
    about a tenth of each class is held out for testing.
    """
    images, notes = sorted(names), list[str]()
    top = _descend(images, 0, notes)  # the number of folders above the splits or classes
    splits = _split_folders({name[top] for name in images if len(name) > top + 1})
    parts, depths = [images], [top]
    if splits:
        parts = [[name for name in images if name[top] == split] for split in splits]
        depths = [_descend(part, top + 1, notes, part[0][top]) for part in parts]
    classes = _classes(parts[0], depths[0], notes)
    layout = Layout(classes, _label(parts[0], depths[0], classes, notes), [], notes)
    for split, part, depth in zip(splits[1:], parts[1:], depths[1:], strict=True):
        shared = {_folder(name, depth) for name in part} & set(classes)
        if not layout.test and (shared or classes == ONE_CLASS):
            layout.test = _label(part, depth, classes, notes)
            notes.append(f"{split}/ is the test split")
        else:
            why = "" if layout.test else ", because it has no class of the train split"
            notes.append(f"{split}/ ({count(len(part))}) is not used{why}")
    if not layout.test:
        _hold_out(layout, depths[0])
    if rest := len(images) - sum(map(len, parts)):
        notes.append(f"left out {count(rest)} beside {splits[0]}/")
    return layout


def _descend(names: list[Name], top: int, notes: list[str], split: str = "") -> int:
    """Go down from depth `top` to the folder that holds the classes, and return its depth.

    A folder with nothing beside it is passed through if it is called "images" or has the name of
    its split. Outside the splits, also if it is called "train" or contains only folders.
    """
    depth = top
    while all(len(name) > depth + 1 for name in names):
        folders = {name[depth] for name in names}
        holds_folders = not split and all(len(name) > depth + 2 for name in names)
        passed = ("images", (split or "train").casefold())
        if len(folders) > 1 or not (holds_folders or names[0][depth].casefold() in passed):
            break
        depth += 1
    if depth > top:
        notes.append(f"descended into {'/'.join(names[0][top:depth])}/")
    return depth


def _folder(name: Name, depth: int) -> str:
    """The folder of an image at `depth`; empty if the image lies beside the folders."""
    return class_name(name[depth]) if len(name) > depth + 1 else ""


def _classes(names: list[Name], depth: int, notes: list[str]) -> tuple[str, ...]:
    """The class folders; none if most images lie beside them, as in an album with a subfolder."""
    found = [_folder(name, depth) for name in names]
    folders, loose = sorted(set(found) - {""}), found.count("")
    if folders and 2 * loose > len(names):
        notes.append(
            f"{loose:,} of {count(len(names))} lie beside the folders ({', '.join(folders[:3])}), "
            "so all are one class; for classes, move each into the folder of its class"
        )
        return ONE_CLASS
    return tuple(folders) or ONE_CLASS


def _label(names: list[Name], depth: int, classes: tuple[str, ...], notes: list[str]) -> Labelled:
    """Label images by their folder at `depth`; without classes all labels are 0."""
    if classes == ONE_CLASS:
        return [(name, 0) for name in names]
    number = {key: k for k, key in enumerate(classes)}
    found = [(name, _folder(name, depth)) for name in names]
    unknown = [folder for _, folder in found if folder and folder not in number]
    if loose := sum(not folder for _, folder in found):
        notes.append(
            f"left out {count(loose)} beside the class folders; "
            "move them into the folder of their class"
        )
    if unknown:
        notes.append(
            f"left out {count(len(unknown))} of classes that train lacks: "
            f"{', '.join(sorted(set(unknown)))}"
        )
    return [(name, number[folder]) for name, folder in found if folder in number]


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


def _hold_out(layout: Layout, depth: int) -> None:
    """Move about a tenth of each class, the images with the smallest hashes, to the test split.

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
