"""The steps between a sampler's network calls, measured.

Each step of a correct sampler has the form

    x_s = A * x_0 + B * eps + sigma * z,    A = sqrt(bar_s),    B^2 + sigma^2 = 1 - bar_s,

in which A, B and sigma can be measured, because x_0 and eps are known. Two runs with the same
random numbers, of which the second is answered with new images at every call, differ by what the
answers cause alone: the noise cancels, and A and B are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddpm_helpers.doctor.oracle import Record
from ddpm_helpers.doctor.tables import fit, rms

END = -math.inf  # the "t" of what a sampler returns
LARGE = 100.0  # rms of eps above which rounding hides what is clipped
SURE = 5.0  # standard errors


@dataclass(frozen=True)
class Move:
    """One step of a sampler, measured.

    Attributes:
        t, s: the t of the network calls before and after it; s = END for the result.
        bar_t, bar_s: alpha_bar there.
        A, B, sigma: the parts of x_0, of eps and of fresh noise in x_s.
        error: standard error of A and B.
        values: how many were measured.
        clipped: how much of what should lie beyond -1 and 1 is missing from x_s: 1 if all.
        repeated: correlation of its noise with that of the move before.
        shared: correlation of its noise between the first two images of the batch.
        flat: share of the noise's variance that is the same for all pixels of a channel.
        offset, kurtosis: of its noise, 0 and 3 if normal.
        size: rms of the eps in x_t, about 1 in a correct walk.
        alone: whether x_s depends on x_t and the last answer alone, and linearly.
    """

    t: float
    s: float
    bar_t: float
    bar_s: float
    A: float
    B: float
    sigma: float
    error: float = 0.0
    values: int = 1
    clipped: float = 0.0
    repeated: float = 0.0
    shared: float = 0.0
    flat: float = 0.0
    offset: float = 0.0
    kurtosis: float = 3.0
    size: float = 1.0
    alone: bool = True

    @property
    def linear(self) -> bool:
        """Whether A and B are exact: nothing is clipped."""
        return math.isfinite(self.A) and (self.alone or self.sigma < 1e-4)

    @property
    def posterior_sigma(self) -> float:
        """The sigma of DDPM's step with the posterior variance: Ho et al. 2020, eq. 7."""
        if self.bar_t >= self.bar_s:
            return 0.0
        return math.sqrt((1 - self.bar_s) / (1 - self.bar_t) * (1 - self.bar_t / self.bar_s))

    @property
    def beta_sigma(self) -> float:
        """The sigma of DDPM's step with variance beta: Ho et al. 2020, section 3.2."""
        return math.sqrt(max(0.0, 1 - self.bar_t / self.bar_s)) if self.bar_s else 0.0

    @property
    def posterior_B(self) -> float:
        """B of DDPM's step, which leaves room for its noise."""
        return math.sqrt(max(0.0, 1 - self.bar_s - self.posterior_sigma**2))

    @property
    def level(self) -> float:
        """All the noise in x_s."""
        return math.hypot(self.B, self.sigma)

    @property
    def spare(self) -> float:
        """How far A and B may be off for float32 tables and errors of measurement."""
        rounding = min(1e-4, 0.02 * math.sqrt(1 - self.bar_s)) + 2e-6
        return rounding + SURE * self.error

    @property
    def chance(self) -> float:
        """How far the measured sigma may be off, as a share of it."""
        return SURE / math.sqrt(2 * self.values)

    @property
    def right(self) -> bool:
        """Whether x_s is what it should be for its t, whatever the share of fresh noise."""
        if not math.isfinite(self.A):
            return False
        if abs(self.A - math.sqrt(self.bar_s)) > self.spare or self.B < -self.spare:
            return False
        off = abs(self.level**2 - (1 - self.bar_s))
        if off <= 2 * self.chance * self.sigma**2 + (2 * abs(self.B) + self.spare) * self.spare:
            return True
        low, high = self.posterior_sigma, self.beta_sigma
        room = self.spare + self.chance * self.sigma
        return (
            abs(self.B - self.posterior_B) <= self.spare and low - room <= self.sigma <= high + room
        )

    @property
    def away(self) -> float:
        """How far the parts of x_0 and of noise in x_s are from the right ones."""
        if not math.isfinite(self.A):
            return math.inf
        noise = min(
            abs(math.copysign(self.level, self.B) - math.sqrt(1 - self.bar_s)),
            abs(self.B - self.posterior_B) + max(0.0, self.posterior_sigma - self.sigma)
            + max(0.0, self.sigma - self.beta_sigma),
        )  # fmt: skip
        return math.hypot(self.A - math.sqrt(self.bar_s), noise)

    @property
    def turn(self) -> float:
        """The angle of a step of DDIM: x turns from the noise towards the image."""
        return abs(math.acos(math.sqrt(self.bar_t)) - math.acos(math.sqrt(self.bar_s)))


