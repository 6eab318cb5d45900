"""Read configuration files, and find the data of a run in its configuration file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

DATA_FIELDS = ("source", "root", "fit")  # arguments that open a run's data again


def data_settings(path: str | Path) -> dict[str, str]:
    """Read the table `data` of a run's `config.toml`: arguments of `ImageDataset`.

    Returns:
        Some of `source`, `root` and `fit`; an empty dict if the file has no table `data`.
    Raises:
        FileNotFoundError, ValueError: as for `TrainConfig.load`.
    """
    path = Path(path)
    values = read_table(path).get("data", {})
    known = isinstance(values, dict) and set(values) <= set(DATA_FIELDS)
    if not known or not all(isinstance(value, str) for value in values.values()):
        fields = ", ".join(DATA_FIELDS)
        raise ValueError(f"{path.name}: data must be a table of strings {fields}; got {values!r}")
    return values


def data_of_run(weights: str | Path) -> dict[str, Any]:
    """Read the `data_settings` of the run that contains the weights; empty if there is no run.

    Args:
        weights: a run's folder, or a file in it. A folder without `history.jsonl` is not a
            run; its `config.toml` may belong to another program.
    """
    path = Path(weights).expanduser()
    folder = path if path.is_dir() else path.parent
    files = folder / "config.toml", folder / "history.jsonl"
    return data_settings(files[0]) if path.exists() and all(f.is_file() for f in files) else {}


def data_table(values: dict[str, Any]) -> str:
    """Write the table `data` in TOML, which `data_settings` reads back."""
    lines = [f"{name} = {json.dumps(v, ensure_ascii=False)}\n" for name, v in values.items()]
    return "\n[data]\n" + "".join(lines) if lines else ""


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
