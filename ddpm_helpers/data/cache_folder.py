"""The cache folder: its locks, and a temporary folder in its place."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddpm_helpers.files import prepare_folder

from .say import say


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock between processes; the system releases it if this process is killed.

    Args:
        path: path of the lock file.
        doing: description of the work, printed by processes that wait for the lock.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        say(f"another process is {doing}: waiting for {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def writable(cache_dir: Path) -> Path:
    """Make the folder and return it; if it is not writable, say so and return a temporary one."""
    try:
        return prepare_folder(cache_dir)
    except OSError as error:
        folder = temporary_folder()
        say(f"{error}; set DDPM_CACHE to a writable one; until then images are kept in {folder}")
        return folder


def temporary_folder() -> Path:
    """The user's subfolder of the temporary folder; a new one if it belongs to somebody else."""
    user = os.getuid() if hasattr(os, "getuid") else 0  # as st_uid is on Windows
    folder = Path(tempfile.gettempdir()) / f"ddpm_helpers-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid == user:
        return folder
    return Path(tempfile.mkdtemp(prefix="ddpm_helpers-"))
