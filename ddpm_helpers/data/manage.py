"""List, verify and clear the caches in the cache folder."""

import json
import re
from pathlib import Path
from typing import Any

from ddpm_helpers.files import megabytes

from . import cache

IN_USE = "in use"
_NAME = r"[a-z0-9]+-\d+-[0-9a-f]{16}"


def places(folder: Path) -> list[Path]:
    """The cache folder, and the temporary one if it holds caches."""
    stand_in = cache.temporary_folder()
    return [folder, stand_in] if stand_in != folder and caches(stand_in) else [folder]


def caches(folder: Path) -> list[Path]:
    """The picture files of all caches in a folder, sorted."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the cache folder {folder} is a file; set DDPM_CACHE to a folder")
    return sorted(p for p in folder.glob("*.npy") if re.fullmatch(_NAME, p.stem))


def show(folder: Path) -> None:
    """Print a line for the folder, then one for each cache."""
    found = caches(folder)
    hint = "" if found else "; `ddpm data cartoons` makes one"
    print(f"{folder}: {len(found)} caches{hint}")
    for path in found:
        print(f"  {megabytes(path.stat().st_size):>11}  {path.name}")


def verify(folder: Path) -> None:
    """Check every checksum and remove the damaged caches.

    Raises:
        ValueError: at least one was damaged.
    """
    found, damaged, removed = caches(folder), 0, 0
    print(f"{folder}: {len(found)} caches")
    for path in found:
        whole = cache.read(path, thorough=True) is not None
        state, size = "whole" if whole else "damaged", megabytes(path.stat().st_size)
        print(f"  {state:<7}  {size:>11}  {path.name}", flush=True)
        if not whole:
            reason = _remove(path)
            print(f"  not removed ({reason})" if reason else "  removed")
            damaged, removed = damaged + 1, removed + (not reason)
    if damaged:
        raise ValueError(
            f"{damaged} of {len(found)} caches were damaged and {removed} of those removed; "
            "each is made again when it is next opened"
        )


def clear(folder: Path) -> None:
    """Remove every cache that no process is writing; downloads and other files stay."""
    found, refused = caches(folder), 0
    freed = sum(path.stat().st_size for path in found)
    for path in found:
        if reason := _remove(path):
            freed -= path.stat().st_size
            refused += reason != IN_USE
            print(f"  {reason}, kept: {path.name}")
    for path in sorted(folder.glob("*.part")):  # what killed processes left
        if re.fullmatch(_NAME + r"(\.\d+)?\.part", path.name):
            _remove(folder / (path.name.split(".")[0] + ".npy"))
    print(f"{folder}: {megabytes(freed)} freed")
    if refused:
        raise OSError(f"{refused} of {len(found)} caches in {folder} could not be removed")


def remove_older(images: Path) -> None:
    """Remove the caches of the same folder and settings from before the folder changed.

    A process that has one open can go on using it, if the operating system allows that.
    """
    settings = _settings(images)
    for other in caches(images.parent):
        if other != images and settings is not None and _settings(other) == settings:
            _remove(other)


def _settings(images: Path) -> dict[str, Any] | None:
    """The part of a manifest that stays when its folder changes; None if there is none."""
    try:
        found = json.loads(images.with_suffix(".json").read_text(encoding="utf-8"))
        changing = ("identity", "filter", "format")
        same = {key: value for key, value in found["key"].items() if key not in changing}
        return same | {"origin": found["origin"]} if found["origin"] else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _remove(images: Path) -> str:
    """Remove one cache's files; return why that failed, empty if it did not."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(images.with_suffix(".lock"), timeout=0):
            for path in sorted(images.parent.glob(images.stem + ".*")):  # the manifest first
                if path.suffix != ".lock":
                    path.unlink()
    except Timeout:
        return IN_USE
    except OSError as error:
        return error.strerror or str(error)
    return ""
