"""Common wrong formulas of a sampler's step, each with the (A, B, sigma) that it leads to.

Every step is x_s = A x_0 + B eps + sigma z (see `moves`). In the usual ways to write it,

    x_s = c (x_t - k eps)                         A = c sqrt(bar_t)     B = c (sqrt(1 - bar_t) - k)
    x_s = a x_0 + b x_t                           A = a + b sqrt(bar_t) B = b sqrt(1 - bar_t)
    x_s = P (x_t - p eps) / q + R eps             A = P sqrt(bar_t) / q
                                                  B = P (sqrt(1 - bar_t) - p) / q + R

so a wrong coefficient shows in A and B, and a list of common mistakes tells which one it is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ddpm_helpers.doctor.moves import Move
from ddpm_helpers.doctor.tables import Bars

Pair = tuple[float, float]
EXPLAINED = 0.75  # share of the steps that a mistake must explain
SANE = 30.0  # rms of eps above which rounding hides what a step does
ROOT = "Put the square root where the formula has one"
STEP = "Compare with Ho et al. 2020, eq. 7: every coefficient has the same t"
DDIM = "Compare with Song et al. 2021, eq. 12"


class At:
    """A move with the table's rows around it; alpha and beta of a step are those from s to t."""

    def __init__(self, move: Move, bars: Bars) -> None:
        self.move, self.bars = move, bars
        self.t, self.s = max(move.bar_t, 1e-12), max(move.bar_s, 1e-12)
        self.alpha = min(1.0, self.t / self.s)
        self.beta = 1 - self.alpha
        self.rows = bars.function is None and move.s == move.t - 1 and move.t == int(move.t)

    def bar(self, by: int) -> float:
        """alpha_bar by rows after t."""
        return max(self.bars.at(self.move.t + by), 1e-12)

    def of_row(self, by: int) -> float:
        """alpha by rows after t."""
        return min(1.0, self.bar(by) / self.bar(by - 1))

    def by_eps(self, alpha: float, beta: float, left: float) -> Pair:
        """x_s = (x_t - beta / sqrt(left) eps) / sqrt(alpha)."""
        return self.linear(1 / math.sqrt(alpha), beta / math.sqrt(max(left, 1e-12)))

    def linear(self, c: float, k: float) -> Pair:
        """x_s = c (x_t - k eps)."""
        return c * math.sqrt(self.t), c * (math.sqrt(1 - self.t) - k)

    def mixed(self, a: float, b: float) -> Pair:
        """x_s = a x_0 + b x_t."""
        return a + b * math.sqrt(self.t), b * math.sqrt(1 - self.t)

    def ddim(
        self, *, p: float | None = None, q: float | None = None,
        P: float | None = None, R: float | None = None,
    ) -> Pair:  # fmt: skip
        """x_s = P (x_t - p eps) / q + R eps; what is not given is right."""
        p, q = math.sqrt(1 - self.t) if p is None else p, math.sqrt(self.t) if q is None else q
        P = math.sqrt(self.s) if P is None else P
        R = math.sqrt(max(0.0, 1 - self.s - self.move.sigma**2)) if R is None else R
        return P * math.sqrt(self.t) / q, P * (math.sqrt(1 - self.t) - p) / q + R

    def x_0(self, p: float, q: float) -> list[Pair]:
        """x_0 = (x_t - p eps) / q in DDPM's and DDIM's step."""
        gain, leak = math.sqrt(self.t) / q, (math.sqrt(1 - self.t) - p) / q
        a, b = self.posterior
        ddpm = (a * gain + b * math.sqrt(self.t), a * leak + b * math.sqrt(1 - self.t))
        through = math.sqrt(self.s) * gain, math.sqrt(self.s) * leak
        A, B = self.ddim(P=0.0)
        root, R = math.sqrt(self.t), B / math.sqrt(max(1 - self.t, 1e-12))
        again = R * root * (1 - gain), R * (math.sqrt(1 - self.t) - root * leak)  # eps from x_0
        return [
            ddpm, (A + through[0], B + through[1]), (again[0] + through[0], again[1] + through[1]),
        ]  # fmt: skip

    @property
    def posterior(self) -> Pair:
        """a and b of `mixed` for DDPM's step: Ho et al. 2020, eq. 7."""
        left = max(1 - self.t, 1e-12)
        a = math.sqrt(self.s) * self.beta / left
        return a, math.sqrt(self.alpha) * (1 - self.s) / left

    @property
    def right(self) -> Pair:
        """(A, B) of DDPM's step."""
        return math.sqrt(self.s), self.move.posterior_B


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
    predicts: Callable[[At], Sequence[Pair]]
    noise: Callable[[At], bool] = lambda at: True

    def distance(self, at: At) -> float:
        """How far the measured A and B are from the nearest that this mistake may lead to."""
        if not self.noise(at):
            return math.inf
        move = at.move
        return min(
            (math.hypot(move.A - A, move.B - B) for A, B in self.predicts(at)), default=math.inf
        )


