"""Configuration files, and what a run's configuration file says about its data."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from ddpm_helpers import checks

DATA_FIELDS = {"source": str, "root": str, "fit": str}  # what opens a run's data again


def data_settings(path: str | Path) -> dict[str, Any]:
    """What a run's `config.toml` says about its data: arguments of `ImageDataset`.

    Returns:
        Some of `source`, `root` and `fit`; an empty dict if the file has no table `data`.
    Raises:
        FileNotFoundError, ValueError: as for `TrainConfig.load`.
    """
    path = Path(path)
    values = read_table(path).get("data", {})
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: data must be a table, got {values!r}")
    for name, value in values.items():
        checks.one_of(f"field of data in {path.name}", name, DATA_FIELDS)
        if type(value) is not DATA_FIELDS[name]:
            kind = DATA_FIELDS[name].__name__
            raise ValueError(f"{path.name}: {name} must be of type {kind}, got {value!r}")
    return values


def data_of_run(weights: str | Path) -> dict[str, Any]:
    """`data_settings` of the run that weights belong to; empty for weights outside of a run.

    Args:
        weights: a run's folder, or a file in it. A folder without `history.jsonl` is not one, and
            its `config.toml` may belong to another program.
    """
    path = Path(weights).expanduser()
    folder = path if path.is_dir() else path.parent
    files = folder / "config.toml", folder / "history.jsonl"
    return data_settings(files[0]) if path.exists() and all(f.is_file() for f in files) else {}


def data_table(values: dict[str, Any]) -> str:
    """The table `data` in TOML, which `data_settings` reads back."""
    lines = [f"{name} = {json.dumps(v, ensure_ascii=False)}\n" for name, v in values.items()]
    return "\n[data]\n" + "".join(lines) if lines else ""


def read_table(path: Path) -> dict[str, Any]:
    """The content of a .toml or .json file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file extension, or neither TOML nor JSON.
    """
    readers = {".toml": tomllib.loads, ".json": json.loads}
    if path.suffix not in readers:
        raise ValueError(f"a configuration file must end in .toml or .json, got {path.name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}")
    try:
        return readers[path.suffix](path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # both readers raise it
        raise ValueError(f"{path} cannot be read: {error}") from error
