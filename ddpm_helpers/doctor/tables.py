"""The table of alpha_bar under any convention for t, and the call of other people's code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.checks import one_of
from ddpm_helpers.diffusion import PREDICTIONS, beta_schedule


class ContractError(ValueError):
    """A sampler calls its network in a way that the doctor cannot interpret."""


@dataclass(frozen=True)
class Path:
    """alpha_bar as a function of a continuous t, for samplers with a scale of their own.

    Attributes:
        of: t -> alpha_bar.
        size: t -> the factor of x in the sampler over x_t = sqrt(bar) x_0 + sqrt(1 - bar) eps.
    """

    of: Callable[[float], float]
    size: Callable[[float], float]

    def __call__(self, t: float) -> float:
        """alpha_bar at t."""
        return self.of(t)


class Bars:
    """alpha_bar as a function of the t that the network is given.

    Entry t of the table is alpha_bar of the x_t for which the network is given t. Most code outside
    this project has T entries for t = 0..T-1, the first a little below 1. Ours has T + 1 entries
    for t = 0..T, the first exactly 1. If a network is given 1..T while the table has T entries, put
    a 1 in front of the table.

    Args:
        alpha_bar: table, (T,) or (T + 1,); or a function of a continuous t that returns a number.
    Attributes:
        table: float64 on the CPU; None for a function.
        first: the smallest t with noise, 0 or 1; last: the largest t; both 0 for a function.
        between: how t between two rows is read, one of `BETWEEN`.
    Raises:
        ValueError: not a table of at least two numbers.
    """

    BETWEEN = ("sigma", "log sigma", "log alpha_bar")

    def __init__(self, alpha_bar: Any, between: str = "sigma") -> None:
        self.between, self.function = between, alpha_bar if callable(alpha_bar) else None
        self.first, self.last = 0, 0
        if self.function is not None:
            return
        try:
            self.table = torch.as_tensor(alpha_bar, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            kind = type(alpha_bar).__name__
            raise ValueError(f"alpha_bar must be a table of numbers, got {kind}") from None
        if self.table.ndim != 1 or len(self.table) < 2:
            shape = tuple(self.table.shape)
            raise ValueError(f"alpha_bar must be a table (T,) or (T + 1,), got {shape}")
        self.first = int(self.table[0] == 1)
        self.last = len(self.table) - 1

    def holds(self, t: float) -> bool:
        """Whether t belongs to an image with noise; in float32, T times 1 / T may exceed T."""
        return self.function is not None or self.first - 1e-4 <= t <= self.last + 1e-4

    def at(self, t: float) -> float:
        """alpha_bar at t: 1 below 0, the last entry above the table, in between as `between`."""
        if self.function is not None:
            return min(1.0, max(0.0, float(self.function(t))))
        if t < 0:
            return 1.0
        low = min(int(t), self.last)
        part = min(t, self.last) - low
        if part == 0:
            return float(self.table[low])
        a, b = float(self.table[low]), float(self.table[low + 1])
        if self.between == "log alpha_bar" and b > 0:
            return a ** (1 - part) * b**part
        if b == 0:
            return a * (1 - part)
        ends = [math.sqrt(1 / bar - 1) for bar in (a, b)]  # sigma, as in samplers
        if self.between == "log sigma" and ends[0] > 0:
            return 1 / (1 + (ends[0] ** (1 - part) * ends[1] ** part) ** 2)
        return 1 / (1 + (ends[0] * (1 - part) + ends[1] * part) ** 2)

    def size(self, t: float) -> float:
        """The factor of x in the sampler's own scale, see `Path`."""
        return self.function.size(t) if isinstance(self.function, Path) else 1.0

    def step(self, share: float) -> int:
        """The t at this share of the way from the first to the last."""
        return int(self.first + share * (self.last - self.first))

    def column(self, t: Tensor, like: Tensor) -> Tensor:
        """alpha_bar at whole t, (B,) -> (B, 1, 1, 1), ready to be multiplied with `like`."""
        return self.table[t.cpu().long()].to(like.device, like.dtype).reshape(-1, 1, 1, 1)


