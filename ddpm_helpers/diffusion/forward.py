"""The forward process: the tables of a noise schedule, noising, its posterior, and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.device import to_device
from ddpm_helpers.diffusion.samplers import posterior_coefficients
from ddpm_helpers.diffusion.schedules import (
    beta_schedule,
    check_betas,
    rescale_zero_terminal_snr,
)

PREDICTIONS = ("eps", "x_0", "v", "flow")


class ForwardProcess:
    """A noise schedule and the Gaussians that follow from it; no network is called here.

    Args:
        timesteps: T, number of steps, at least 1.
        schedule: name of a schedule (see `beta_schedule`), or a table of betas (T + 1,) with
            betas[0] = 0.
        prediction: what the network predicts: eps (the noise), x_0 (the clean image), v, or flow,
            the velocity eps - x_0 of the straight path between the two.
        rescale_zero_snr: change the schedule so that alpha_bar[T] = 0 exactly, as it is with flow;
            refused with eps, which says nothing about x_0 there.
    Attributes:
        T: number of steps.
        betas, alphas, alpha_bar: float64 (T + 1,) on the CPU; alpha_bar[0] = 1 exactly.
        prediction: as given.
        schedule: its name, or the betas that were given, as a list.
        config: the arguments as plain values: enough to build the same object again.
    Raises:
        ValueError: unknown schedule or prediction, T below 1, or a table that is not a schedule.
    Source: Ho et al. 2020, section 2; v: Salimans & Ho 2022, section 4; flow: Liu et al. 2023.
    """

    def __init__(
        self,
        timesteps: int = 500,
        schedule: str | Tensor | Sequence[float] = "cosine",
        *,
        prediction: str = "eps",
        rescale_zero_snr: bool = False,
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
                "alpha_bar[T] = 0 leaves no picture at T, so eps cannot tell x_0; "
                "choose prediction x_0, v or flow"
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
        return f"{type(self).__name__}({self.T}, {name!r}, prediction={self.prediction!r}{zero})"

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
        checks.same_shape("eps", eps, "x_0", x_0)
        return signal * x_0 + noise * eps, eps

    def posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian q(x_{t-1} | x_t, x_0): where x_{t-1} lies if x_t and x_0 are known.

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
        checks.same_shape("x_0", x_0, "x_t", x_t)
        t, s = self._steps(t, x_t, least=1), self._steps(s, x_t)
        if not (s < t).all():
            raise ValueError(
                f"s must lie below t everywhere, got t = {t.tolist()}, s = {s.tolist()}"
            )
        shares = posterior_coefficients(self.alpha_bar[t], self.alpha_bar[s])  # each (B,)
        of_x_0, of_x_t, variance = (_spread(share, x_t) for share in shares)  # each (B, 1, 1, 1)
        return of_x_0 * x_0 + of_x_t * x_t, variance

    # ---- what the network predicts -------------------------------------------------------

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should output at x_t = add_noise(x_0, t, eps).

            eps  |  x_0  |  v = sqrt(alpha_bar[t]) * eps - sqrt(1 - alpha_bar[t]) * x_0
            flow: u = eps - x_0

        Args:
            x_0: clean images, (B, C, H, W).
            eps: the noise, shape of x_0.
            t: steps, (B,) int64 in 0..T.
        Returns:
            The target, shape of x_0.
        Raises:
            ValueError: t outside 0..T, or shapes that differ.
        Source: v: Salimans & Ho 2022, section 4; flow: Liu et al. 2023, eq. 1.
        """
        checks.same_shape("eps", eps, "x_0", x_0)
        signal, noise = self._at(self._signal, t, x_0), self._at(self._noise, t, x_0)
        if self.prediction == "v":
            return signal * eps - noise * x_0
        if self.prediction == "flow":
            return eps - x_0
        return eps if self.prediction == "eps" else x_0

    def predict_x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean images that follow from a network output.

        Args:
            output: the network's output, a prediction of the chosen kind, (B, C, H, W).
            x_t: the noisy images that it was given, shape of output.
            t: steps, (B,) int64 in 0..T; at 0, all but x_0 give x_t unchanged.
        Returns:
            x_0, shape of x_t, not clipped.
        Raises:
            ValueError: t outside 0..T, or shapes that differ.
        Source: Ho et al. 2020, eq. 4 solved for x_0; Salimans & Ho 2022, appendix D.
        """
        checks.same_shape("output", output, "x_t", x_t)
        signal, noise = self._at(self._signal, t, x_t), self._at(self._noise, t, x_t)
        if self.prediction == "eps":
            return (x_t - noise * output) / signal
        if self.prediction == "flow":  # noise * u = x_t - (signal + noise) * x_0
            return (x_t - noise * output) / (signal + noise)
        return output if self.prediction == "x_0" else signal * x_t - noise * output

    def predict_eps(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that follows from a network output.

        Args:
            output: the network's output, a prediction of the chosen kind, (B, C, H, W).
            x_t: the noisy images that it was given, shape of output.
            t: steps, (B,) int64 in 0..T; in 1..T if the network predicts x_0, which at t = 0
                says nothing about the noise.
        Returns:
            eps, shape of x_t.
        Raises:
            ValueError: t out of range, or shapes that differ.
        """
        checks.same_shape("output", output, "x_t", x_t)
        least = 1 if self.prediction == "x_0" else 0
        signal, noise = self._at(self._signal, t, x_t, least), self._at(self._noise, t, x_t, least)
        if self.prediction == "x_0":
            return (x_t - signal * output) / noise
        if self.prediction == "flow":  # signal * u = (signal + noise) * eps - x_t
            return (x_t + signal * output) / (signal + noise)
        return output if self.prediction == "eps" else noise * x_t + signal * output

    # ---- tables --------------------------------------------------------------------------

    def _steps(self, t: Tensor, like: Tensor, least: int = 0) -> Tensor:
        """t on the CPU, (B,), after a check that it lies in least..T and fits the batch `like`."""
        checks.images("the batch", like)
        kind = getattr(t, "dtype", type(t).__name__)
        if kind not in (torch.int64, torch.int32):
            raise ValueError(f"t must be an int64 tensor of {len(like)} steps, got {kind}")
        if t.shape != like.shape[:1]:
            raise ValueError(f"t must be ({len(like)},), one step per image; got {tuple(t.shape)}")
        t = t.cpu().long()
        if len(t) and not least <= int(t.min()) <= int(t.max()) <= self.T:
            raise ValueError(f"t must lie in {least}..{self.T}, got {int(t.min())}..{int(t.max())}")
        return t

    def _at(self, table: Tensor, t: Tensor, like: Tensor, least: int = 0) -> Tensor:
        """table[t], ready to be multiplied with a batch like `like`: (B, 1, 1, 1)."""
        return _spread(table[self._steps(t, like, least)], like)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """(B,) float64 on the CPU to (B, 1, 1, 1) on like's device, rounded once to its precision."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return to_device(values.to(dtype), like.device).reshape(-1, 1, 1, 1)
