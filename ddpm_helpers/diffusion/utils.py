"""The mathematics of diffusion: noising, what a network predicts, the loss, and sampling.

Nothing here knows a network: `model` is any callable `model(x_t, t, y=None)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.diffusion import sampling
from ddpm_helpers.diffusion.batches import check_pictures, check_same, onto, spread
from ddpm_helpers.diffusion.samplers import Step
from ddpm_helpers.diffusion.schedules import (
    beta_schedule,
    check_betas,
    check_count,
    rescale_zero_terminal_snr,
)

PREDICTIONS = ("eps", "x_0", "v")
Model = Callable[..., Tensor]


class DiffusionUtils:
    """A noise schedule and everything that follows from it.

    Args:
        timesteps: T, number of steps, at least 1.
        schedule: name of a schedule (see `beta_schedule`), or a table of betas (T + 1,) with
            betas[0] = 0.
        prediction: what the network predicts: eps (the noise), x_0 (the clean picture) or v.
        rescale_zero_snr: change the schedule so that alpha_bar[T] = 0 exactly; not for eps, whose
            x_0 would be divided by 0 there.
    Attributes:
        T: number of steps.
        betas, alphas, alpha_bar: float64 (T + 1,) on the CPU; alpha_bar[0] = 1 exactly.
        prediction: as given.
        schedule: its name, or the betas that were given, as a list.
        config: the arguments as plain values, enough to build the same object again.
    Raises:
        ValueError: unknown schedule or prediction, T below 1, or a table that is no schedule.
    Source: Ho et al. 2020, section 2; v: Salimans & Ho 2022, section 4.
    """

    def __init__(
        self,
        timesteps: int = 500,
        schedule: str | Tensor | Sequence[float] = "cosine",
        *,
        prediction: str = "eps",
        rescale_zero_snr: bool = False,
    ) -> None:
        self.T = check_count("timesteps", timesteps)
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"unknown prediction {prediction!r}; choose from {', '.join(PREDICTIONS)}"
            )
        self.prediction = prediction
        if isinstance(schedule, str):
            betas = beta_schedule(schedule, self.T)
        else:
            betas = check_betas(schedule)
        if len(betas) != self.T + 1:
            raise ValueError(
                f"T = {self.T} needs {self.T + 1} betas, betas[0] = 0 included; got {len(betas)}"
            )
        self.schedule = schedule if isinstance(schedule, str) else betas.tolist()
        self.betas = rescale_zero_terminal_snr(betas) if rescale_zero_snr else betas
        self.alphas = 1 - self.betas  # (T + 1,)
        self.alpha_bar = self.alphas.cumprod(0)  # (T + 1,), alpha_bar[0] = 1
        if prediction == "eps" and self.alpha_bar[-1] == 0:
            raise ValueError(
                "alpha_bar[T] = 0 leaves no picture at T, so eps cannot tell x_0; "
                "choose prediction x_0 or v"
            )
        self.config: dict[str, Any] = {
            "timesteps": self.T,
            "schedule": self.schedule,
            "prediction": prediction,
            "rescale_zero_snr": rescale_zero_snr,
        }
        self._signal, self._noise = self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()

    def __repr__(self) -> str:
        name = self.schedule if isinstance(self.schedule, str) else "own betas"
        zero = ", rescale_zero_snr=True" if self.config["rescale_zero_snr"] else ""
        return f"DiffusionUtils({self.T}, {name!r}, prediction={self.prediction!r}{zero})"

    # ---- the forward process -------------------------------------------------------------

    def add_noise(self, x_0: Tensor, t: Tensor, eps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise clean images to step t in one jump.

            x_t = sqrt(alpha_bar[t]) * x_0 + sqrt(1 - alpha_bar[t]) * eps

        Args:
            x_0: clean images, (B, C, H, W) float32 in [-1, 1].
            t: steps, (B,) int64 in 0..T; 0 returns x_0 unchanged.
            eps: standard normal noise, shape of x_0; drawn if None.
        Returns:
            x_t and the eps that was used, each of x_0's shape.
        Raises:
            ValueError: t outside 0..T, or shapes that differ.
        Source: Ho et al. 2020, eq. 4.
        """
        signal, noise = self._at(self._signal, t, x_0), self._at(self._noise, t, x_0)
        eps = torch.randn_like(x_0) if eps is None else eps
        check_same("eps", eps, "x_0", x_0)
        return signal * x_0 + noise * eps, eps

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where x_{t-1} lies when both ends are known: q(x_{t-1} | x_t, x_0), a Gaussian.

        Args:
            x_0: clean images, known or predicted, (B, C, H, W).
            x_t: the same images at step t, shape of x_0.
            t: steps, (B,) int64 in 1..T; at 1 the answer is x_0 with variance 0.
        Returns:
            mean, shape of x_0, and variance, (B, 1, 1, 1).
        Raises:
            ValueError: t outside 1..T, or shapes that differ.
        Source: Ho et al. 2020, eq. 6 and 7.
        """
        self._steps(t, x_t, least=1)
        return self.posterior_between(x_0, x_t, t, t - 1)

    def posterior_between(
        self, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """q(x_s | x_t, x_0) for any earlier step s < t; `posterior` is s = t - 1.

        Args:
            x_0, x_t: (B, C, H, W).
            t, s: (B,) int64, 0 <= s < t <= T.
        Returns:
            mean, shape of x_0, and variance, (B, 1, 1, 1).
        Raises:
            ValueError: steps out of range or order, or shapes that differ.
        Source: Ho et al. 2020, eq. 7, on a sub-sequence (Nichol & Dhariwal 2021, eq. 19).
        """
        check_same("x_0", x_0, "x_t", x_t)
        t, s = self._steps(t, x_t, least=1), self._steps(s, x_t)
        if not (s < t).all():
            raise ValueError(
                f"s must lie below t everywhere, got t = {t.tolist()}, s = {s.tolist()}"
            )
        bar_t, bar_s = self.alpha_bar[t], self.alpha_bar[s]  # (B,)
        alpha = bar_t / bar_s  # how much of x_s is left in x_t; alphas[t] if s = t - 1
        of_x_0 = bar_s.sqrt() * (1 - alpha) / (1 - bar_t)
        of_x_t = alpha.sqrt() * (1 - bar_s) / (1 - bar_t)
        variance = (1 - bar_s) / (1 - bar_t) * (1 - alpha)
        mean = spread(of_x_0, x_t) * x_0 + spread(of_x_t, x_t) * x_t  # (B, C, H, W)
        return mean, spread(variance, x_t)

    # ---- what the network predicts -------------------------------------------------------

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should output at x_t = add_noise(x_0, t, eps).

            eps  |  x_0  |  v = sqrt(alpha_bar[t]) * eps - sqrt(1 - alpha_bar[t]) * x_0

        Args:
            x_0: clean images, (B, C, H, W).
            eps: the noise, shape of x_0.
            t: steps, (B,) int64 in 0..T.
        Returns:
            Shape of x_0.
        Raises:
            ValueError: t outside 0..T, or shapes that differ.
        """
        check_same("eps", eps, "x_0", x_0)
        signal, noise = self._at(self._signal, t, x_0), self._at(self._noise, t, x_0)
        if self.prediction == "v":
            return signal * eps - noise * x_0
        return eps if self.prediction == "eps" else x_0

    def predict_x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean images that a network output stands for.

        Args:
            output: the network's output, of the chosen kind, (B, C, H, W).
            x_t: what it was given, shape of output.
            t: steps, (B,) int64 in 0..T; at 0, eps and v give x_t unchanged.
        Returns:
            x_0, shape of x_t, not clipped.
        Raises:
            ValueError: t outside 0..T, or shapes that differ.
        Source: Ho et al. 2020, eq. 4 solved for x_0; Salimans & Ho 2022, appendix D.
        """
        check_same("output", output, "x_t", x_t)
        signal, noise = self._at(self._signal, t, x_t), self._at(self._noise, t, x_t)
        if self.prediction == "eps":
            return (x_t - noise * output) / signal
        return output if self.prediction == "x_0" else signal * x_t - noise * output

    def predict_eps(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that a network output stands for.

        Args:
            output: the network's output, of the chosen kind, (B, C, H, W).
            x_t: what it was given, shape of output.
            t: steps, (B,) int64 in 0..T; in 1..T if the network predicts x_0, which at t = 0
                says nothing about the noise.
        Returns:
            eps, shape of x_t.
        Raises:
            ValueError: t out of range, or shapes that differ.
        """
        check_same("output", output, "x_t", x_t)
        least = 1 if self.prediction == "x_0" else 0
        signal, noise = self._at(self._signal, t, x_t, least), self._at(self._noise, t, x_t, least)
        if self.prediction == "x_0":
            return (x_t - signal * output) / noise
        return output if self.prediction == "eps" else noise * x_t + signal * output

    # ---- training ------------------------------------------------------------------------

    def loss(
        self,
        model: Model,
        x_0: Tensor,
        t: Tensor,
        eps: Tensor,
        y: Tensor | None = None,
        *,
        min_snr_gamma: float | None = None,
    ) -> Tensor:
        """Each picture's mean squared error between the network's output and its target.

        Args:
            model: callable `model(x_t, t, y)`, or `model(x_t, t)` if y is None.
            x_0: clean images, (B, C, H, W) in [-1, 1].
            t: steps, (B,) int64 in 0..T; on the CPU a GPU need not be waited for.
            eps: the noise, shape of x_0.
            y: class labels, (B,) int64, or None.
            min_snr_gamma: weigh the errors by `min_snr_weight`; None leaves them as they are.
        Returns:
            (B,), in float32 or better.
        Raises:
            ValueError: t outside 0..T, shapes that differ, or a gamma that is not above 0.
        Source: Ho et al. 2020, eq. 14.
        """
        x_t, eps = self.add_noise(x_0, t, eps)
        at = onto(x_t.device, t)
        output = model(x_t, at) if y is None else model(x_t, at, y)
        check_same("the network's output", output, "x_t", x_t)
        error = output.to(x_t.dtype) - self.target(x_0, eps, t)
        each = error.square().flatten(1).mean(1)  # (B,)
        if min_snr_gamma is None:
            return each
        return each * self.min_snr_weight(t, min_snr_gamma).to(each)

    def min_snr_weight(self, t: Tensor, gamma: float = 5.0) -> Tensor:
        """The weight that keeps easy steps from dominating: min(SNR, gamma) on the error in x_0.

            x_0: min(SNR, gamma)   eps: min(SNR, gamma) / SNR   v: min(SNR, gamma) / (SNR + 1)

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
        if self.prediction == "eps":
            return (gamma * (1 - bar) / bar).clamp(max=1)
        return (bar / (1 - bar)).clamp(max=gamma)

    def training_loss(
        self,
        model: Model,
        x_0: Tensor,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        min_snr_gamma: float | None = None,
    ) -> Tensor:
        """One Monte-Carlo draw of the training loss: random steps, random noise, mean of `loss`.

        Args:
            model, x_0, y, min_snr_gamma: as for `loss`.
            generator: where t (uniform in 1..T) and then eps come from; the global one if None.
        Returns:
            A scalar.
        Raises:
            ValueError: shapes that differ.
        Source: Ho et al. 2020, algorithm 1.
        """
        check_pictures("x_0", x_0)
        device = x_0.device if generator is None else generator.device
        t = torch.randint(1, self.T + 1, x_0.shape[:1], generator=generator, device=device)
        eps = torch.randn(x_0.shape, generator=generator, device=device, dtype=x_0.dtype)
        t, eps = t.to(x_0.device), eps.to(x_0.device)
        return self.loss(model, x_0, t, eps, y, min_snr_gamma=min_snr_gamma).mean()

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
        y: Tensor | Sequence[int] | int | None = None,
        seed: int | None = None,
        x_T: Tensor | None = None,
        clip: bool = True,
        shape: tuple[int, int, int] | None = None,
        first: int = 0,
        spacing: str = "trailing",
        variance: str | None = None,
        guidance_interval: tuple[int, int] | None = None,
    ) -> Iterator[Step]:
        """Draw n pictures from noise, step by step.

        The first `Step` has x_t = x_T at the largest step of the walk, T as a rule; the last has
        t = 0 and x_t = the result: k steps yield k + 1 of them. Each carries the x_0 seen in its
        own x_t. The network is left in the mode (train or eval) that it is in; no gradients.

        Args:
            model: callable `model(x_t, t, y)`, or `model(x_t, t)` if y is None. The pictures are
                made on its parameters' device.
            n: number of pictures, at least 1.
            sampler: ddpm (ancestral), ddim, heun (two network calls a step, one where the noise
                level falls over fourfold: `network_calls` counts) or dpm++.
            steps: how many, 1..T; None takes all T; or the steps themselves, falling, such as
                [500, 300, 100] (the 0 at the end goes without saying).
            eta: noise of ddim, 0 (none, the default) to 1 (as much as ddpm).
            guidance: classifier-free guidance; 1 is the plain class-conditional prediction, 0
                ignores y, above 1 exaggerates the class. Anything but 1 needs y, and a network
                that takes -1 for "no label".
            y: class labels, (n,) int64, or one class for all; None = unconditional.
            seed: picture i of a seed is the same picture whatever n is; None draws a seed from
                torch's global generator.
            x_T: start noise, (n, C, H, W), instead of the seed's; the seed still decides the
                noise of the steps.
            clip: bound the predicted x_0 to [-1, 1] before the step is taken from it.
            shape: one picture's (C, H, W); by default `model.image_shape`, or x_T's.
            first: number of the first picture: n = 16, first = 16 gives the second 16 of a seed.
            spacing: of a number of steps: trailing begins at T, leading lower (Lin et al. 2024).
            variance: of ddpm's noise: posterior (by default) or beta.
            guidance_interval: (low, high), the steps at which guidance is used; outside, the plain
                class-conditional prediction (Kynkäänniemi et al. 2024). None: at all steps.
        Returns:
            An iterator of `Step(t, x_t, x_0_pred)`.
        Raises:
            ValueError: at once, with the value and the choices.
        """
        return sampling.sample_steps(
            self, model, n, sampler=sampler, steps=steps, eta=eta, guidance=guidance, y=y,
            seed=seed, x_T=x_T, clip=clip, shape=shape, first=first, spacing=spacing,
            variance=variance, guidance_interval=guidance_interval,
        )  # fmt: skip

    def sample(self, model: Model, n: int, **options: Any) -> Tensor:
        """Draw n pictures from noise: the last picture of `sample_steps`.

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

    # ---- tables --------------------------------------------------------------------------

    def _steps(self, t: Tensor, like: Tensor, least: int = 0) -> Tensor:
        """t on the CPU, (B,), once it is known to fit: a wrong t is an error, never an index."""
        check_pictures("the batch", like)
        kind = getattr(t, "dtype", type(t).__name__)
        if kind not in (torch.int64, torch.int32):
            raise ValueError(f"t must be an int64 tensor of {len(like)} steps, got {kind}")
        if t.shape != like.shape[:1]:
            raise ValueError(f"t must be ({len(like)},), one step a picture; got {tuple(t.shape)}")
        t = t.cpu().long()
        if len(t) and not least <= int(t.min()) <= int(t.max()) <= self.T:
            raise ValueError(f"t must lie in {least}..{self.T}, got {int(t.min())}..{int(t.max())}")
        return t

    def _at(self, table: Tensor, t: Tensor, like: Tensor, least: int = 0) -> Tensor:
        """table[t], ready to be multiplied with a batch like `like`: (B, 1, 1, 1)."""
        return spread(table[self._steps(t, like, least)], like)