def usual_betas(T: int) -> dict[str, Tensor]:
    """The betas of schedules that people use, name -> (T,) float64."""
    betas = {
        "linear": beta_schedule("linear", T)[1:],
        "linear, scaled by 1000 / T": 1000 / T * torch.linspace(1e-4, 0.02, T).double(),
        "scaled linear of Stable Diffusion": torch.linspace(0.00085**0.5, 0.012**0.5, T) ** 2,
        "cosine": beta_schedule("cosine", T)[1:],
        "quadratic": beta_schedule("quadratic", T)[1:],
        "sigmoid": beta_schedule("sigmoid", T)[1:],
    }
    return {name: table.double().clamp(max=0.999) for name, table in betas.items()}


def check_kind(prediction: str) -> str:
    """Refuse an unknown kind of prediction."""
    return one_of("prediction", prediction, PREDICTIONS)


def target(prediction: str, x_0: Tensor, eps: Tensor, bar: Any) -> Tensor:
    """The target: eps, x_0, v = sqrt(bar) eps - sqrt(1 - bar) x_0, or flow = eps - x_0."""
    if prediction == "v":
        return bar**0.5 * eps - (1 - bar) ** 0.5 * x_0
    if prediction == "flow":
        return eps - x_0
    return eps if prediction == "eps" else x_0


def error_gain(prediction: str, bar: Any) -> Any:
    """The squared error of an output over that of the x_0 that follows from it."""
    snr = bar / (1 - bar)
    gains = {"eps": snr, "x_0": snr**0, "v": snr + 1, "flow": (snr**0.5 + 1) ** 2}
    return gains[prediction]


def noised(
    x_0: Tensor, bar: Any, prediction: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """x_t at alpha_bar = bar with noise from the generator, and the target that belongs to it."""
    eps = torch.randn(x_0.shape, generator=generator).to(x_0)
    return bar**0.5 * x_0 + (1 - bar) ** 0.5 * eps, target(prediction, x_0, eps, bar)


def ask(
    model: Callable[..., Any], x_t: Tensor, t: Any, y: Tensor | None = None, *, finite: bool = True
) -> Tensor:
    """Call any network once, without gradients.

    Args:
        model: called as `model(x_t, t)`, or `model(x_t, t, y)` where y is given.
        x_t: (B, C, H, W).
        t: one step for all, or (B,).
        y: labels, (B,), or None.
        finite: refuse NaN and infinite values.
    Returns:
        The network's output, (B, C, H, W).
    Raises:
        ValueError: the call fails, or its output has another shape or is not finite; one line says
            what was called.
    """
    steps = torch.as_tensor(t, device=x_t.device).expand(len(x_t))
    call = f"model(x_t {tuple(x_t.shape)}, t {tuple(steps.shape)} {str(steps.dtype)[6:]}"
    expects = f"the doctor calls {call}{'' if y is None else ', y'}) and expects x_t's shape"
    with torch.no_grad(), calling("the model", expects):
        out = model(x_t, steps) if y is None else model(x_t, steps, y)
    if shape_of(out) != x_t.shape:
        raise ValueError(f"the model returned {shape_of(out)}; {expects}")
    if finite and not torch.isfinite(out).all():
        raise ValueError("the model returned NaN or infinite values: see check_precision first")
    return out


@contextmanager
def calling(name: str, expects: str) -> Iterator[None]:
    """Around a call of other people's code, which may raise anything.

    Raises:
        ValueError: one line that names the function and the error, and says what was expected; a
            ContractError says so already and passes.
    """
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:160]
        raised = f"{type(error).__name__}: {words}" if words else type(error).__name__
        raise ValueError(f"{name} raised {raised}; {expects}") from error


def shape_of(value: Any) -> tuple[int, ...] | str:
    """A tensor's shape; the type's name of anything else. Messages say it, checks compare it."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return float(x.double().square().mean().sqrt())


def fit(x: Tensor, *parts: Tensor) -> tuple[list[float], Tensor]:
    """Least squares: the weights of x as a sum of parts of its shape (float64), and the rest."""
    M = torch.stack([part.flatten() for part in parts])  # (k, N)
    sizes = M.norm(dim=1).clamp(min=1e-30)  # (k,), to compute with rows of one length
    M = M / sizes[:, None]
    inverse = torch.linalg.pinv(M @ M.T, hermitian=True, rtol=1e-13)
    shares = inverse @ (M @ x.flatten())  # (k,)
    rest = x - (shares @ M).reshape(x.shape)
    return (shares / sizes).tolist(), rest
