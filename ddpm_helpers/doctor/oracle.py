"""A perfect network for a known picture, which records how a sampler calls it.

The oracle knows x_0, so it predicts the noise in any x_t exactly, and only the sampler is tested: a
correct one ends at x_0, and each of its steps has the form

    x_s = A * x_0 + B * eps + sigma * z,    A = sqrt(bar_s),    B^2 + sigma^2 = 1 - bar_s,

in which A, B and sigma can be measured, because x_0 and eps are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.tables import Bars, ContractError, calling, rms, shape_of, target

OTHER = 7919  # added to the seed for the loop, so that its noise differs from x_0 and x_T
END = -math.inf  # the "t" of what a sampler returns


@dataclass(frozen=True)
class Move:
    """One step of somebody's sampler, measured.

    Attributes:
        t, s: the t of the network calls before and after it; s = END for the result.
        bar_t, bar_s: alpha_bar there.
        A, B, sigma: the parts of x_0, of eps and of fresh noise in x_s.
        clipped: how much of the mean beyond -1 and 1 is missing from x_s: 1 if it was cut off.
        repeated: correlation of its noise with that of the move before.
        shared: correlation of its noise between the first two pictures of the batch.
        largest: the largest absolute value in x_s.
        level: rms of the eps in x_t, about 1 in a correct walk.
        values: how many were fitted, n * C * H * W.
    """

    t: float
    s: float
    bar_t: float
    bar_s: float
    A: float
    B: float
    sigma: float
    clipped: float
    repeated: float
    shared: float
    largest: float
    level: float
    values: int

    @property
    def posterior_sigma(self) -> float:
        """The sigma of DDPM's step with the posterior variance: Ho et al. 2020, eq. 7."""
        if self.bar_t >= self.bar_s:
            return 0.0
        return math.sqrt((1 - self.bar_s) / (1 - self.bar_t) * (1 - self.bar_t / self.bar_s))

    @property
    def beta_sigma(self) -> float:
        """The sigma of DDPM's step with variance beta: Ho et al. 2020, section 3.2."""
        return math.sqrt(max(0.0, 1 - self.bar_t / self.bar_s))

    @property
    def posterior_B(self) -> float:
        """B of DDPM's step, which leaves room for its noise."""
        return math.sqrt(max(0.0, 1 - self.bar_s - self.posterior_sigma**2))

    def off(self, A: float, B: float) -> tuple[float, float]:
        """How far the measured A and B are from given ones, in standard errors."""
        level = max(0.01, min(1.0, self.level))  # x_0's is about 0.46
        error = math.hypot(3e-4, 2.2 * self.sigma / (level * math.sqrt(self.values)))
        return (self.A - A) / error, (self.B - B) / error

    def expected(self) -> tuple[float, float]:
        """The right A and B: of DDIM with this much noise, or of DDPM, whichever is nearer."""
        ddim = math.sqrt(max(0.0, 1 - self.bar_s - self.sigma**2))
        slack = 0.003 + 0.05 * self.sigma
        candidates = []
        if self.sigma < self.posterior_sigma + slack:
            candidates.append(ddim)
        if self.posterior_sigma - slack < self.sigma < self.beta_sigma + slack:
            candidates.append(self.posterior_B)
        B = min(candidates, key=lambda B: abs(self.B - B), default=math.inf)
        return math.sqrt(self.bar_s), B


