"""Networks that start from trained weights and learn other pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained.weights import description, load_pretrained, with_defaults


def fine_tune_model(
    name_or_path: str | Path,
    classes: Sequence[str] | None = None,
    *,
    say: Callable[[str], object] = print,
) -> tuple[DiffusionNet, DiffusionUtils]:
    """A network that starts from stored weights, with one label row for each class of new data.

    A class that the weights know by name keeps its row. A new one starts as a copy of the row for
    "no label", so that its first pictures are those drawn without a class. All other weights, the
    row for "no label" included, are the stored ones.

    Args:
        name_or_path: as for `load_pretrained`.
        classes: names of the new data's classes, in the order of their labels, such as
            `ds.classes`; None for a network that takes no labels.
        say: gets one line on which rows were kept; print by default.
    Returns:
        The network, ready to train, and the `DiffusionUtils` that it was trained with.
    Raises:
        FileNotFoundError, ValueError: as for `load_pretrained`.
    """
    model, diffusion = load_pretrained(name_or_path)
    numbers = range(model.num_classes or 0)
    known = model.classes if model.classes and numbers else tuple(map(str, numbers))
    say(f"weights {name_or_path}: {describe_labels(known, classes)}")
    return with_classes(model, known, classes).train(), diffusion


def with_classes(
    model: DiffusionNet, known: Sequence[str], classes: Sequence[str] | None
) -> DiffusionNet:
    """The same network with another label table; without one, it draws as for "no label".

    Args:
        model: the network.
        known: names of its classes.
        classes: names of the new ones, or None.
    """
    count = None if classes is None else len(classes)
    new = DiffusionNet(**(model.config | {"num_classes": count}))  # type: ignore[arg-type]
    state = model.state_dict()
    rows = state.pop("label.weight", None)  # (len(known) + 1, t_dim), row 0 for "no label"
    if rows is None:
        rows = torch.zeros(1, new.time.dim)  # adds nothing: the network is what it was
    if new.label is None:
        state["time.mlp.2.bias"] = state["time.mlp.2.bias"] + rows[0]
    else:
        state["label.weight"] = _label_rows(rows, known, classes or ())
    new.load_state_dict(state)
    new.classes = tuple(classes or ())
    return new


def _label_rows(rows: Tensor, known: Sequence[str], classes: Sequence[str]) -> Tensor:
    """The row for "no label", then one row for each class, (len(classes) + 1, t_dim)."""
    place = {name: k + 1 for k, name in enumerate(known)}
    return rows[[0, *(place.get(name, 0) for name in classes)]]


def describe_labels(known: Sequence[str], classes: Sequence[str] | None) -> str:
    """One line on which label rows are kept, new and left out."""
    if classes is None:
        return "no labels" if not known else f"the labels of {_some(known)} left out"
    groups = {
        "kept": [name for name in classes if name in known],
        "new": [name for name in classes if name not in known],
        "left out": [name for name in known if name not in classes],
    }
    return "labels " + ", ".join(f"{how}: {_some(names)}" for how, names in groups.items() if names)


def _some(names: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} ({', '.join(names[:shown])}{more})"


def config_for_weights(name_or_path: str | Path, config: TrainConfig) -> TrainConfig:
    """The configuration with what stored weights decide: the network's shape, and the diffusion.

    Args:
        name_or_path: as for `load_pretrained`.
        config: everything else, such as epochs and lr, is taken from here.
    Raises:
        FileNotFoundError, ValueError: as for `load_pretrained`; or the weights were trained with a
            table of betas, which no configuration can name.
    """
    about = description(name_or_path)
    decided = with_defaults(DiffusionNet, about["model"])
    decided |= with_defaults(DiffusionUtils, about["diffusion"])
    if not isinstance(decided["schedule"], str):
        raise ValueError(
            f"{name_or_path} was trained with a table of betas: fine-tune it from Python, with "
            "fine_tune_model and TrainingPipeline"
        )
    names = {field.name for field in fields(TrainConfig)}
    return replace(config, **{key: decided[key] for key in names & decided.keys()})
