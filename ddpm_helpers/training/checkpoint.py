"""Checkpoints: what a run needs to go on, and which of them fits which pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.pretrained import save_weights
from ddpm_helpers.training import files
from ddpm_helpers.training.training_data import data_name, describe, fingerprint, same_data

if TYPE_CHECKING:
    from ddpm_helpers.training.pipeline import TrainingPipeline

# With another value of one of these, the rest of the run would belong to another training.
FIXED = (
    "image_size", "timesteps", "schedule", "prediction", "rescale_zero_snr", "batch_size", "seed",
    "width", "limit", "optimizer", "channels", "t_sampling", "teacher_steps",
)  # fmt: skip


def bytes_needed(pipeline: TrainingPipeline) -> int:
    """What a run's checkpoints and weights take on the disk, one being written included."""
    values = pipeline.model.state_dict().values()
    weights = sum(value.numel() * value.element_size() for value in values)
    steps, config = pipeline.total_steps, pipeline.config
    one = 4 * weights + 100 * steps + 1_000_000  # weights, average, Adam's two; history; names
    rungs = sum(map(is_rung, range(1, config.epochs + 1))) if config.keep_weights else 0
    return one * (config.keep_checkpoints + 1) + (1 + rungs) * weights + 300 * steps  # and .jsonl


def save(pipeline: TrainingPipeline, path: Path) -> Path:
    """Write everything that training needs to go on, and the weights that sampling needs.

    In the pipeline's own folder, the last `keep_checkpoints` files are kept.

    Raises:
        OSError: the disk is full or cannot be written; the checkpoint before is untouched.
    """
    state = {
        "model": pipeline.model.state_dict(),
        "ema_model": pipeline.ema_model.state_dict(),
        "optimizer": pipeline.optimizer.state_dict(),
        "step": pipeline.step,
        "skipped": pipeline.skipped,
        "skipped_in_a_row": pipeline.skipped_in_a_row,
        "data": fingerprint(pipeline.dataset),
        "diffusion": pipeline.diffusion.config,
        "history": [vars(record) for record in pipeline.history],
        "config": pipeline.config.to_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if pipeline.out_dir is not None and path == pipeline.out_dir / files.CHECKPOINT:
        files.rotate(path.parent, files.pack(state), pipeline.config.keep_checkpoints)
    else:
        files.write_whole(path, files.pack(state))
    try:
        save_average(pipeline, path.with_name("weights.safetensors"))
    except OSError as error:
        raise OSError(f"{path} is saved, weights.safetensors beside it is not: {error}") from error
    return path


def save_average(pipeline: TrainingPipeline, path: Path) -> Path:
    """The averaged weights, with all that sampling needs."""
    trained = {
        "data": data_name(pipeline.dataset),  # never a path: weights travel
        "steps": pipeline.step,
        "classes": list(pipeline.dataset.classes),
    }
    return save_weights(path, pipeline.ema_model, pipeline.diffusion, trained)


def is_rung(epoch: int) -> bool:
    """Whether an epoch is 1, 2 or 5 times a power of ten: the rungs of the ladder."""
    return str(epoch).rstrip("0") in ("1", "2", "5")


def load(pipeline: TrainingPipeline, state: dict[str, Any], name: str) -> None:
    """Put a checkpoint's state into the pipeline; nothing changes if it does not fit.

    Args:
        state: what `save` wrote.
        name: of its file, for the message.
    Raises:
        ValueError: saved by another configuration or for another network.
    """
    for field in FIXED:
        by_default = getattr(TrainConfig, field)  # a field that is younger than the checkpoint
        saved, wanted = state["config"].get(field, by_default), getattr(pipeline.config, field)
        if saved != wanted:
            raise ValueError(f"{name} was trained with {field} = {saved!r}, not {wanted!r}")
    _check_data(name, state.get("data"), fingerprint(pipeline.dataset))
    if state.get("diffusion", pipeline.diffusion.config) != pipeline.diffusion.config:
        raise ValueError(f"{name} was trained with another table of betas")
    expected = {key: tuple(v.shape) for key, v in pipeline.model.state_dict().items()}
    found = {key: tuple(v.shape) for key, v in state["model"].items()}
    for key in expected | found:
        want, got = expected.get(key, "no such weight"), found.get(key, "nothing")
        if want != got:
            raise ValueError(f"{name} is of another network: {key}: expected {want}, found {got}")
    pipeline.model.load_state_dict(state["model"])
    pipeline.ema_model.load_state_dict(state["ema_model"])
    pipeline.optimizer.load_state_dict(state["optimizer"])
    pipeline.step, pipeline.skipped = state["step"], state.get("skipped", 0)
    pipeline.skipped_in_a_row = state.get("skipped_in_a_row", 0)


def _check_data(name: str, saved: Any, found: dict[str, Any]) -> None:
    """Refuse other pictures; None and words come from checkpoints of an older form."""
    if saved is None or saved == describe(found):
        return
    if isinstance(saved, str) or not same_data(saved, found):
        was = saved if isinstance(saved, str) else describe(saved)
        other = "other " if was == describe(found) else ""
        raise ValueError(f"{name} was trained on {was}, not on {other}{describe(found)}")
