"""User paths, and atomic writes: a reader never sees a partial file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """Make a user's path absolute, with `~` replaced by the home folder.

    Symbolic links are not resolved.
    """
    return Path(os.path.abspath(os.path.expanduser(path)))


def write_atomic(path: Path, content: bytes) -> None:
    """Replace the content of a file atomically, and flush it to the disk.

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
        raise OSError(f"cannot write {path}: {error.strerror}; the old file is kept") from error
    return temporary


def flush_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that the names of new files survive a power cut.

    Some drives cannot do this (FUSE, network drives): they write the names a little later.
    """
    if os.name == "posix":
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def megabytes(count: int) -> str:
    """Format a number of bytes, such as "1.5 MB"."""
    return f"{count / 1e6:,.1f} MB"


def prepare_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder if it does not exist, and check that it is writable.

    Raises:
        OSError: the folder is not writable; the message names it.
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
