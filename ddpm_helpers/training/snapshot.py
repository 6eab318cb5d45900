"""Snapshot of a training: weights, average, optimiser and counts, on its own device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ddpm_helpers.training.pipeline import TrainingPipeline


class Snapshot:
    """A copy of weights, average, optimiser and counts, as they are now.

    Args:
        pipeline: what `restore` takes back to this moment.
    """

    def __init__(self, pipeline: TrainingPipeline) -> None:
        self.pipeline = pipeline
        self.counts = pipeline.step, pipeline.skipped, pipeline.skipped_in_a_row
        self.tensors = _tensors(pipeline)
        self.copies = [tensor.clone() for tensor in self.tensors]
        self.fresh = not pipeline.optimizer.state  # Adam makes its averages at its first step

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back in place."""
        pipeline = self.pipeline
        pipeline.step, pipeline.skipped, pipeline.skipped_in_a_row = self.counts
        torch._foreach_copy_(self.tensors, self.copies)
        if self.fresh:
            pipeline.optimizer.state.clear()
        pipeline.optimizer.zero_grad()


def _tensors(pipeline: TrainingPipeline) -> list[Tensor]:
    of_adam = (value for state in pipeline.optimizer.state.values() for value in state.values())
    models = (pipeline.model, pipeline.ema_model)
    return [*(v for model in models for v in model.state_dict().values()), *of_adam]
