"""List, clear and replace the caches in a cache folder."""

import json
import re
from contextlib import suppress
from pathlib import Path

from ddpm_helpers.files import megabytes

from . import cache
from .say import count

IN_USE = "in use"


def places(folder: Path) -> list[Path]:
    """The cache folder, and also the temporary folder if it holds caches."""
    temporary = cache.temporary_folder()
    return [folder, temporary] if temporary != folder and caches(temporary) else [folder]


def caches(folder: Path, kind: str = "npy") -> list[Path]:
    """The caches in a folder, sorted; with kind "part", files that killed processes left."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the cache folder {folder} is a file; set DDPM_CACHE to a folder")
    name = re.compile(rf"[a-z0-9]+-\d+-[0-9a-f]{{16}}(\.ordered)?\.{kind}")
    return sorted(path for path in folder.glob(f"*.{kind}") if name.fullmatch(path.name))


def show(folder: Path) -> None:
    """Print a line for the folder and a line for each cache."""
    found = caches(folder)
    hint = "" if found else "; `ddpm data cartoons` makes one"
    print(f"{folder}: {count(len(found), 'cache')}{hint}")
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
        raise OSError(f"{refused} of {count(len(found), 'cache')} in {folder} could not be removed")


def remove_older(path: Path, origin: str) -> None:
    """Remove caches of the same source and settings that were made before its images changed.

    A process that has such a cache open can keep using it if the operating system allows it.
    """
    if not origin:
        return
    for other in caches(path.parent):
        with suppress(OSError, ValueError, LookupError, TypeError):  # not one of our manifests
            found, mine = (
                json.loads(p.with_suffix(".json").read_text(encoding="utf-8"))
                for p in (other, path)
            )
            same = found["origin"] == origin and found["key"]["shape"] == mine["key"]["shape"]
            if other != path and same:
                _remove(other)


def _remove(path: Path) -> str:
    """Remove the files of a cache; return the reason if that failed, else an empty string."""
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
