"""Consistency distillation: a network learns to do in one call what its teacher does in many."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.device import to_device
from ddpm_helpers.diffusion.process import DiffusionUtils
from ddpm_helpers.diffusion.schedules import sub_sequence
from ddpm_helpers.diffusion.walk import Labels, Model, network_output

SECOND = 0.7  # t / T of the second of two calls; docs/flow.md has the measurement


class ConsistencyDistillation(DiffusionUtils):
    """A `DiffusionUtils` with the loss of consistency distillation, for `TrainingPipeline`.

    The teacher's DDIM steps lead from every x_t along a path to one image. The student learns to
    predict that image from every point of the path in one call. Its prediction at t is trained
    towards its own prediction at s, one teacher step lower, or towards the image itself at s = 0.

        x_s  = the teacher's DDIM step from x_t to s, the largest of the teacher's timesteps below t
        goal = the image that the student predicts from x_s; x_s itself at s = 0
        loss = the usual one at x_t with goal in place of x_0; no gradient flows through goal

    The student should start from the teacher's weights. Sample from it with sampler="ddpm" and 1, 2
    or 4 steps: each step predicts an image and adds fresh noise to it.

    Args:
        diffusion: the teacher's diffusion; only the loss is replaced.
        teacher: callable `model(x_t, t, y)` on the training device; None makes x_s from the true
            image and the noise of x_t, which is consistency training and less accurate.
        steps: number of teacher steps from T to 0, in 1..T. Many steps follow its path closely;
            with few, large t is learned in fewer updates and the last step leaves no grain.
    Attributes:
        teacher_steps: steps; the `TrainConfig` of `TrainingPipeline` must have the same value.
        few_steps: the two timesteps that `few_step_options` sample from.
    Raises:
        ValueError: steps is out of range, or the prediction is not v or flow: eps does not
            determine the image at T, and a predicted x_0 can differ from x_t at 0.
    Source: Song et al. 2023 (Consistency Models), algorithm 2; starting from trained weights, any t
        above s, and more weight where there is little noise, as in Geng et al. 2024 (ECT).
    """

    def __init__(self, diffusion: DiffusionUtils, teacher: Model | None, steps: int = 10) -> None:
        few_steps = [diffusion.T, round(SECOND * diffusion.T)] if diffusion.T > 1 else [1]
        super().__init__(**diffusion.config | {"few_steps": few_steps})
        if self.prediction not in ("v", "flow"):
            raise ValueError(
                f"distillation needs a network that predicts v or flow, not {self.prediction}"
            )
        self.teacher = teacher
        self.teacher_steps = checks.count("steps", steps, most=self.T)
        self.grid = torch.tensor(sub_sequence(self.T, steps)).flip(0)  # (steps + 1,), from 0 to T

    def loss(
        self,
        model: Model,
        x_0: Tensor,
        t: Tensor,
        eps: Tensor,
        y: Labels | None = None,
        *,
        min_snr_gamma: float | None = None,
    ) -> Tensor:
        """Compute each image's mean squared error, with the student's image at s instead of x_0.

        Arguments, result and errors are those of `DiffusionUtils.loss`, with t in 1..T.
        """
        x_t, eps = self.add_noise(x_0, t, eps)
        s = self.grid[torch.searchsorted(self.grid, t.cpu()) - 1]  # (B,), the next timestep below t
        with torch.no_grad():
            if self.teacher is not None:  # use the teacher's image and noise, not the true ones
                x_0 = self._predicted_image(self.teacher, x_t, t, y)
                eps = self._noise_in_x_t(x_0, x_t, t)
            x_s, _ = self.add_noise(x_0, s, eps)
            goal = self._predicted_image(model, x_s, s, y)
            rest = self._noise_in_x_t(goal, x_t, t)  # x_t is goal plus this noise
        return super().loss(model, goal, t, rest, y, min_snr_gamma=min_snr_gamma)

    def _predicted_image(self, model: Model, x_t: Tensor, t: Tensor, y: Labels | None) -> Tensor:
        """Predict the image from x_t, clipped to [-1, 1] as in sampling."""
        output = network_output(model, x_t, to_device(t, x_t.device), y)
        return self.predict_x_0(output, x_t, t).clamp(-1, 1)

    def _noise_in_x_t(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Compute the noise in x_t for the clean image x_0; t in 1..T."""
        signal, noise = self._rates(t, x_t, least=1)
        return (x_t - signal * x_0) / noise
