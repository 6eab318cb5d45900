"""Consistency distillation: a network learns to do in one call what its teacher does in many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.device import to_device
from ddpm_helpers.diffusion.process import DiffusionUtils
from ddpm_helpers.diffusion.schedules import sub_sequence
from ddpm_helpers.diffusion.walk import Labels, Model, network_output

HUBER = 0.03  # rms error, in 0..2, below which an image counts with its square


class ConsistencyDistillation(DiffusionUtils):
    """A diffusion whose loss teaches few steps: give it to `TrainingPipeline` instead.

    The teacher's DDIM path leads every x_t to one image. The student learns to say that image at
    every point of the path, and need not see its end for that: what it says at t has to be what it
    says itself one step of the teacher further down, at s. At s = 0 that is the image.

        x_s    = the teacher's DDIM step from x_t to the next s below t of its own steps to 0
        f(x, t) = predict_x_0(student(x, t), x, t)
        loss   = distance(f(x_t, t), f(x_s, s)), without gradient through the second

    The student is to start from the teacher's weights. Draw from it with sampler="ddpm" and 1, 2 or
    4 steps: each step says an image and noises it anew.

    Args:
        diffusion: what the teacher was trained with; everything but the loss stays as it is there.
        teacher: callable `model(x_t, t, y)`, on the device of the training; None takes for x_s the
            image itself, noised to s with the noise of x_t: consistency training, which is rougher.
        steps: of the teacher from T to 0, in 1..T: many follow its path closely; few pass on faster
            what is known at 0, and end in a long step, which leaves no grain.
    Raises:
        ValueError: steps out of range, or another prediction than v or flow: that of eps is divided
            by nearly 0 at T, that of x_0 is not tied to the image at 0.
    Source: Song et al. 2023 (Consistency Models), algorithm 2; starting from trained weights, and
        with any t above s, as in Geng et al. 2024 (ECT); the distance: Song & Dhariwal 2024,
        section 3.3.
    """

    def __init__(self, diffusion: DiffusionUtils, teacher: Model | None, steps: int = 10) -> None:
        super().__init__(**diffusion.config)
        if self.prediction not in ("v", "flow"):
            raise ValueError(
                f"distillation needs a network that predicts v or flow, not {self.prediction}"
            )
        self.teacher = teacher
        steps = checks.count("steps", steps, most=self.T)
        self.grid = torch.tensor(sub_sequence(self.T, steps)).flip(0)  # (steps + 1,), from 0 to T

    def preview(self, steps: int) -> dict[str, Any]:
        """Options of `sample` for the sample grids of a training: always 2 steps."""
        return {"sampler": "ddpm", "steps": min(2, self.T)}

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
        """Each image's distance between the student's answers at t and one step further down.

        Args, Raises: as for `DiffusionUtils.loss`; t in 1..T, and no min_snr_gamma.
        Returns:
            (B,): sqrt(mean square + HUBER²) - HUBER of the difference of two images.
        """
        if min_snr_gamma is not None:
            raise ValueError("min_snr_gamma weighs the error of a denoiser: leave it out here")
        if y is not None and not isinstance(y, Tensor):
            y = checks.labels(y, len(x_0), model, x_0.device)
        x_t, eps = self.add_noise(x_0, t, eps)
        s = self.grid[torch.searchsorted(self.grid, t.cpu()) - 1]  # (B,), the next one below t
        with torch.no_grad():
            if self.teacher is not None:  # its image and its noise, not the true ones
                x_0 = self.answer(self.teacher, x_t, t, y)
                eps = self.noise_in(x_0, x_t, t)
            x_s, _ = self.add_noise(x_0, s, eps)
            goal = self.answer(model, x_s, s, y)  # at s = 0, x_s
        error = self.predicted(model, x_t, t, y) - goal
        return (error.square().flatten(1).mean(1) + HUBER**2).sqrt() - HUBER

    def predicted(self, model: Model, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The image that a network sees in x_t, (B, C, H, W), unbounded."""
        output = network_output(model, x_t, to_device(t, x_t.device), y)
        return self.predict_x_0(output, x_t, t)

    def answer(self, model: Model, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """The same, bounded to [-1, 1] as in sampling."""
        return self.predicted(model, x_t, t, y).clamp(-1, 1)

    def noise_in(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """What is noise in x_t if x_0 is the image; t in 1..T."""
        signal, noise = self._at(self._signal, t, x_t), self._at(self._noise, t, x_t, least=1)
        return (x_t - signal * x_0) / noise