def _near(at: At, *sigmas: float) -> bool:
    """Whether the noise is one of these."""
    room = 1.5 * at.move.chance + 0.01
    return any(abs(at.move.sigma - sigma) <= room * sigma + 2e-5 for sigma in sigmas)


def _is_variance(at: At) -> bool:
    post, beta = at.move.posterior_sigma**2, at.move.beta_sigma**2
    return _near(at, post, beta, post / math.sqrt(at.s))  # the last in the scale of sigma


def _shifted(at: At) -> list[Pair]:
    """alpha and beta of a neighbouring row, in one or both places of the formula with eps."""
    if not at.rows:
        return []
    pairs = []
    for by in (-1, 1):
        other = at.of_row(by)
        pairs += [at.by_eps(at.alpha, 1 - other, 1 - at.t), at.by_eps(other, at.beta, 1 - at.t),
                  at.by_eps(other, 1 - other, 1 - at.t)]  # fmt: skip
    return pairs


def _left_of(at: At) -> list[Pair]:
    """sqrt(1 - alpha_bar) of a neighbouring row, in the formulas with eps and with x_0."""
    if not at.rows:
        return [
            at.by_eps(at.alpha, at.beta, 1 - at.s),
            *at.x_0(math.sqrt(1 - at.s), math.sqrt(at.t)),
        ]
    pairs = []
    for by in (-1, 1):
        left = 1 - at.bar(by)
        pairs += [at.by_eps(at.alpha, at.beta, left),
                  *at.x_0(math.sqrt(left), math.sqrt(at.t))]  # fmt: skip
    return pairs


def _k_without_root(at: At) -> list[Pair]:
    """beta / sqrt(1 - bar_t) with the root missing or in the wrong place."""
    left = max(1 - at.t, 1e-12)
    wrong = (at.beta / left, math.sqrt(at.beta / left), math.sqrt(at.beta) / left)
    return [at.linear(1 / math.sqrt(at.alpha), k) for k in wrong]


def _c_wrong(at: At) -> list[Pair]:
    """1 / sqrt(alpha_t) as 1 / sqrt(bar_t), upside down, or left out."""
    k = at.beta / math.sqrt(max(1 - at.t, 1e-12))
    return [at.linear(c, k) for c in (1 / math.sqrt(at.t), math.sqrt(at.alpha), 1.0)]


def _signs(at: At) -> list[Pair]:
    k = at.beta / math.sqrt(max(1 - at.t, 1e-12))
    root = math.sqrt(max(0.0, 1 - at.s))
    return [
        at.linear(1 / math.sqrt(at.alpha), -k), at.ddim(R=-root),
        *at.x_0(-math.sqrt(1 - at.t), math.sqrt(at.t)),
    ]  # fmt: skip


def _alpha_for_bar(at: At) -> list[Pair]:
    left = math.sqrt(max(at.beta, 1e-12))
    return [
        at.by_eps(at.alpha, at.beta, at.beta), *at.x_0(left, math.sqrt(at.alpha)),
        at.ddim(p=left), at.ddim(q=math.sqrt(at.alpha)),
    ]  # fmt: skip


def _next_slope(at: At) -> list[Pair]:
    """x_s = x_t + (sigma_s - sigma_t) (x_t - x_0) / sigma_s, in the scale of sigma."""
    sigma_t, sigma_s = math.sqrt(1 / at.t - 1), math.sqrt(max(1 / at.s - 1, 1e-12))
    root = math.sqrt(at.s)
    return [(root, root * (sigma_t + (sigma_s - sigma_t) * sigma_t / sigma_s))]


