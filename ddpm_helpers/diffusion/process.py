"""DiffusionUtils: training and sampling, for any network, a callable `model(x_t, t, y=None)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.device import device_and_dtype, to_device
from ddpm_helpers.diffusion.forward import ForwardProcess
from ddpm_helpers.diffusion.schedules import sub_sequence
from ddpm_helpers.diffusion.training_steps import draw_steps
from ddpm_helpers.diffusion.walk import (
    Labels,
    Model,
    Walk,
    choose_sampler,
    denoiser,
    guided_steps,
    image_shape,
    network_output,
    picture_noise,
)


class DiffusionUtils(ForwardProcess):
    """A noise schedule with the training loss and the samplers that follow from it.

    Args: see `ForwardProcess`.
    Attributes:
        few_steps: the steps t of ddpm that a network is distilled for, from T; else None.
    """

    few_steps: list[int] | None = None

    # ---- training ------------------------------------------------------------------------

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
        """Each image's mean squared error between the network's output and its target.

        Args:
            model: callable `model(x_t, t, y)`, or `model(x_t, t)` if y is None.
            x_0: clean images, (B, C, H, W) in [-1, 1].
            t: steps, (B,) int64 in 0..T; keep them on the CPU, since checking t waits for a GPU.
            eps: the noise, shape of x_0.
            y: class labels, a tensor (B,) int64, passed on unchecked; or as for `sample_steps`.
            min_snr_gamma: weight the errors by `min_snr_weight`; None leaves them as they are.
        Returns:
            (B,), in float32 or better.
        Raises:
            ValueError: t outside 0..T, shapes that differ, or a gamma that is not above 0.
        Source: Ho et al. 2020, eq. 14.
        """
        x_t, eps = self.add_noise(x_0, t, eps)
        output = network_output(model, x_t, to_device(t, x_t.device), y)
        error = output - self.target(x_0, eps, t)
        each = error.square().flatten(1).mean(1)  # (B,)
        if min_snr_gamma is None:
            return each
        return each * self.min_snr_weight(t, min_snr_gamma).to(each)

    def min_snr_weight(self, t: Tensor, gamma: float = 5.0) -> Tensor:
        """The min-SNR loss weight: min(SNR, gamma) on x_0's error, so that low noise counts less.

            x_0: min(SNR, gamma)   eps: min(SNR, gamma) / SNR   v: min(SNR, gamma) / (SNR + 1)
            flow: min(SNR, gamma) / (sqrt(SNR) + 1) ** 2

        Args:
            t: steps, (B,) int64 in 0..T; SNR = alpha_bar / (1 - alpha_bar).
            gamma: above 0.
        Returns:
            (B,) float64 on the CPU, finite at both ends.
        Raises:
            ValueError: t outside 0..T, or a gamma that is not above 0.
        Source: Hang et al. 2023, section 3.4.
        """
        if not 0 < gamma < float("inf"):
            raise ValueError(f"min_snr_gamma must be a number above 0, got {gamma}")
        bar = self.alpha_bar[self._steps(t, t.reshape(-1, 1, 1, 1).float())]  # (B,)
        if self.prediction == "v":
            return torch.minimum(bar, gamma * (1 - bar))
        if self.prediction == "flow":  # its error is (a + b) times v's; squared, 1 + 2 a b
            return torch.minimum(bar, gamma * (1 - bar)) / (1 + 2 * (bar * (1 - bar)).sqrt())
        if self.prediction == "eps":
            return (gamma * (1 - bar) / bar).clamp(max=1)
        return (bar / (1 - bar)).clamp(max=gamma)

    def training_loss(
        self,
        model: Model,
        x_0: Tensor,
        y: Labels | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """One Monte Carlo estimate of the training loss: the mean `loss` at random steps and noise.

        Args:
            model, x_0, y: as for `loss`.
            generator: where t, uniform in 1..T, and then eps come from; the global one if None.
        Returns:
            A scalar.
        Raises:
            ValueError: shapes that differ.
        Source: Ho et al. 2020, algorithm 1.
        """
        checks.images("x_0", x_0)
        device = x_0.device if generator is None else generator.device
        t = draw_steps(len(x_0), self.alpha_bar, "uniform", generator)
        eps = torch.randn(x_0.shape, generator=generator, device=device, dtype=x_0.dtype)
        return self.loss(model, x_0, t, eps.to(x_0.device), y).mean()

    # ---- sampling ------------------------------------------------------------------------

    def sample_steps(
        self,
        model: Model,
        n: int,
        *,
        sampler: str = "ddpm",
        steps: int | Sequence[int] | None = None,
        eta: float | None = None,
        guidance: float = 1.0,
        y: Labels | None = None,
        seed: int | None = None,
        x_T: Tensor | None = None,
        clip: bool = True,
        shape: Sequence[int] | None = None,
        first: int = 0,
        spacing: str = "trailing",
        variance: str | None = None,
        guidance_interval: tuple[int, int] | None = None,
    ) -> Walk:
        """Draw n images from noise, step by step.

        The first `Step` has x_t = x_T at the largest step visited, T as a rule; the last one has
        t = 0 and x_t = the result: k steps yield k + 1 of them. Each carries the x_0 predicted
        from its own x_t. The network stays in its mode (train or eval); no gradients are recorded.

        Args:
            model: callable `model(x_t, t, y)`, or `model(x_t, t)` if y is None. The images are
                made on its parameters' device, in float32 (float64 if the network is in float64);
                the network is called in its own dtype.
            n: number of images, at least 1.
            sampler: ddpm (ancestral), ddim, heun (up to two network calls per step, see
                `network_calls`; with the schedule flow, in the time of flow matching) or dpm++.
            steps: how many, 1..T; None takes all T; or the steps themselves, decreasing, such as
                [500, 300, 100]; the 0 at the end is added.
            eta: noise of ddim, 0 (none, the default) to 1 (as much as ddpm).
            guidance: scale of classifier-free guidance; 1 is the plain class-conditional
                prediction, 0 ignores y, above 1 exaggerates the class. Anything but 1 needs y,
                and a network that takes -1 for "no label".
            y: class numbers or names (of `model.classes`), (n,), or one for all; None passes no
                labels.
            seed: at least 0; image i of a seed is the same whatever n, first and the batch are.
                None draws a seed from torch's global generator.
            x_T: start noise, (n, C, H, W), instead of the seed's; the seed still decides the
                noise of the steps.
            clip: bound the predicted x_0 to [-1, 1] before the step is taken from it.
            shape: one image's (C, H, W); by default `model.image_shape`, or x_T's.
            first: number of the first image: n = 16, first = 16 gives the second 16 of a seed.
            spacing: how a number of steps is spread: trailing begins at T, leading lower (Lin et
                al. 2024).
            variance: of ddpm's noise: posterior (the default) or beta.
            guidance_interval: (low, high), the steps at which guidance is used; at the others,
                the prediction is plain class-conditional (Kynkäänniemi et al. 2024). None: all.
        Returns:
            An iterator of `Step(t, x_t, x_0_pred)`.
        Raises:
            ValueError: on this call, not at the first step; it names the value and the choices.
        """
        run = choose_sampler(sampler, eta, variance, straight=self.schedule == "flow")
        ts = sub_sequence(self.T, steps, spacing)
        guidance, guided = guided_steps(guidance, guidance_interval, y, self.T)
        n = checks.count("n", n)
        device, dtype = device_and_dtype(model, x_T)
        dtype = torch.promote_types(dtype, torch.float32)
        labels = None if y is None else checks.labels(y, n, model, device)
        noise = picture_noise(seed, n, image_shape(model, shape, x_T, n), device, dtype, first)
        start = noise()  # drawn even if x_T is given, so that the noise of the steps stays the same
        start = start if x_T is None else x_T.detach().to(device, dtype)
        denoise = denoiser(self, model, labels, guidance, guided, clip)
        return Walk(ts, start, noise, denoise, run(denoise, start, ts, self.alpha_bar, noise))

    def sample(self, model: Model, n: int, **options: Any) -> Tensor:
        """Draw n images from noise: the last x_t of `sample_steps`.

        Args:
            model, n, options: as for `sample_steps`.
        Returns:
            (n, C, H, W), in [-1, 1] if clip is left on.
        Raises:
            ValueError: as `sample_steps`.
        """
        for step in self.sample_steps(model, n, **options):
            x_0 = step.x_t
        return x_0
