"""Checkpoints: one file to go on from, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddpm_helpers.pretrained import save_weights

if TYPE_CHECKING:
    from ddpm_helpers.training.pipeline import TrainingPipeline

# With another value of one of these, the rest of the run would belong to another training.
FIXED = ("image_size", "timesteps", "schedule", "prediction", "batch_size", "seed", "width")


def prepare_folder(out_dir: str | Path) -> Path:
    """Make the folder and prove that it can be written, before any training.

    Raises:
        OSError: it cannot; the message names the folder.
    """
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write to out_dir {folder}: {error.strerror}") from error
    return folder


def save(pipeline: TrainingPipeline, path: Path) -> Path:
    """Write everything that training needs to go on, and the weights that sampling needs.

    The file is written beside `path` and moved over it, so that `path` is whole at any moment.
    """
    state = {
        "model": pipeline.model.state_dict(),
        "ema_model": pipeline.ema_model.state_dict(),
        "optimizer": pipeline.optimizer.state_dict(),
        "step": pipeline.step,
        "history": [vars(record) for record in pipeline.history],
        "config": pipeline.config.to_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    with open(beside, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    trained = {"data": pipeline.dataset.source, "steps": pipeline.step}
    save_weights(
        path.with_name("weights.safetensors"),
        pipeline.ema_model,
        pipeline.diffusion,
        trained | {"classes": list(pipeline.dataset.classes)},
    )
    return path


def load(pipeline: TrainingPipeline, path: Path) -> dict[str, Any]:
    """Put a checkpoint's state into the pipeline; nothing changes if it does not fit.

    Returns:
        The state, of which the caller takes step and history.
    Raises:
        FileNotFoundError: no such file.
        ValueError: saved by another configuration or for another network.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}; train first, or give another path")
    state = torch.load(path, map_location=pipeline.device, weights_only=True)
    for name in FIXED:
        saved, wanted = state["config"].get(name), getattr(pipeline.config, name)
        if saved != wanted:
            raise ValueError(f"{path.name} was trained with {name} = {saved!r}, not {wanted!r}")
    shapes = {k: v.shape for k, v in pipeline.model.state_dict().items()}
    for key, value in state["model"].items():
        if shapes.get(key) != value.shape:
            raise ValueError(
                f"{path.name} holds {key} of shape {tuple(value.shape)}, "
                f"the network expects {tuple(shapes[key]) if key in shapes else 'no such weight'}"
            )
    pipeline.model.load_state_dict(state["model"])
    pipeline.ema_model.load_state_dict(state["ema_model"])
    pipeline.optimizer.load_state_dict(state["optimizer"])
    return state