def _posterior_wrong(at: At) -> list[Pair]:
    """Weights of x_0 and x_t swapped, without a root, or with alpha_bar of the other step."""
    a, b = at.posterior
    root_s, root_t, root = math.sqrt(at.s), math.sqrt(at.t), math.sqrt(at.alpha)
    swapped = (1 - at.t) / max(1 - at.s, 1e-12)
    return [
        at.mixed(*pair)
        for pair in (
            (b, a), (a * root_s, b), (a / root_s, b), (a, b * root), (a, b / root),
            (a / root_s * root_t, b), (a, b * swapped), (a * swapped, b * swapped),
            (a / root_s * root, b),
        )
    ]  # fmt: skip


FAULTS = (
    Fault(
        "the noise of each step is scaled by its variance, not by the square root of it",
        f"{ROOT}: sigma * z with sigma = sqrt(variance)",
        lambda at: [at.right, at.ddim()], _is_variance,
    ),
    Fault(
        "each step reduces eps to make room for noise (as DDPM or eta > 0 do), but adds none",
        "Add sigma_t * z at every step but the last",
        lambda at: [at.right], lambda at: at.move.sigma < 0.1 * at.move.posterior_sigma,
    ),
    Fault(
        "eta is used in one of two places: noise is added, but sigma^2 is not subtracted in "
        "sqrt(1 - alpha_bar - sigma^2)",
        "Subtract sigma^2 under the root of the direction too",
        lambda at: [at.ddim(R=math.sqrt(1 - at.s))], lambda at: at.move.sigma > 1e-3,
    ),
    Fault(
        "sqrt(1 - alpha_bar) of the direction is that of the wrong step: t instead of the next one",
        "Use alpha_bar of the next step",
        lambda at: [
            at.ddim(R=math.sqrt(1 - at.t)),
            at.ddim(R=math.sqrt(max(0.0, 1 - at.t - at.move.posterior_sigma**2))),
        ],
    ),
    Fault(
        "the image is scaled by sqrt(alpha_bar) of the wrong step: t instead of the next one",
        "Use alpha_bar of the next step",
        lambda at: [at.ddim(P=math.sqrt(at.t)),
                    at.ddim(P=math.sqrt(at.t), R=math.sqrt(1 - at.t))],
    ),
    Fault(
        "the direction is scaled by 1 - alpha_bar: the square root is missing",
        ROOT, lambda at: [at.ddim(R=1 - at.s)],
    ),
    Fault(
        "the image is scaled by alpha_bar: the square root is missing",
        ROOT, lambda at: [at.ddim(P=at.s), (at.s, at.move.posterior_B)],
    ),
    Fault(
        "the weight of eps has a wrong square root; it is beta_t / sqrt(1 - alpha_bar_t)",
        ROOT, _k_without_root,
    ),
    Fault(
        "the step divides by alpha_t: the square root is missing",
        f"{ROOT}: 1 / sqrt(alpha_t) in front of the bracket",
        lambda at: [at.linear(1 / at.alpha, at.beta / math.sqrt(max(1 - at.t, 1e-12)))],
    ),
    Fault(
        "the factor in front of the bracket is wrong",
        "It is 1 / sqrt(alpha_t), with alpha_t = 1 - beta_t, not alpha_bar_t", _c_wrong,
    ),
    Fault(
        "beta_t, or alpha_t = 1 - beta_t, is that of a neighbouring row", STEP, _shifted,
    ),
    Fault(
        "sqrt(1 - alpha_bar) in front of or below eps is that of a neighbouring step",
        STEP, _left_of,
    ),
    Fault("eps enters with the wrong sign", STEP, _signs),
    Fault(
        "alpha_t stands where alpha_bar_t belongs",
        "alpha_bar is the product of all alphas up to t: torch.cumprod", _alpha_for_bar,
    ),
    Fault(
        "x_0 is computed with 1 - alpha_bar: the square root is missing",
        f"{ROOT}: x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)",
        lambda at: at.x_0(1 - at.t, math.sqrt(at.t)),
    ),
    Fault(
        "x_0 is divided by alpha_bar: the square root is missing",
        f"{ROOT}: x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)",
        lambda at: at.x_0(math.sqrt(1 - at.t), at.t),
    ),
    Fault(
        "x_0 is computed with alpha_bar of the next step, not of t", DDIM,
        lambda at: [*at.x_0(math.sqrt(1 - at.s), math.sqrt(at.s)),
                    *at.x_0(math.sqrt(1 - at.t), math.sqrt(at.s))],
    ),
    Fault(
        "the predicted x_0 is returned to t with the old noise left out: no direction is added",
        DDIM, lambda at: [at.ddim(R=0.0)],
    ),
    Fault(
        "the slope (x - x_0) / sigma is divided by sigma of the next step",
        "Divide by the sigma that the network is given", _next_slope,
    ),
    Fault(
        "the weights of x_0 and x_t in the posterior's mean are wrong",
        "They are sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) and "
        "sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t)",
        _posterior_wrong,
    ),
)  # fmt: skip


