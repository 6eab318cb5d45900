"""Out of memory, in one line that says what to change."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ddpm_helpers.training.pipeline import TrainingPipeline


@contextmanager
def memory_in_one_line(pipeline: TrainingPipeline) -> Iterator[None]:
    """Turn a full memory into one short error, and give back what the step had taken.

    The long error holds on to every tensor of its stack, so its frames are cleared: the next
    `fit` finds the memory free.

    Raises:
        torch.OutOfMemoryError: what to halve.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        traceback.clear_frames(error.__traceback__)
        pipeline.optimizer.zero_grad()
        gc.collect()
        if pipeline.device.type == "cuda":
            torch.cuda.empty_cache()
        config = pipeline.config
        fewer = f"; or lower read_every ({config.read_every})" if config.read_every > 1 else ""
        raise torch.OutOfMemoryError(
            f"step {pipeline.step + 1}: the memory of {pipeline.device} is full: halve batch_size "
            f"({config.batch_size}), or double accumulate ({config.accumulate}), which trains the "
            f"same in smaller parts{fewer}"
        ) from None
