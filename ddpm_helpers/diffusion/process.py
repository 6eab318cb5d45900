"""DiffusionUtils: noising, training loss and sampling for any network `model(x_t, t, y=None)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.checks import NO_LABEL
from ddpm_helpers.device import device_and_dtype, to_device
from ddpm_helpers.diffusion.samplers import Denoise, Step, posterior_coefficients
from ddpm_helpers.diffusion.schedules import (
    beta_schedule,
    check_betas,
    draw_steps,
    rescale_zero_terminal_snr,
    sub_sequence,
)
from ddpm_helpers.diffusion.walk import (
    Labels,
    Model,
    choose_sampler,
    device_and_precision,
    guided_range,
    image_shape,
    network_output,
    picture_noise,
)

PREDICTIONS = ("eps", "x_0", "v", "flow")


class DiffusionUtils:
    """A diffusion process with one noise schedule: noising, posterior, loss and sampling.

    Args:
        timesteps: T, at least 1.
        schedule: linear, cosine, quadratic, exponential, sigmoid, shifted_cosine or flow; or a
            table of betas, (T + 1,), with betas[0] = 0.
        prediction: what the network predicts: eps (the noise), x_0 (the clean image), v (see
            `target`), or flow (the velocity eps - x_0 of the straight path from image to noise).
        rescale_zero_snr: rescale the schedule so that alpha_bar[T] is exactly 0, as it already is
            with the schedule flow. Not allowed with prediction eps, because eps does not determine
            x_0 there.
        few_steps: for a distilled network, the timesteps of its ddpm steps, decreasing, in 1..T;
            None for all other networks.
    Attributes:
        T: number of timesteps.
        betas, alphas, alpha_bar: float64 (T + 1,) on the CPU; alpha_bar[0] = 1 exactly.
        prediction, few_steps: as given.
        schedule: name of the schedule, or the given betas as a list.
        config: the arguments as plain values: `DiffusionUtils(**config)` builds the same object.
    Raises:
        ValueError: the schedule or prediction is unknown, T is below 1, or the table of betas
            is invalid. Methods raise ValueError if t is out of range or shapes differ.
    Source: Ho et al. 2020, section 2; v: Salimans & Ho 2022, section 4; flow: Liu et al. 2023.
    """

    def __init__(
        self,
        timesteps: int = 500,
        schedule: str | Tensor | Sequence[float] = "cosine",
        *,
        prediction: str = "eps",
        rescale_zero_snr: bool = False,
        few_steps: Sequence[int] | None = None,
    ) -> None:
        self.T = T = checks.count("timesteps", timesteps)
        self.prediction = checks.one_of("prediction", prediction, PREDICTIONS)
        betas = beta_schedule(schedule, T) if isinstance(schedule, str) else check_betas(schedule)
        if (n := len(betas)) != T + 1:
            raise ValueError(f"T = {T} needs {T + 1} betas, betas[0] = 0 included; got {n}")
        self.schedule = schedule if isinstance(schedule, str) else betas.tolist()
        self.betas = rescale_zero_terminal_snr(betas) if rescale_zero_snr else betas
        self.alphas = 1 - self.betas  # (T + 1,)
        self.alpha_bar = self.alphas.cumprod(0)  # (T + 1,), alpha_bar[0] = 1
        if prediction == "eps" and self.alpha_bar[-1] == 0:
            raise ValueError(
                "alpha_bar[T] = 0 leaves no image at T, so eps cannot tell x_0; "
                "choose prediction x_0, v or flow"
            )
        self.few_steps = few_steps and sub_sequence(T, few_steps)[:-1]
        self.config: dict[str, Any] = {
            "timesteps": self.T,
            "schedule": self.schedule,
            "prediction": prediction,
            "rescale_zero_snr": rescale_zero_snr,
        }
        if self.few_steps:
            self.config["few_steps"] = self.few_steps

    def __repr__(self) -> str:
        name = self.schedule if isinstance(self.schedule, str) else "own betas"
        zero = ", rescale_zero_snr=True" if self.config["rescale_zero_snr"] else ""
        return f"{type(self).__name__}({self.T}, {name!r}, prediction={self.prediction!r}{zero})"

    # ---- the forward process -------------------------------------------------------------

    def add_noise(self, x_0: Tensor, t: Tensor, eps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Add noise to clean images, up to timestep t, in one step.

            x_t = sqrt(alpha_bar[t]) * x_0 + sqrt(1 - alpha_bar[t]) * eps

        Args:
            x_0: clean images, (B, C, H, W) float32 in [-1, 1].
            t: timesteps, (B,) int64 in 0..T; 0 returns x_0 unchanged.
            eps: standard normal noise, shape of x_0; drawn if None.
        Returns:
            x_t and the eps that was used, each of x_0's shape.
        Source: Ho et al. 2020, eq. 4.
        """
        signal, noise = self._rates(t, x_0)
        eps = torch.randn_like(x_0) if eps is None else eps
        checks.same_shape("eps", eps, "x_0", x_0)
        return signal * x_0 + noise * eps, eps

    def posterior(
        self, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the Gaussian q(x_s | x_t, x_0): the posterior of x_s at an earlier timestep s.

        Args:
            x_0: clean images, known or predicted, (B, C, H, W).
            x_t: the same images at timestep t, shape of x_0.
            t: timesteps, (B,) int64 in 1..T.
            s: earlier timesteps, (B,) int64 in 0..t - 1; None means t - 1. At s = 0, the mean
                is x_0 and the variance is 0.
        Returns:
            mean, shape of x_0, and variance, (B, 1, 1, 1).
        Source: Ho et al. 2020, eq. 6 and 7; any s: Nichol & Dhariwal 2021, eq. 19.
        """
        checks.same_shape("x_0", x_0, "x_t", x_t)
        t = self.check_timesteps(t, x_t, least=1)
        s = t - 1 if s is None else self.check_timesteps(s, x_t)
        if not (s < t).all():
            raise ValueError(f"s must be below t, got t = {t.tolist()}, s = {s.tolist()}")
        shares = posterior_coefficients(self.alpha_bar[t], self.alpha_bar[s])  # each (B,)
        of_x_0, of_x_t, variance = (_spread(share, x_t) for share in shares)  # each (B, 1, 1, 1)
        return of_x_0 * x_0 + of_x_t * x_t, variance

    # ---- what the network predicts -------------------------------------------------------

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Compute the network's target output at x_t = add_noise(x_0, t, eps).

            eps:   eps
            x_0:   x_0
            v:     sqrt(alpha_bar[t]) * eps - sqrt(1 - alpha_bar[t]) * x_0
            flow:  eps - x_0

        Args:
            x_0: clean images, (B, C, H, W).
            eps: the noise, shape of x_0.
            t: timesteps, (B,) int64 in 0..T.
        Returns:
            The target, shape of x_0.
        Source: v: Salimans & Ho 2022, section 4; flow: Liu et al. 2023, eq. 1.
        """
        checks.same_shape("eps", eps, "x_0", x_0)
        signal, noise = self._rates(t, x_0)
        if self.prediction == "v":
            return signal * eps - noise * x_0
        if self.prediction == "flow":
            return eps - x_0
        return eps if self.prediction == "eps" else x_0

    def predict_x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Compute the clean images from a network output.

        Args:
            output: the network's output, (B, C, H, W), of the kind that `prediction` names.
            x_t: the network's input, shape of output.
            t: timesteps, (B,) int64 in 0..T; at 0, x_t is returned, unless `prediction` is x_0.
        Returns:
            x_0, shape of x_t, not clipped.
        Source: Ho et al. 2020, eq. 4 solved for x_0; Salimans & Ho 2022, appendix D.
        """
        checks.same_shape("output", output, "x_t", x_t)
        signal, noise = self._rates(t, x_t)
        if self.prediction == "eps":
            return (x_t - noise * output) / signal
        if self.prediction == "flow":  # noise * u = x_t - (signal + noise) * x_0
            return (x_t - noise * output) / (signal + noise)
        return output if self.prediction == "x_0" else signal * x_t - noise * output

    def predict_eps(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Compute the noise from a network output.

        Args:
            output: the network's output, (B, C, H, W), of the kind that `prediction` names.
            x_t: the network's input, shape of output.
            t: timesteps, (B,) int64 in 0..T; in 1..T if the network predicts x_0, which does not
                determine the noise at t = 0.
        Returns:
            eps, shape of x_t.
        """
        checks.same_shape("output", output, "x_t", x_t)
        least = 1 if self.prediction == "x_0" else 0
        signal, noise = self._rates(t, x_t, least)
        if self.prediction == "x_0":
            return (x_t - signal * output) / noise
        if self.prediction == "flow":  # signal * u = (signal + noise) * eps - x_t
            return (x_t + signal * output) / (signal + noise)
        return output if self.prediction == "eps" else noise * x_t + signal * output

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
        """Compute each image's mean squared error between the network's output and its target.

        Args:
            model: callable `model(x_t, t, y)`, or `model(x_t, t)` if y is None.
            x_0: clean images, (B, C, H, W) in [-1, 1].
            t: timesteps, (B,) int64 in 0..T, preferably on the CPU: to check t on a GPU, the
                CPU has to wait for the GPU.
            eps: the noise, shape of x_0.
            y: class labels: a tensor (B,) int64, which is not checked, or as for `sample_steps`.
            min_snr_gamma: gamma of min-SNR weighting: the loss becomes min(SNR, gamma) times the
                squared error of the predicted x_0. None applies no weight.
        Returns:
            The loss of each image, (B,), float32 (float64 for float64 images).
        Source: Ho et al. 2020, eq. 14; min-SNR: Hang et al. 2023, section 3.4.
        """
        x_t, eps = self.add_noise(x_0, t, eps)
        output = network_output(model, x_t, to_device(t, x_t.device), y)
        error = output - self.target(x_0, eps, t)
        each = error.square().flatten(1).mean(1)  # (B,)
        if min_snr_gamma is None:
            return each
        return each * self._min_snr_weight(t, min_snr_gamma).to(each)

    def _min_snr_weight(self, t: Tensor, gamma: float) -> Tensor:
        """Compute factors, (B,), that make the loss min(SNR, gamma) times the error of x_0.

            x_0: min(SNR, gamma)   eps: min(SNR, gamma) / SNR   v: min(SNR, gamma) / (SNR + 1)
            flow: min(SNR, gamma) / (sqrt(SNR) + 1) ** 2,   SNR = alpha_bar / (1 - alpha_bar)

        The code rearranges these formulas so that they are finite at alpha_bar = 0 and 1.
        """
        if not 0 < gamma < float("inf"):
            raise ValueError(f"min_snr_gamma must be a number above 0, got {gamma}")
        bar = self.alpha_bar[t.cpu().long()]  # (B,)
        if self.prediction == "v":
            return torch.minimum(bar, gamma * (1 - bar))
        # With a = sqrt(bar) and b = sqrt(1 - bar): flow's error is (a + b) times v's.
        if self.prediction == "flow":  # (a + b)^2 = 1 + 2 a b
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
        """Estimate the training loss: the mean `loss` at random timesteps, with random noise.

        Args:
            model, x_0, y: as for `loss`.
            generator: draws t, uniform in 1..T, and then eps; None uses the global generator.
        Returns:
            A scalar.
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
    ) -> Iterator[Step]:
        """Draw n images from noise, step by step.

        The first `Step` holds x_T and the largest timestep, usually T. The last `Step` has t = 0,
        and its x_t is the result, so k steps yield k + 1 `Step` objects. Each also holds the x_0
        that is predicted from its x_t. The network stays in its mode (train or eval), and no
        gradients are recorded.

        Args:
            model: callable `model(x_t, t, y)`, or `model(x_t, t)` if y is None. The images are
                made on its parameters' device, in float32 (float64 if the network is in float64);
                the network is called in its own dtype.
            n: number of images, at least 1.
            sampler: ddpm (ancestral), ddim, heun or dpm++. heun makes up to two network calls per
                step; with the schedule flow, it averages slopes in the time of flow matching.
            steps: number of steps in 1..T, or a decreasing list of timesteps without the final 0,
                such as [500, 300, 100]. None means T steps.
            eta: how much noise ddim adds, from 0 (none, the default) to 1 (as much as ddpm).
            guidance: scale of classifier-free guidance; 1 is the plain class-conditional
                prediction, 0 ignores y, values above 1 strengthen the class. Values other than 1
                need y and a network that takes -1 for "no label".
            y: class numbers or names (from `model.classes`), (n,), or one for all images; None
                passes no labels.
            seed: noise seed, an int of at least 0. The noise of an image depends only on the seed
                and its number, first + its place in the batch. None draws a seed from torch's
                global generator.
            x_T: start noise, (n, C, H, W), instead of the seed's noise; the seed still determines
                the noise of the steps.
            clip: clip the predicted x_0 to [-1, 1] before each step.
            shape: shape of one image, (C, H, W); by default `model.image_shape`, or x_T's.
            first: number of the first image: n = 16, first = 16 draws images 16 to 31 of the seed.
            spacing: how timesteps are spaced if `steps` is a number: "trailing" starts at T,
                "leading" starts below T (Lin et al. 2024).
            variance: variance of ddpm's noise: posterior (the default) or beta.
            guidance_interval: (low, high), the timesteps that use guidance; the others use the
                plain class-conditional prediction (Kynkäänniemi et al. 2024). None means all.
        Returns:
            An iterator of `Step(t, x_t, x_0_pred)`.
        Raises:
            ValueError: an option is invalid. It is raised by this call, not by the first `next`.
        """
        run = choose_sampler(sampler, eta, variance, self.schedule)
        ts = sub_sequence(self.T, steps, spacing)
        denoise = self.denoiser(
            model, n, y=y, guidance=guidance, guidance_interval=guidance_interval, clip=clip
        )
        device, dtype = device_and_precision(model, x_T)
        noise = picture_noise(seed, n, image_shape(model, shape, x_T, n), device, dtype, first)
        start = noise()  # drawn even if x_T is given, so that the noise of the steps stays the same
        start = start if x_T is None else x_T.detach().to(device, dtype)
        return run(denoise, start, ts, self.alpha_bar, noise)

    def sample(self, model: Model, n: int, **options: Any) -> Tensor:
        """Draw n images from noise, and return the last x_t of `sample_steps`.

        Args:
            model, n, options: as for `sample_steps`.
        Returns:
            (n, C, H, W), in [-1, 1] if clip is True.
        """
        for step in self.sample_steps(model, n, **options):
            x_0 = step.x_t
        return x_0

    def denoiser(
        self,
        model: Model,
        n: int,
        *,
        y: Labels | None = None,
        guidance: float = 1.0,
        guidance_interval: tuple[int, int] | None = None,
        clip: bool = True,
    ) -> Denoise:
        """Return the function that a sampler calls: it predicts x_0 from n noisy images.

        Args:
            model, n, y, guidance, guidance_interval, clip: as for `sample_steps`. With guidance,
                the network gets a batch twice as large.
        Returns:
            A function of x_t, (n, C, H, W), and one timestep; it returns x_0, shape of x_t.
        Source: guidance: Ho & Salimans 2022, eq. 6, with w = guidance - 1.
        """
        n = checks.count("n", n)
        scale = checks.number("guidance", guidance)
        guided = guided_range(scale, guidance_interval, y, self.T)
        labels = None if y is None else checks.labels(y, n, model, device_and_dtype(model)[0])

        @torch.no_grad()
        def denoise(x_t: Tensor, t: int) -> Tensor:
            t_all = torch.full((len(x_t),), t, device=x_t.device)
            y_all = None if labels is None else labels.to(x_t.device)
            if y_all is None or t not in guided:
                output = network_output(model, x_t, t_all, y_all)
            else:  # with the label and without it, in one batch
                both = torch.cat([y_all, torch.full_like(y_all, NO_LABEL)])
                x_twice, t_twice = torch.cat([x_t, x_t]), torch.cat([t_all, t_all])
                with_y, without = network_output(model, x_twice, t_twice, both).chunk(2)
                output = without + scale * (with_y - without)
            x_0 = self.predict_x_0(output, x_t, torch.full((len(x_t),), t))
            return x_0.clamp(-1, 1) if clip else x_0

        return denoise

    @property
    def few_step_options(self) -> dict[str, Any]:
        """The `sample` options that the network was distilled for; empty for other networks."""
        return {"sampler": "ddpm", "steps": self.few_steps} if self.few_steps else {}

    # ---- tables --------------------------------------------------------------------------

    def check_timesteps(self, t: Tensor, x: Tensor, least: int = 0) -> Tensor:
        """Check that t, (B,), holds whole numbers in least..T, one for each image of the batch x.

        Returns:
            t, int64 on the CPU, where the tables are.
        """
        checks.images("the batch", x)
        kind = getattr(t, "dtype", type(t).__name__)
        if kind not in (torch.int64, torch.int32):
            raise ValueError(f"t must be an int64 tensor of {len(x)} timesteps, got {kind}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t must be ({len(x)},), one timestep per image; got {tuple(t.shape)}")
        t = t.cpu().long()
        if len(t) and not least <= int(t.min()) <= int(t.max()) <= self.T:
            raise ValueError(f"t must lie in {least}..{self.T}, got {int(t.min())}..{int(t.max())}")
        return t

    def _rates(self, t: Tensor, like: Tensor, least: int = 0) -> tuple[Tensor, Tensor]:
        """Compute sqrt(alpha_bar[t]) and sqrt(1 - alpha_bar[t]), each (B, 1, 1, 1), for `like`."""
        bar = self.alpha_bar[self.check_timesteps(t, like, least)]
        return _spread(bar.sqrt(), like), _spread((1 - bar).sqrt(), like)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Convert (B,) float64 on the CPU to (B, 1, 1, 1) in like's precision, on its device."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return to_device(values.to(dtype), like.device).reshape(-1, 1, 1, 1)


def network_calls(
    diffusion: DiffusionUtils, steps: int | Sequence[int] | None = None, sampler: str = "ddpm"
) -> int:
    """Count a sampler's network calls, which take most of its time, by running it on zeros.

    Args:
        diffusion: its alpha_bar determines which steps heun corrects: a step to s > 0 if it
            reduces sqrt((1 - alpha_bar) / alpha_bar) by a factor of at most 4; with the schedule
            flow, all steps except the last.
        steps, sampler: as for `DiffusionUtils.sample_steps`.
    Returns:
        Number of calls: one per step; for heun, up to two. With guidance, the batch of each call is
        twice as large.
    """
    calls, x = [], torch.zeros(1, 1, 1, 1)

    def denoise(x_t: Tensor, t: int) -> Tensor:
        calls.append(t)
        return x_t

    run = choose_sampler(sampler, None, None, diffusion.schedule)
    for _ in run(denoise, x, sub_sequence(diffusion.T, steps), diffusion.alpha_bar, lambda: x):
        pass
    return len(calls)