def measure(
    record: Record, other: Record | None = None, which: Iterable[int] | None = None
) -> list[Move]:
    """Measure the moves of a run.

    Args:
        record: of a run with constant images.
        other: of a second run with the same seed and changing images; without it, A and B are as
            inexact as the noise makes them.
        which: numbers of the moves; all if None.
    Returns:
        One move for each network call, up to the next call or to the result.
    """
    x_0 = record.x_0[0].double()
    if other is not None and other.told != record.told:
        other = None  # an adaptive sampler
    moves, before, eps = [], None, torch.zeros_like(x_0)
    for k in range(len(record.told)) if which is None else which:
        x_t, bar = record.x[k].double(), record.bars[k]
        if bar < 1:
            eps = (x_t - math.sqrt(bar) * x_0) / math.sqrt(1 - bar)
        move, noise = _measure(record, other, k, x_0, eps)
        if noise is not None:
            move = _describe(move, noise, before)
        if not move.right and noise is not None and move.size < LARGE:
            move = replace(move, clipped=_clipped(move, record.x[k + 1].double(), x_0, eps))
        before = noise
        moves.append(move)
    return moves


def _measure(
    record: Record, other: Record | None, k: int, x_0: Tensor, eps: Tensor
) -> tuple[Move, Tensor | None]:
    end = k + 1 == len(record.told)
    x_s, bar = record.x[k + 1].double(), record.bars[k]
    move = Move(
        record.told[k], END if end else record.told[k + 1], bar,
        1.0 if end else record.bars[k + 1], *(math.inf,) * 3, values=x_s.numel(),
    )  # fmt: skip
    if not torch.isfinite(x_s).all() or not torch.isfinite(eps).all():
        return move, None
    (A, B), noise = fit(x_s, x_0, eps)
    sigma, level = rms(noise), rms(eps)
    scale = min(1.0, max(0.01, level), rms(x_0))
    error, alone = sigma / (scale * math.sqrt(x_s.numel())), True
    if other is not None:
        d_t, d_s = (other.x[i].double() - record.x[i].double() for i in (k, k + 1))
        d_0 = other.x_0[k].double() - x_0
        (c, e), rest = fit(d_s, d_t, d_0)
        exact = c * math.sqrt(bar) + e, c * math.sqrt(1 - bar)  # x_s = c x_t + e x_0 + noise
        left = x_s - exact[0] * x_0 - exact[1] * eps
        alone = rms(rest) <= 1e-3 * rms(d_s) + 1e-6
        if rms(other.x[0] - record.x[0]) < 1e-6:  # the same start: d_t has fewer parts than x_t
            alone = alone and rms(left) <= 1.1 * sigma + 1e-3
        apart = level > 0.05 and abs(correlation(x_0, eps)) < 0.5
        if alone and (error > 1e-5 or not apart) and rms(d_t) > 1e-3 * rms(d_0):
            (A, B), noise = exact, left
            error = min(error, 0.3 * rms(rest) / rms(d_0))
    sigma = max(0.0, rms(noise))
    return replace(move, A=A, B=B, sigma=sigma, error=error, size=level, alone=alone), noise


def _describe(move: Move, noise: Tensor, before: Tensor | None) -> Move:
    if move.sigma < 1e-5:
        return move
    unit = noise / move.sigma
    offset = unit.mean()
    flat = (unit - offset).mean(1).square().mean() - 1 / unit.shape[1]
    return replace(
        move, repeated=0.0 if before is None else correlation(noise, before),
        shared=correlation(noise[0], noise[1]), flat=float(flat), offset=float(offset),
        kurtosis=float(((unit - offset) / unit.std()).pow(4).mean()),
    )  # fmt: skip


def _clipped(move: Move, x_s: Tensor, x_0: Tensor, eps: Tensor) -> float:
    """How much of what a mean of DDPM or DDIM has outside of [-1, 1] is missing from x_s."""
    normal = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0), dtype=x_0.dtype)
    whole = math.sqrt(move.bar_s) * x_0 + math.sqrt(1 - move.bar_s) * normal
    if int((whole.abs() > 1.0001).sum()) > 20 and abs(float(x_s.abs().max()) - 1) < 1e-6:
        return 1.0
    found = [0.0]
    for B in (move.posterior_B, math.sqrt(1 - move.bar_s)):
        mean = math.sqrt(move.bar_s) * x_0 + B * eps
        beyond = mean - mean.clamp(-1, 1)
        if rms(beyond) > 0.004:
            found.append(-fit(x_s, x_0, eps, beyond)[0][2])
    return max(found)


def correlation(a: Tensor, b: Tensor) -> float:
    """Between -1 and 1; 0 where one of the two does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > 1e-9 else 0.0
