"""Common wrong formulas of a sampler's step, each with the (A, B, sigma) that it leads to.

Every step is x_s = A x_0 + B eps + sigma z (see `oracle`). In the two usual ways to write it,

    x_s = c (x_t - k eps)        A = c sqrt(bar_t)        B = c (sqrt(1 - bar_t) - k)
    x_s = a x_0 + b x_t          A = a + b sqrt(bar_t)    B = b sqrt(1 - bar_t)

so a wrong coefficient shows in A and B, and a list of common mistakes tells which one it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ddpm_helpers.doctor.oracle import Move

Pair = tuple[float, float]
ENOUGH = 25.0  # the cost of a mistake that does not fit: five standard errors, squared
ROOT = "Put the square root where the formula has one"


@dataclass(frozen=True)
class Fault:
    """A known mistake.

    Attributes:
        sentence, repair: of the `Finding`.
        predicts: the possible (A, B) of a move with this mistake.
        noise: whether the measured sigma of a move fits; by default any does.
    """

    sentence: str
    repair: str
    predicts: Callable[[Move], Sequence[Pair]]
    noise: Callable[[Move], bool] = lambda move: True

    def cost(self, move: Move) -> float:
        """How badly a move fits this mistake, in 0..ENOUGH."""
        if not self.noise(move):
            return ENOUGH
        return min(cost(move, A, B) for A, B in self.predicts(move))


def cost(move: Move, A: float, B: float) -> float:
    """Squared distance of the measured A and B in standard errors, cut off at ENOUGH."""
    a, b = move.off(A, B)
    return min(a * a + b * b, ENOUGH)


def in_place(moves: Sequence[Move]) -> bool:
    """Whether A and B of the steps are right: of each step roughly, and on average closely."""
    off = [move.off(*move.expected()) for move in moves]
    if any(not math.isfinite(a) or not math.isfinite(b) for a, b in off):
        return False
    costs = [min(a * a + b * b, ENOUGH) for a, b in off]
    drift = max(abs(sum(parts)) for parts in zip(*off, strict=True)) / math.sqrt(len(off))
    return sum(costs) / len(costs) < 6 and drift < 8


def through_eps(c: float, k: float, move: Move) -> Pair:
    """(A, B) of x_s = c (x_t - k eps)."""
    return c * math.sqrt(move.bar_t), c * (math.sqrt(1 - move.bar_t) - k)


def through_x_0(a: float, b: float, move: Move) -> Pair:
    """(A, B) of x_s = a x_0 + b x_t."""
    return a + b * math.sqrt(move.bar_t), b * math.sqrt(1 - move.bar_t)


def posterior(move: Move) -> Pair:
    """a and b of `through_x_0` for DDPM's step: Ho et al. 2020, eq. 7."""
    alpha, left = move.bar_t / move.bar_s, 1 - move.bar_t
    return math.sqrt(move.bar_s) * (1 - alpha) / left, math.sqrt(alpha) * (1 - move.bar_s) / left


def right(move: Move) -> Pair:
    """(A, B) of DDPM's step."""
    return math.sqrt(move.bar_s), move.posterior_B


def _alpha(move: Move) -> float:
    return move.bar_t / move.bar_s


def _k_without_root(move: Move) -> list[Pair]:
    """beta / sqrt(1 - bar_t) with the root missing or in the wrong place."""
    beta, left = 1 - _alpha(move), 1 - move.bar_t
    wrong = (beta / left, math.sqrt(beta / left), math.sqrt(beta) / left)
    return [through_eps(1 / math.sqrt(_alpha(move)), k, move) for k in wrong]


def _c_without_root(move: Move) -> list[Pair]:
    k = (1 - _alpha(move)) / math.sqrt(1 - move.bar_t)
    return [through_eps(1 / _alpha(move), k, move)]


def _c_wrong(move: Move) -> list[Pair]:
    """1 / sqrt(alpha_t) as 1 / sqrt(bar_t), upside down, or left out."""
    k, root = (1 - _alpha(move)) / math.sqrt(1 - move.bar_t), math.sqrt(_alpha(move))
    return [through_eps(c, k, move) for c in (1 / math.sqrt(move.bar_t), root, 1.0)]


