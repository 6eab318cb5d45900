"""The trained weights that come with the package, and their quality during training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MANIFEST = HERE / "manifest.json"


def available_weights() -> dict[str, dict[str, Any]]:
    """Return the shipped weights: name -> manifest entry (file, sha256, data, steps, quality …)."""
    return json.loads(MANIFEST.read_text(encoding="utf-8"))


def shipped_ladder(name: str = "cartoons") -> dict[str, Any]:
    """Load the quality of the weights after several numbers of epochs of one training run.

    Args:
        name: cartoons or cifar10-64.
    Returns:
        `n`, `options` of the sampler, `noise_floor` and `rungs`, an entry for each measured epoch.
    """
    return json.loads((HERE / f"ladder_{name}.json").read_text(encoding="utf-8"))
