"""What lies in the cache folder: listing it, checking it, emptying it."""

import re
from pathlib import Path

from . import cache

_NAME = r"[a-z0-9]+-\d+-[0-9a-f]{16}"


def caches(folder: Path) -> list[Path]:
    """The picture files of all caches in a folder, sorted."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(_NAME + r"\.npy", p.name))


def listing(folder: Path) -> str:
    """One line for each cache, under one for the folder."""
    found = caches(folder)
    hint = "" if found else "; `ddpm data cartoons` makes one"
    lines = [f"{folder}: {len(found)} caches{hint}"]
    return "\n".join(lines + [f"  {_megabytes(path)}  {path.name}" for path in found])


def verify(folder: Path) -> None:
    """Read every checksum; remove what is damaged, so that it is made again when it is asked for.

    Raises:
        ValueError: at least one cache was damaged.
    """
    found, damaged = caches(folder), 0
    print(f"{folder}: {len(found)} caches")
    for path in found:
        whole = cache.read(path, path.with_suffix(".json"), thorough=True) is not None
        print(f"  {'whole  ' if whole else 'damaged'}  {_megabytes(path)}  {path.name}", flush=True)
        if not whole:
            damaged += 1
            _remove(path)
    if damaged:
        raise ValueError(
            f"{damaged} of {len(found)} caches were damaged and removed; "
            "each is made again when it is next opened"
        )


def clear(folder: Path) -> None:
    """Remove every cache that no process is making; downloads and other files stay."""
    found = caches(folder)
    freed = sum(path.stat().st_size for path in found)
    for path in found:
        if not _remove(path):
            freed -= path.stat().st_size
            print(f"  in use, kept: {path.name}")
    for path in sorted(folder.glob("*.part")):  # what killed processes left
        if re.fullmatch(_NAME + r"(\.\d+)?\.part", path.name):
            _remove(folder / (path.name.split(".")[0] + ".npy"))
    print(f"{folder}: {freed / 1e6:.1f} MB freed")


def _remove(images: Path) -> bool:
    """Remove one cache's files, False where a process holds them."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(images.with_suffix(".lock"), timeout=0):
            for path in sorted(images.parent.glob(images.stem + ".*")):  # the manifest first
                if path.suffix != ".lock":
                    path.unlink()
    except (Timeout, PermissionError):
        return False
    return True


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:8.1f} MB"