def _x_0_wrong(move: Move, root: bool) -> list[Pair]:
    """x_0 = (x_t - sqrt(1 - bar) eps) / sqrt(bar) without one root, in DDPM's and DDIM's step."""
    bar, left = move.bar_t, 1 - move.bar_t
    if root:  # sqrt(1 - bar) became 1 - bar
        gain, leak = 1.0, (math.sqrt(left) - left) / math.sqrt(bar)
    else:  # sqrt(bar) became bar
        gain, leak = 1 / math.sqrt(bar), 0.0
    a, b = posterior(move)
    ddpm = (a * gain + b * math.sqrt(bar), a * leak + b * math.sqrt(left))
    A, B = math.sqrt(move.bar_s), math.sqrt(1 - move.bar_s)
    return [ddpm, (A * gain, A * leak + B)]


def _posterior_wrong(move: Move) -> list[Pair]:
    """Weights of x_0 and x_t swapped, or without a root."""
    a, b = posterior(move)
    return [through_x_0(b, a, move), through_x_0(a * math.sqrt(move.bar_s), b, move)]


def _is_variance(move: Move) -> bool:
    variances = (move.posterior_sigma**2, move.beta_sigma**2)
    return any(abs(move.sigma - v) < 0.05 * v + 1e-4 for v in variances)


FAULTS = (
    Fault(
        "the noise of each step is scaled by its variance, not by the square root of it",
        f"{ROOT}: sigma * z with sigma = sqrt(variance)",
        lambda m: [right(m)], _is_variance,
    ),
    Fault(
        "each step reduces eps to make room for noise (as DDPM or eta > 0 do), but adds none",
        "Add sigma_t * z at every step but the last",
        lambda m: [right(m)], lambda m: m.sigma < 0.1 * m.posterior_sigma,
    ),
    Fault(
        "eta is used in one of two places: noise is added, but sigma^2 is not subtracted in "
        "sqrt(1 - alpha_bar - sigma^2)",
        "Subtract sigma^2 under the root of the direction too",
        lambda m: [(math.sqrt(m.bar_s), math.sqrt(1 - m.bar_s))], lambda m: m.sigma > 0.01,
    ),
    Fault(
        "sqrt(1 - alpha_bar) of the direction is that of the wrong step: t instead of the next one",
        "Use alpha_bar of the next step",
        lambda m: [(math.sqrt(m.bar_s), math.sqrt(1 - m.bar_t))],
    ),
    Fault(
        "the picture is scaled by sqrt(alpha_bar) of the wrong step: t instead of the next one",
        "Use alpha_bar of the next step",
        lambda m: [
            (math.sqrt(m.bar_t), B) for B in (math.sqrt(1 - m.bar_s), math.sqrt(1 - m.bar_t))
        ],
    ),
    Fault(
        "the direction is scaled by 1 - alpha_bar: the square root is missing",
        ROOT, lambda m: [(math.sqrt(m.bar_s), 1 - m.bar_s)],
    ),
    Fault(
        "the picture is scaled by alpha_bar: the square root is missing",
        ROOT, lambda m: [(m.bar_s, math.sqrt(1 - m.bar_s)), (m.bar_s, m.posterior_B)],
    ),
    Fault(
        "the weight of eps has a wrong square root; it is beta_t / sqrt(1 - alpha_bar_t)",
        ROOT, _k_without_root,
    ),
    Fault(
        "the step divides by alpha_t: the square root is missing",
        f"{ROOT}: 1 / sqrt(alpha_t) in front of the bracket", _c_without_root,
    ),
    Fault(
        "the factor in front of the bracket is wrong",
        "It is 1 / sqrt(alpha_t), with alpha_t = 1 - beta_t, not alpha_bar_t", _c_wrong,
    ),
    Fault(
        "x_0 is computed with 1 - alpha_bar: the square root is missing",
        f"{ROOT}: x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)",
        lambda m: _x_0_wrong(m, True),
    ),
    Fault(
        "x_0 is divided by alpha_bar: the square root is missing",
        f"{ROOT}: x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)",
        lambda m: _x_0_wrong(m, False),
    ),
    Fault(
        "the weights of x_0 and x_t in the posterior's mean are wrong",
        "They are sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) and "
        "sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t)",
        _posterior_wrong,
    ),
)  # fmt: skip


def name_fault(moves: Sequence[Move]) -> Fault | None:
    """The known mistake that explains the moves best; None if none explains them clearly."""
    moves = [move for move in moves if 0 < move.bar_t < move.bar_s < 1 and math.isfinite(move.A)]
    if not moves:
        return None
    healthy = sum(cost(move, *move.expected()) for move in moves)
    costs = [sum(map(fault.cost, moves)) for fault in FAULTS]
    least = min(costs)
    known = least < healthy / 2 and least < 0.6 * ENOUGH * len(moves)
    return FAULTS[costs.index(least)] if known else None
