"""List, clear and replace the caches in a cache folder."""

import json
import re
from contextlib import suppress
from pathlib import Path

from ddpm_helpers.files import megabytes

from . import cache

IN_USE = "in use"


def places(folder: Path) -> list[Path]:
    """The cache folder, and the temporary one if it holds caches."""
    temporary = cache.temporary_folder()
    return [folder, temporary] if temporary != folder and caches(temporary) else [folder]


def caches(folder: Path, kind: str = "npy") -> list[Path]:
    """The caches in a folder, sorted; with kind "part", what killed processes left."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the cache folder {folder} is a file; set DDPM_CACHE to a folder")
    name = re.compile(rf"[a-z0-9]+-\d+-[0-9a-f]{{16}}(\.ordered)?\.{kind}")
    return sorted(path for path in folder.glob(f"*.{kind}") if name.fullmatch(path.name))


def show(folder: Path) -> None:
    """Print a line for the folder, then one for each cache."""
    found = caches(folder)
    hint = "" if found else "; `ddpm data cartoons` makes one"
    print(f"{folder}: {len(found)} caches{hint}")
    for path in found:
        print(f"  {megabytes(path.stat().st_size):>11}  {path.name}")


def clear(folder: Path) -> None:
    """Remove every cache that no process is writing; downloads and other files stay."""
    found, freed, refused = caches(folder), 0, 0
    for path in found + caches(folder, "part"):
        size = path.stat().st_size if path.exists() else 0
        if reason := _remove(path.with_name(path.name.split(".")[0] + ".npy")):
            refused += reason != IN_USE
            print(f"  {reason}, kept: {path.name}")
        else:
            freed += size
    print(f"{folder}: {megabytes(freed)} freed")
    if refused:
        raise OSError(f"{refused} of {len(found)} caches in {folder} could not be removed")


def remove_older(path: Path, origin: str) -> None:
    """Remove the caches of the same source and settings that were made before its images changed.

    A process that has one of them open can continue to use it, if the operating system allows it.
    """
    if not origin:
        return
    for other in caches(path.parent):
        with suppress(OSError, ValueError, LookupError, TypeError):  # not a manifest: another's
            found, mine = (
                json.loads(p.with_suffix(".json").read_text(encoding="utf-8"))
                for p in (other, path)
            )
            same = found["origin"] == origin and found["key"]["shape"] == mine["key"]["shape"]
            if other != path and same:
                _remove(other)


def _remove(path: Path) -> str:
    """Remove one cache's files; return why that failed, empty if it did not."""
    from filelock import Timeout

    try:
        with cache.locked(path.with_suffix(".lock"), ""):
            for file in sorted(path.parent.glob(path.stem + ".*")):  # the manifest first
                if file.suffix != ".lock":
                    file.unlink()
    except Timeout:
        return IN_USE
    except OSError as error:
        return error.strerror or str(error)
    return ""
