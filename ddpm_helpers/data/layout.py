"""Find the splits, classes and labels of a folder from its image names alone."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from ddpm_helpers.checks import class_name

from .say import count

TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first one with labels is used
IMAGES = {"image", "images", "img", "imgs", "jpegimages"}
ANNOTATIONS = re.compile(r"(ground_?truth|gt|mask|label|annotation|segmentation|trimap)", re.I)
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
    splits; if none of `TEST` has labels, a tenth of every class is held out for testing. Other
    folders are classes, except `images` beside masks or annotations.
    """
    layout = Layout()
    top, inside = _descend((), sorted(names), layout.notes)
    keys = _split_folders({name[0] for name in inside if len(name) > 1})
    splits = {
        key: _descend((*top, key), [n[1:] for n in inside if n[0] == key], layout.notes, key)
        for key in keys
    }
    below = inside
    if keys:
        top, below = splits.pop(keys[0])
    layout.classes = _classes(layout, below)
    layout.train = _label(layout, top, below)
    if not _find_test(layout, splits):
        _hold_out(layout, len(top))
    if keys and (rest := sum(name[0] not in keys for name in inside)):
        layout.notes.append(f"left out {count(rest)} beside {keys[0]}/")
    return layout


def _classes(layout: Layout, names: list[Name]) -> tuple[str, ...]:
    """The class folders; none if most images lie beside them, as in an album with a subfolder."""
    found = _class_folders(names)
    loose = sum(len(name) == 1 for name in names)
    if found and 2 * loose > len(names):
        layout.notes.append(
            f"{loose:,} of {count(len(names))} lie beside the folders ({', '.join(found[:3])}), so "
            "all are one class; for classes, move each into the folder of its class"
        )
        return ONE_CLASS
    return found or ONE_CLASS


def _class_folders(names: list[Name]) -> tuple[str, ...]:
    return tuple(sorted({class_name(name[0]) for name in names if len(name) > 1}))


def _split_folders(folders: set[str]) -> list[str]:
    """The folder of the train split, then those of test splits in the order of `TEST`.

    Their names differ only in the word for the split, like train_set and test_set. The list is
    empty if the train folder or all test folders are missing.
    """
    found = []
    for folder in folders:
        words = re.findall(r"[^\W\d_]+", folder.casefold())
        for role, word in enumerate((*TRAIN, *TEST)):
            if word in words:
                words.remove(word)
                found.append((len(words), role, folder, words))
                break
    found.sort()
    for _, role, train, rest in found:
        tests = [name for _, k, name, words in found if k >= len(TRAIN) and words == rest]
        if role < len(TRAIN) and tests:
            return [train, *tests]
    return []


def _descend(
    top: Name, names: list[Name], notes: list[str], split: str | None = None
) -> tuple[Name, list[Name]]:
    """Go down to the folder that holds the classes.

    A single folder is a wrapper if it is named like the split (train, outside of splits), and
    outside of splits also if it holds folders only.

    Returns:
        The folder that was reached, and the names below it.
    """
    wrappers = []
    while names and all(len(name) > 1 for name in names):
        folders = sorted({name[0] for name in names})
        others = [key for key in folders if key.casefold() not in IMAGES]
        if len(folders) == len(others) + 1 and all(map(ANNOTATIONS.match, others)):
            (down,) = set(folders) - set(others)
            if left_out := sum(name[0] != down for name in names):
                notes.append(f"left out {count(left_out)} in {', '.join(others)} beside {down}/")
        elif len(folders) == 1 and (
            folders[0].casefold() == (split or "train").casefold()
            or (split is None and all(len(name) > 2 for name in names))
        ):
            down = folders[0]
            wrappers.append(down)
        else:
            break
        top, names = (*top, down), [name[1:] for name in names if name[0] == down]
    if wrappers:
        notes.append(f"descended into {'/'.join(wrappers)}/")
    return top, names


def _find_test(layout: Layout, splits: dict[str, tuple[Name, list[Name]]]) -> bool:
    """Use the first test split that has labels; return whether there is one."""
    used = False
    for key, (top, names) in splits.items():
        if used:
            layout.notes.append(f"{key}/ ({count(len(names))}) is not used")
        elif layout.classes != ONE_CLASS and not _class_folders(names):
            layout.notes.append(
                f"{key}/ has {count(len(names))} and no class folders, so no labels: not used"
            )
        else:
            used = True
            if key.casefold() != "test":
                layout.notes.append(f"{key}/ is the test split")
            layout.test = _label(layout, top, names)
    return used


def _label(layout: Layout, top: Name, names: list[Name]) -> Labelled:
    """Label images by their first folder; without classes all labels are 0, at any depth."""
    if layout.classes == ONE_CLASS:
        return [((*top, *name), 0) for name in names]
    inside = [name for name in names if len(name) > 1]
    if loose := len(names) - len(inside):
        layout.notes.append(
            f"left out {count(loose)} beside the class folders; "
            "move them into the folder of their class"
        )
    number = {key: k for k, key in enumerate(layout.classes)}
    known = [name for name in inside if class_name(name[0]) in number]
    if unknown := sorted(set(_class_folders(inside)) - number.keys()):
        layout.notes.append(
            f"left out {count(len(inside) - len(known))} of classes that train lacks: "
            f"{', '.join(unknown)}"
        )
    return [((*top, *name), number[class_name(name[0])]) for name in known]


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