def name_faults(moves: Sequence[Move], bars: Bars) -> list[Fault]:
    """The known mistakes that explain the moves; several if they cannot be told apart."""
    known = [m for m in moves if 0 < m.bar_t < 1 and 0 < m.bar_s < 1 and m.size < SANE]
    known = [move for move in known if move.alone] or known
    wrong = [move for move in known if not move.right and move.away > 10 * move.spare]
    if len(wrong) < min(3, len(known)) or not wrong:
        return []
    costs = {}
    for fault in FAULTS:
        ratios = []
        for move in wrong:
            room = 2 * move.spare + 0.03 * min(move.away, 1.0)
            ratios.append(fault.distance(At(move, bars)) / room)
        if sum(ratio <= 1 for ratio in ratios) >= EXPLAINED * len(ratios):
            costs[fault] = statistics.mean(min(ratio, 5) for ratio in ratios)
    least = min(costs.values(), default=0.0)
    return [fault for fault, cost in costs.items() if cost <= 1.2 * least + 0.01]


def noise_factor(moves: Sequence[Move]) -> float | None:
    """By how much the noise of DDPM's steps is wrong, if by the same factor in all of them."""
    ratios = []
    for move in moves:
        if move.posterior_sigma < 1e-3 or not math.isfinite(move.A):
            continue
        if abs(move.A - math.sqrt(move.bar_s)) > move.spare:
            return None
        ratios.append((move.sigma / move.posterior_sigma, move.sigma / move.beta_sigma))
    if len(ratios) < 3:
        return None
    spreads = []
    for found in zip(*ratios, strict=True):
        middle = statistics.median(found)
        spread = statistics.median(abs(ratio / max(middle, 1e-9) - 1) for ratio in found)
        spreads.append((spread, middle))
    spread, middle = min(spreads)
    return middle if spread < 0.03 and middle > 0.05 and abs(middle - 1) > 0.05 else None


def step_length(moves: Sequence[Move]) -> float | None:
    """How long steps along the straight line from x_t are, over the difference of their t.

    In the coordinates of flow matching, (1 - tau) x_0 + tau eps, and in those of sigma,
    x_0 + sigma eps, steps of ODE solvers are straight. None if no length fits all.
    """
    in_flow, in_sigma = [], []
    for move in moves:
        if move.bar_t in (move.bar_s, 1.0) or move.size > SANE or move.sigma > 1e-3:
            continue
        ends = []
        for bar in (move.bar_t, move.bar_s):
            ends.append((math.sqrt(bar), math.sqrt(1 - bar), math.sqrt(bar) + math.sqrt(1 - bar)))
        (signal_t, noise_t, norm_t), (signal_s, noise_s, norm_s) = ends
        way = noise_s / norm_s - noise_t / norm_t
        lengths = (
            (move.B / norm_s - noise_t / norm_t) / way,
            (signal_t / norm_t - move.A / norm_s) / way,
        )
        in_flow.append(lengths[0] if abs(lengths[0] - lengths[1]) < 0.02 else math.inf)
        straight = min(signal_t, signal_s) > 0 and abs(move.A / max(signal_s, 1e-12) - 1) < 0.01
        way = noise_s / max(signal_s, 1e-12) - noise_t / max(signal_t, 1e-12)
        along = move.B / max(signal_s, 1e-12) - noise_t / max(signal_t, 1e-12)
        in_sigma.append(along / way if straight else math.inf)
    for found in (in_flow, in_sigma):
        if len(found) < 3 or not math.isfinite(middle := statistics.median(found)):
            continue
        if sum(abs(length - middle) < 0.002 for length in found) > 0.8 * len(found):
            return middle
    return None
