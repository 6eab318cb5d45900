"""Paths that a user names, and atomic writes: a reader never sees half of a file."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, absolute, with `~` replaced by the home folder.

    Links are kept: the path is not resolved.
    """
    return Path(os.path.abspath(os.path.expanduser(path)))


def write_atomic(path: Path, content: bytes) -> None:
    """Replace the content of a file, flushed to the disk.

    Raises:
        OSError: the disk is full or cannot be written; the old file is untouched.
    """
    os.replace(write_temporary(path, content), path)
    flush_folder(path.parent)


def write_temporary(path: Path, content: bytes) -> Path:
    """Write `path`.tmp, which the caller renames; if that fails, remove it and raise OSError."""
    temporary = path.with_name(path.name + ".tmp")  # on the same disk, or os.replace would copy
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        why = not_written(path, len(content), error)
        raise OSError(f"{why}; the old file is untouched") from error
    return temporary


def flush_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that the names of new files survive a power cut too.

    Not every drive can do that (FUSE, network drives): the names are then written a little later.
    """
    if os.name == "posix":
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def not_written(path: Path, needed: int, error: OSError) -> str:
    """One line that names the file, the reason, and the bytes needed and free."""
    free = megabytes(shutil.disk_usage(path.parent).free)
    reason = f"({error.strerror}): it needs {megabytes(needed)}, {free} are free"
    return f"{path} was not written {reason}"


def megabytes(count: int) -> str:
    """A number of bytes as text, such as "1.5 MB"."""
    return f"{count / 1e6:,.1f} MB"


def prepare_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, and check that files can be written into it.

    Raises:
        OSError: they cannot; the message names the folder.
    """
    folder = user_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"cannot write to the folder {folder}: {error.strerror}") from error
    return folder
