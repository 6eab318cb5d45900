"""Check that packages are installed."""

from __future__ import annotations

import importlib.util


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