class Oracle:
    """A network without errors; `moves` are the sampler's steps between its calls.

    Args:
        x_0: the known picture, (B, C, H, W) in [-1, 1].
        bars: alpha_bar by t.
        prediction: what it predicts: eps, x_0, v or flow.
        shift: added to every t that it is given.
        error: relative error of its outputs.
        spread: 0, or the standard deviation of a Gaussian around x_0: then it predicts
            E[x_0 | x_t] of that Gaussian, and a correct sampler draws from it.
        measures: whether it measures the moves, which is most of its work.
    """

    def __init__(
        self, x_0: Tensor, bars: Bars, prediction: str, *, shift: int = 0, error: float = 0.0,
        spread: float = 0.0, measures: bool = True,
    ) -> None:  # fmt: skip
        self.x_0, self.bars, self.prediction, self.measures = x_0, bars, prediction, measures
        self.shift, self.error, self.spread = shift, error, spread
        self.told: list[float] = []
        self.moves: list[Move] = []
        self.start: Tensor | None = None
        self._before: tuple[float, float, Tensor] | None = None  # t, bar, eps
        self._noise: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Any, *_: Any, **__: Any) -> Tensor:
        told = self._told(x_t, t)
        bar = self.bars.at(told + self.shift)
        x_0 = self.x_0.repeat(-(-len(x_t) // len(self.x_0)), 1, 1, 1)[: len(x_t)].to(x_t)
        if self.spread:  # the mean of a Gaussian times a Gaussian
            gain = math.sqrt(bar) * self.spread**2 / (bar * self.spread**2 + 1 - bar)
            x_0 = x_0 + gain * (x_t - math.sqrt(bar) * x_0)
        eps = (x_t - math.sqrt(bar) * x_0) / math.sqrt(1 - bar) if bar < 1 else 0 * x_t
        if self.measures:
            self._note(told, bar, x_t, eps)
        return (1 - self.error) * target(self.prediction, x_0, eps, bar)

    def _told(self, x_t: Tensor, t: Any) -> float:
        """The t of this call; a ContractError says what the oracle expected instead."""
        if not isinstance(x_t, Tensor) or x_t.shape[1:] != self.x_0.shape[1:]:
            C, H, W = self.x_0.shape[1:]
            raise ContractError(
                f"the sampler passed its network {shape_of(x_t)}, expected (B, {C}, {H}, {W})"
            )
        steps = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
        if len(steps) not in (1, len(x_t)) or bool((steps != steps[:1]).any()):
            raise ContractError(
                f"the sampler passed its network t of shape {tuple(steps.shape)} for a batch of "
                f"{len(x_t)}; expected one step, the same for all"
            )
        told = float(steps[0])
        if told != int(told) and 0 < told < 1 < self.bars.last:
            raise ContractError(
                f"the sampler passes its network t = {told:.4g}, a fraction of T, but t must be "
                "a row of alpha_bar: wrap the network to multiply t by T"
            )
        self.told.append(told)
        return told

    def _note(self, t: float, bar: float, x_t: Tensor, eps: Tensor) -> None:
        n = len(self.x_0)
        if self.start is None:
            self.start = x_t[:n].detach().clone()
        if self._before is not None:
            self.moves.append(self._measure(t, bar, x_t[:n]))
        self._before = (t, bar, eps[:n].detach().double())

    def finish(self, result: Tensor) -> None:
        """Note the result as the last move."""
        if self.measures:
            self.moves.append(self._measure(END, 1.0, result))

    def _measure(self, s: float, bar_s: float, x_s: Tensor) -> Move:
        assert self._before is not None
        t, bar_t, eps = self._before
        x_s, x_0 = x_s.detach().double(), self.x_0.to(x_s.device).double()
        if not torch.isfinite(x_s).all():
            return Move(t, s, bar_t, bar_s, *(math.inf,) * 3, 0.0, 0.0, 0.0, math.inf, 1.0, 1)
        (A, B), noise = fit(x_s, x_0, eps)
        sigma = float(noise.square().mean().sqrt())
        repeated = correlation(noise, self._noise) if self._noise is not None else 0.0
        shared = correlation(noise[0], noise[1])
        self._noise = noise
        move = Move(
            t, s, bar_t, bar_s, A, B, sigma, 0.0, repeated, shared, float(x_s.abs().max()),
            rms(eps), x_s.numel(),
        )  # fmt: skip
        if s != END and bar_s < 0.7:
            clipped = max(_missing(mean, x_s, x_0, eps) for mean in self._means(move, x_0, eps))
            move = Move(**(vars(move) | {"clipped": clipped}))
        return move

    @staticmethod
    def _means(move: Move, x_0: Tensor, eps: Tensor) -> list[Tensor]:
        """The mean of x_s in DDPM and in DDIM."""
        B = (move.posterior_B, math.sqrt(1 - move.bar_s))
        return [math.sqrt(move.bar_s) * x_0 + b * eps for b in B]


def fit(x: Tensor, *parts: Tensor) -> tuple[list[float], Tensor]:
    """Least squares: the weights of x as a sum of parts of its shape (float64), and the rest."""
    M = torch.stack([part.flatten() for part in parts])  # (k, N)
    shares = torch.linalg.lstsq((M @ M.T).cpu(), (M @ x.flatten()).cpu()[:, None]).solution[:, 0]
    rest = x - sum(c * part for c, part in zip(shares.tolist(), parts, strict=True))
    return shares.tolist(), rest


def _missing(mean: Tensor, x_s: Tensor, x_0: Tensor, eps: Tensor) -> float:
    """How much of what a mean has outside of [-1, 1] is missing from x_s: 0 nothing, 1 all."""
    beyond = mean - mean.clamp(-1, 1)
    if rms(beyond) < 0.004:
        return 0.0
    return -fit(x_s, x_0, eps, beyond)[0][2]


def correlation(a: Tensor, b: Tensor) -> float:
    """Between -1 and 1; 0 where one of the two does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > 1e-9 else 0.0


def walk(sample_fn: Callable[..., Any], oracle: Oracle, x_T: Tensor, seed: int = 0) -> Tensor:
    """Run somebody's sampler once, with the oracle in the network's place.

    Returns:
        What it drew, (B, C, H, W).
    Raises:
        ValueError: it fails, never calls the network, or returns another shape; one line says
            what was expected.
    """
    expects = f"the doctor calls sample_fn(model, x_T {tuple(x_T.shape)}) and expects x_T's shape"
    with calling("the sampler", expects), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + OTHER)  # not the numbers that x_0 is made of
        result = sample_fn(oracle, x_T.clone())
    if shape_of(result) != x_T.shape:
        raise ValueError(f"the sampler returned {shape_of(result)}; {expects}")
    if not oracle.told:
        raise ValueError(f"the sampler never called its network; {expects}")
    result = result.detach().float().to(oracle.x_0.device)
    oracle.finish(result)
    return result
