"""Adapters for samplers that scale x_t in another way: sigma (k-diffusion, EDM) and flow matching.

patient = from_sigma(lambda model, x: sample_euler(model, x * sigmas[0], sigmas))
patient = from_flow(lambda model, x: odeint(model, x), noise_at=0)
print(patient.check_sampler())
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_helpers.checks import one_of
from ddpm_helpers.doctor.oracle import find_arguments
from ddpm_helpers.doctor.patient import Patient
from ddpm_helpers.doctor.tables import Path

SampleFn = Callable[..., Any]


def from_sigma(sample: SampleFn, *, prediction: str = "x_0", **options: Any) -> Patient:
    """A loop in the scale of sigma, x = x_0 + sigma * eps, as in k-diffusion and EDM.

    Args:
        sample: `sample(model, x_T) -> x_0`, which multiplies the standard normal x_T with its
            first sigma and calls `model(x, sigma)`.
        prediction: what model returns: x_0 (the denoised image), eps, v, or score for -eps / sigma.
        options: of `Patient`, such as shape.
    """
    one_of("prediction", prediction, ("x_0", "eps", "v", "score"))

    path = Path(lambda sigma: 1 / (1 + sigma**2), lambda sigma: math.sqrt(1 + sigma**2))

    def factor(sigma: float) -> float:
        return -1 / sigma if prediction == "score" else 1.0

    kind = "eps" if prediction == "score" else prediction
    return Patient(path, kind, _adapted(sample, factor), **options)


def from_flow(
    sample: SampleFn, *, noise_at: float = 1.0, sign: float = 1.0, scale: float = 1.0,
    **options: Any,
) -> Patient:  # fmt: skip
    """A loop of flow matching, x = (1 - tau) x_0 + tau eps, whose model returns dx/dt.

    Args:
        sample: `sample(model, x_T) -> x_0`, which calls `model(x, t)`, or `model(t, x)`.
        noise_at: the t of noise, 0 (torchcfm, RectifiedFlow: t goes up) or 1 (minRF: it goes down).
        sign: -1 if model returns -dx/dt.
        scale: t is given as scale * t, such as 999 or 1000.
        options: of `Patient`, such as shape.
    """
    if noise_at not in (0, 1):
        raise ValueError(f"noise_at must be 0 or 1, got {noise_at!r}")

    def share(t: float) -> float:
        """tau of t."""
        return min(1.0, max(0.0, t / scale if noise_at else 1 - t / scale))

    def size(t: float) -> float:
        return math.hypot(1 - share(t), share(t))

    path = Path(lambda t: ((1 - share(t)) / size(t)) ** 2, size)
    return Patient(path, "flow", _adapted(sample, lambda t: sign if noise_at else -sign), **options)


def _adapted(sample: SampleFn, factor: Callable[[float], float]) -> SampleFn:
    def adapted(model: Any, x_T: Tensor) -> Any:
        return sample(_Adapted(model, factor, x_T.shape[1:]), x_T)

    return adapted


class _Adapted(nn.Module):
    """A network whose output is multiplied by a factor of t."""

    sigma_min, sigma_max = 0.0, math.inf  # what EDM's sampler asks of a network

    def __init__(self, model: Any, factor: Callable[[float], float], shape: Any) -> None:
        super().__init__()
        self.model, self.factor, self.shape = model, factor, shape
        self.device, self.dtype = model.device, model.dtype

    def forward(self, *args: Any, **options: Any) -> Tensor:
        x, t, labels = find_arguments(args, options, self.shape)
        one = torch.as_tensor(t, dtype=torch.float64).detach().flatten()[0]
        return self.factor(float(one)) * self.model(x, t, *labels)

    def round_sigma(self, sigma: Any) -> Tensor:
        """The nearest sigma of training, of which EDM's sampler makes its steps: itself."""
        return torch.as_tensor(sigma)
