"""The cache folder: its locks, a temporary folder in its place, and the removal of old caches."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddpm_helpers.files import prepare_folder

from .say import printable


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock between processes; the system releases it if this process is killed.

    Args:
        path: path of the lock file.
        doing: description of the work, printed by processes that wait for the lock.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    for kind, file in ((FileLock, path), (SoftFileLock, path.with_suffix(".softlock"))):
        lock = kind(file)
        with suppress(NotImplementedError):  # the drive does not support file locks
            try:
                lock.acquire(timeout=0.5)
            except Timeout:
                print(printable(f"another process is {doing}: waiting for {file}"), flush=True)
                lock.acquire()
            break
    try:
        yield
    finally:
        lock.release()


def writable(cache_dir: Path) -> Path:
    """Make the folder and return it; if it is not writable, say so and return a temporary one."""
    try:
        return prepare_folder(cache_dir)
    except OSError as error:
        temporary = temporary_folder()
        print(printable(f"{error}; set DDPM_CACHE to a writable one; until then images are kept in "
                        f"{temporary}"), flush=True)  # fmt: skip
        return temporary


def temporary_folder() -> Path:
    """The user's subfolder of the temporary folder; a new one if others can write to it."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / "ddpm_helpers"
    folder = Path(tempfile.gettempdir()) / f"ddpm_helpers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="ddpm_helpers-"))
    return folder


def remove_older(path: Path) -> None:
    """Remove the caches of the same folder and settings that were made before its images changed.

    A process that has such a cache open can keep using it if the operating system allows it.
    """
    origin = _origin(path.with_suffix(".json"))
    for manifest in path.parent.glob("*.json") if origin else ():
        if manifest.stem != path.stem and _origin(manifest) == origin:
            with suppress(OSError):
                manifest.with_suffix(".npy").unlink(missing_ok=True)
                manifest.unlink()  # last: while it exists, the next call tries again


def _origin(manifest: Path) -> str:
    """The folder, fit, split and shape of a cache, as a text; empty if it is not of a folder."""
    try:
        values = json.loads(manifest.read_text(encoding="utf-8"))
        return values["origin"] and f"{values['origin']} {values['key']['shape']}"
    except (OSError, ValueError, LookupError, TypeError):  # not one of our manifests
        return ""
