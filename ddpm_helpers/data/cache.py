"""Ready pictures on disk: one uint8 .npy, memory-mapped, beside a small JSON manifest.

The name holds a digest of everything that changes a pixel. Files are written beside their place
and moved there, the manifest last, so whoever finds a manifest finds a whole cache. Size, header
and labels are checked whenever it is opened. The pixels' checksum takes a second, so it is read
again only when the file's time of change is another than the one in the manifest; a cache that
fails is made again. `ddpm data verify` reads every checksum.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from .cache_files import Cached, NotWritable, paths, read, refused, write
from .source import Chunks, Source

__all__ = ["Cached", "Chunks", "Source", "load", "open_cache", "paths", "read", "temporary_folder"]


def open_cache(source: Source, size: int, folder: Path) -> Cached | None:
    """Open a ready cache; None where there is none, or one that is not whole."""
    images, manifest, key = paths(source, size, folder)
    return read(images, manifest, key)


def load(source: Source, size: int, folder: Path) -> Cached:
    """Open a source's cache, making it first where there is none.

    Any number of processes may ask at once: one makes it, the others wait and say so. Where the
    folder cannot be written to, a temporary one takes its place.

    Raises:
        OSError: neither can be written to, or the disk is full.
        ValueError: the source holds no pictures.
    """
    if ready := open_cache(source, size, folder):
        return ready  # needs no lock and no right to write
    try:
        return _make(source, size, folder)
    except NotWritable as refused:
        place = temporary_folder()
        print(f"{refused}; until then pictures are kept in {place}", flush=True)
        return _make(source, size, place)


def _make(source: Source, size: int, folder: Path) -> Cached:
    """Wait for the right to write, and write, unless another process did meanwhile."""
    try:
        lock = _lock(source, size, folder)
    except OSError as error:
        raise refused(folder, error) from None
    with lock:
        if not (ready := open_cache(source, size, folder)):
            write(source, size, folder)
            ready = open_cache(source, size, folder)
    if ready is None:
        images = paths(source, size, folder)[0]
        raise OSError(f"the cache {images} was written, but cannot be read back")
    return ready


def _lock(source: Source, size: int, folder: Path) -> Any:
    """The right to write this one cache, for use in `with`; it ends with its process."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths(source, size, folder)[0].with_suffix(".lock"))
    try:
        return lock.acquire(timeout=0.5)
    except Timeout:
        print(f"another process prepares the pictures of {source.name}: waiting", flush=True)
        return lock.acquire()


def temporary_folder() -> Path:
    """A folder of this user alone, the same one every time, below the system's temporary one."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / "ddpm_helpers"
    folder = Path(tempfile.gettempdir()) / f"ddpm_helpers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="ddpm_helpers-"))  # another user was there first
    return folder
