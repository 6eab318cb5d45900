"""Check that packages are installed, and write folders atomically."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_installed(what: str, *packages: str) -> None:
    """Check that packages are installed.

    Raises:
        ValueError: packages are missing; the message has the command that installs them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{what} needs {', '.join(missing)}: pip install {' '.join(missing)}, "
            'or pip install -e ".[export]"'
        )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to `path` when the block ends without an error.

    Raises:
        FileExistsError: `path` exists and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists already: name a new folder, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        beside.chmod(0o755)  # other users cannot open mkdtemp's folders
        yield beside
        beside.replace(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
