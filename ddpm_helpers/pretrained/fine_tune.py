"""Fine-tuning: train a network with stored weights on other images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddpm_helpers.checks import class_name
from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import Network
from ddpm_helpers.pretrained.weights import load_pretrained


def fine_tune_model(
    name_or_path: str | Path,
    classes: Sequence[str] | None = None,
    *,
    say: Callable[[str], object] = print,
) -> tuple[Network, DiffusionUtils]:
    """Load a network to fine-tune, with one label embedding row for each class of the new data.

    A class keeps its row if the weights know its name, or if both the weights and the data have
    a single class. A new class starts as a copy of the row for "no label", so at first it draws the
    same images as without a class. All other weights, and the row for "no label", are kept.

    Args:
        name_or_path: as for `load_pretrained`.
        classes: names of the new data's classes, in the order of their labels, such as
            `ds.classes`; None for a network that takes no labels.
        say: called with a line about the rows that were kept; print by default.
    Returns:
        The network, ready to train, and the `DiffusionUtils` that it was trained with.
    Raises:
        FileNotFoundError, ValueError: as for `load_pretrained`.
    """
    model, diffusion = load_pretrained(name_or_path)
    say(f"weights {name_or_path}: {set_classes(model, classes)}")
    return model.requires_grad_(True).train(), diffusion


def set_classes(model: Network, classes: Sequence[str] | None) -> str:
    """Replace a network's label embedding, in place.

    Args:
        model: the network; if it has no class names, class numbers are used.
        classes: names of the new classes; None removes the embedding, and the network then draws
            the same images as for "no label".
    Returns:
        A line that says which rows were kept, and which are new.
    """
    numbers = range(model.num_classes or 0)
    known = list(map(class_name, model.classes if model.classes and numbers else numbers))
    names = list(map(class_name, classes or ()))
    if len(known) == len(names) == 1:  # a single class fits, whatever its name
        known = names
    # Row 0 is "no label". A row of zeros adds nothing, so the outputs stay the same.
    rows = torch.zeros(1, model.time.dim) if model.label is None else model.label.weight.detach()
    if classes is None:
        last: Any = model.time.mlp[-1]
        last.bias.data += rows[0]
        model.label = None
    else:
        place = {name: k + 1 for k, name in enumerate(known)}
        table = rows[[0, *(place.get(name, 0) for name in names)]]  # (len(classes) + 1, t_dim)
        model.label = nn.Embedding.from_pretrained(table, freeze=False)
    model.num_classes = model.config["num_classes"] = None if classes is None else len(names)
    model.classes = tuple(names)
    groups = {
        "kept": [name for name in names if name in known],
        "new": [name for name in names if name not in known],
        "left out": [name for name in known if name not in names],
    }
    said = [f"{how}: {len(group)} ({', '.join(group)})" for how, group in groups.items() if group]
    return "labels " + ", ".join(said) if said else "no labels"


def config_for_weights(name_or_path: str | Path, config: TrainConfig) -> TrainConfig:
    """Copy a configuration with the network and the diffusion of stored weights.

    Args:
        name_or_path: as for `load_pretrained`.
        config: all other settings, such as epochs and lr.
    Raises:
        FileNotFoundError, ValueError: as for `load_pretrained`; or the weights were trained with a
            table of betas, which a configuration cannot hold.
    """
    model, diffusion = load_pretrained(name_or_path)
    if not isinstance(diffusion.schedule, str):
        raise ValueError(
            f"{name_or_path} was trained with a table of betas: fine-tune it from Python, with "
            "fine_tune_model and TrainingPipeline"
        )
    stored = {"network": model.kind} | model.config | diffusion.config
    names = {field.name for field in fields(TrainConfig)}
    return replace(config, **{key: stored[key] for key in names & stored.keys()})
