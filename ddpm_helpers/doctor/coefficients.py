"""What the coefficients of a sampler's steps say, where no single mistake in a formula fits.

A step x_s = C x_t + D output + sigma z of DDIM or DDPM has two coefficients that depend on two
values of alpha_bar: its own. They are compared with those that the network was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ddpm_helpers.doctor.bench import Bench
from ddpm_helpers.doctor.finding import Alarm, broken
from ddpm_helpers.doctor.moves import Move
from ddpm_helpers.doctor.schedule import TABLES
from ddpm_helpers.doctor.tables import usual_betas

NEAR = 3e-3  # share by which a weight may be off
SAME = 2e-3  # angle between two x_t, atan(noise / image), that are taken for one
BETWEEN = 0.4  # share of the way between two rows by which a row may be missed
MOST = 0.9  # share of the steps that an explanation must fit
ENOUGH = 5  # steps
LARGE = 1e4  # rms of eps above which nothing is measured


@dataclass(frozen=True)
class Own:
    """A step with the angles atan(noise / image) by which a sampler computes it.

    Attributes:
        move: the step; begin, end: its angles there.
    """

    move: Move
    begin: float
    end: float


def coefficients(move: Move, kind: str) -> tuple[float, float]:
    """C and D of x_s = C x_t + D output + noise, for an output of eps or x_0."""
    q, p = math.sqrt(move.bar_t), math.sqrt(1 - move.bar_t)
    if kind == "x_0":
        return move.B / p, move.A - move.B * q / p
    return move.A / q, move.B - move.A * p / q


def _own(move: Move, kind: str, of_ddpm: bool) -> Own | None:
    """The angles for which a step is right; None if there are none.

    Without noise, or with any share of it, C^2 + D^2 + sigma^2 + 2 C D p = 1 (q for x_0). DDPM's
    step, whose noise may have the variance beta, has C = 1 / sqrt(alpha), D = -C beta / p.
    """
    if not move.alone or not 1e-4 < move.bar_t < 1 - 1e-8:
        return None
    C, D = coefficients(move, kind)
    if abs(C * D) < 1e-7:
        return None
    part = (1 - C**2 - D**2 - move.sigma**2) / (2 * C * D)
    if of_ddpm:
        part = (1 / C - C) / D
    if not 0 < part < 1:
        return None
    image = D + C * part if kind == "x_0" else C * math.sqrt(1 - part**2)
    if not 0 < image < 1 + 1e-6:
        return None
    begin = math.acos(part) if kind == "x_0" else math.asin(part)
    return Own(move, begin, math.acos(min(1.0, image)))


def name_table(bench: Bench, moves: list[Move]) -> Alarm | None:
    """Steps that are right for another table, or for other rows of it, than the network's t."""
    if bench.bars.function is not None or bench.prediction not in ("eps", "x_0"):
        return None
    moves = [move for move in moves if move.size < LARGE]
    forms = [False] + [True] * (bench.prediction == "eps")
    for of_ddpm in forms:
        own = [o for move in moves if (o := _own(move, bench.prediction, of_ddpm))]
        if len(own) < max(ENOUGH, 0.5 * len(moves)):
            continue
        if alarm := _tables(bench, own) or _rows(bench, own) or _chain(own):
            return alarm
    return None


def _rows(bench: Bench, own: list[Own]) -> Alarm | None:
    """Steps whose coefficients are those of other rows."""
    bars = bench.bars
    angles = bars.table[bars.first :].clamp(0, 1).sqrt().acos()  # (T,), which rise
    spaces = (angles[1:] - angles[:-1]).clamp(min=1e-9)
    found = []
    for o in own:
        k = int((angles - o.begin).abs().argmin())
        room = max(5e-4, BETWEEN * float(spaces[min(k, len(spaces) - 1)]))
        if float((angles[k] - o.begin).abs()) < room:
            found.append((o.move.t, k + bars.first))
    away = [(t, row) for t, row in found if abs(t - row) > 1]
    if len(found) < MOST * len(own) or len(away) < MOST * len(found):
        return None
    rows = [row for _, row in found]
    if rows not in (sorted(rows), sorted(rows, reverse=True)):  # near a row by chance
        return None
    some = (away[0], away[len(away) // 2], away[-1])
    return (
        broken,
        "the coefficients are those of other t than the network is given: "
        + ", ".join(f"of row {row} at t = {t:g}" for t, row in some),
        "Use one t for both: the row of alpha_bar, timesteps[i], not the number i of the step",
    )


def _tables(bench: Bench, own: list[Own]) -> Alarm | None:
    """Steps that are right for another table."""
    for words, angles in _candidates(bench, own):
        fits = sum(abs(o.begin - a) < SAME for o, a in zip(own, angles, strict=True))
        if fits > MOST * len(own):
            return (
                broken, f"the steps are right for another table than the network's: {words}",
                "Compare the sampler's alpha_bar with the training's, entry by entry",
            )  # fmt: skip
    return None


def _chain(own: list[Own]) -> Alarm | None:
    """Steps that fit together, but not to a known table."""
    chain = sum(abs(a.end - b.begin) < SAME for a, b in zip(own, own[1:], strict=False))
    if chain < MOST * (len(own) - 1):
        return None
    o = max(own, key=lambda o: abs(o.begin - math.acos(math.sqrt(o.move.bar_t))))
    return (
        broken,
        f"the steps are right for another table of alpha_bar than the network's: at t = "
        f"{o.move.t:g} the sampler has {math.cos(o.begin) ** 2:.4g}, the network "
        f"{o.move.bar_t:.4g}",
        "Print both tables: the formula, the number of steps, a root or a product may differ",
    )


def _candidates(bench: Bench, own: list[Own]) -> Iterator[tuple[str, Tensor]]:
    """Other tables: words, and their angles at the steps."""
    bars = bench.bars
    table = bars.table[bars.first :]
    betas = 1 - torch.cat([table[:1], table[1:] / table[:-1].clamp(min=1e-12)])
    rows = [int(o.move.t) - bars.first for o in own]
    if any(not 0 <= row < len(table) for row in rows):
        return
    visited = (1 - betas)[rows]  # from the first step to the last
    yield (
        "its betas are those of single rows, not of the way from one step to the next",
        visited.flip(0).cumprod(0).flip(0).sqrt().acos(),
    )
    known = {"this schedule": betas, **usual_betas(len(table))}
    for name, of_name in known.items():
        for form, of in TABLES.items():
            if (form, name) != ("alpha_bar", "this schedule"):
                other = of(of_name)[rows].clamp(0, 1)
                yield f"{form} of {name}", other.sqrt().acos()


def name_noise(moves: list[Move]) -> Alarm | None:
    """Right means that leave room for a share of DDPM's noise, with noise of another size."""
    steps = [m for m in moves if m.posterior_sigma > 1e-3 and 0 < m.bar_s < 1]
    if len(steps) < ENOUGH or not all(
        m.alone and abs(m.A - math.sqrt(m.bar_s)) < m.spare + 1e-3 and m.B > 0 for m in steps
    ):
        return None
    room = [math.sqrt(max(0.0, 1 - m.bar_s - m.B**2)) for m in steps]
    shares = [a / m.posterior_sigma for a, m in zip(room, steps, strict=True)]
    eta = median(shares)
    if eta < 0.1 or max(abs(share - eta) for share in shares) > 0.05:
        return None
    sizes, k = [m.sigma for m in steps], len(steps) // 2
    ratios = [size / a for size, a in zip(sizes, room, strict=True)]
    if max(ratios) < 0.02:
        how = "but no noise is added"
    elif max(sizes) < 1.05 * min(sizes):
        how = f"but that of the noise is {sizes[k]:.3g} in every step: it lacks the factor sigma"
    elif max(ratios) < 1.05 * min(ratios):
        how = f"but that of the noise is {ratios[k]:.3g} times as large"
    elif all(abs(r / a - 1) < 0.05 for r, a in zip(ratios, room, strict=True)):
        how = "but that of the noise is its square: the variance"
    elif all(abs(r * math.sqrt(a) - 1) < 0.05 for r, a in zip(ratios, room, strict=True)):
        how = "but that of the noise is its square root"
    else:
        how = f"but that of the noise is {sizes[k]:.3g}"
    return (
        broken,
        f"the mean of each step leaves room for noise of standard deviation {room[k]:.3g} at t = "
        f"{steps[k].t:g} (eta = {eta:.2g}), {how}",
        "Multiply torch.randn_like(x) by the sigma whose square is subtracted under the root",
    )


@dataclass(frozen=True)
class Weights:
    """The weights of x_t and of eps, or x_0, in a step: measured, and right."""

    move: Move
    x_t: float
    output: float
    right_x_t: float
    right: tuple[float, ...]  # of the output, for the ways to add the noise

    @property
    def ratio(self) -> float:
        """The output's weight over the nearest right one."""
        return min((self.output / right for right in self.right), key=lambda v: abs(v - 1))


def _weights(move: Move, kind: str) -> Weights:
    q, p, r = math.sqrt(move.bar_t), math.sqrt(1 - move.bar_t), math.sqrt(move.bar_s)
    rooms = (move.sigma, move.posterior_sigma)
    left = [math.sqrt(max(0.0, 1 - move.bar_s - room**2)) for room in rooms]
    C, D = coefficients(move, kind)
    if kind == "x_0":
        return Weights(move, C, D, left[0] / p, (r - left[0] * q / p,))
    return Weights(move, C, D, r / q, tuple(to - r * p / q for to in left))


def _expressions(move: Move) -> dict[str, float]:
    """What may be there once too often or once too little."""
    q, p, r = math.sqrt(move.bar_t), math.sqrt(1 - move.bar_t), math.sqrt(move.bar_s)
    alpha = q / r
    sigma = [math.sqrt(1 / bar - 1) for bar in (move.bar_t, move.bar_s)]
    found = {
        "sqrt(alpha_bar)": q, "sqrt(1 - alpha_bar)": p, "sqrt(alpha_t)": alpha,
        "sqrt(beta_t)": math.sqrt(max(0.0, 1 - alpha**2)),
        "sqrt(alpha_bar_s)": r, "sqrt(1 - alpha_bar_s)": math.sqrt(1 - move.bar_s),
        "sigma_t": sigma[0], "sigma_s": sigma[1],
        "sqrt(sigma_t^2 - sigma_s^2)": math.sqrt(max(0.0, sigma[0] ** 2 - sigma[1] ** 2)),
    }  # fmt: skip
    return found | {f"{name}^2": value**2 for name, value in found.items()}


def name_weight(moves: list[Move]) -> Alarm | None:
    """Steps in which the weight of the output alone is wrong, and what it contains."""
    moves = [
        m for m in moves
        if m.alone and 1e-6 < m.bar_t < m.bar_s < 1 - 1e-9 and math.isfinite(m.A) and m.size < LARGE
    ]  # fmt: skip
    if len(moves) < 2:
        return None
    for kind in ("eps", "x_0"):
        steps = [_weights(move, kind) for move in moves]
        steps = [w for w in steps if all(abs(v) > 1e-4 for v in (w.right_x_t, *w.right))]
        right = [abs(w.x_t / w.right_x_t - 1) < NEAR for w in steps]
        if len(steps) > 1 and sum(right) >= MOST * len(steps):
            return _of_output(steps, kind)
    return None


def _of_output(steps: list[Weights], kind: str) -> Alarm | None:
    wrong = [w for w in steps if abs(w.ratio - 1) > NEAR]
    if len(wrong) < 2:
        return None
    w = wrong[len(wrong) // 2]
    ways = ([(v.move, v.output / v.right[i]) for v in steps] for i in range(len(w.right)))
    factor = next(filter(None, map(_factor, ways)), "") or _second_order(steps)
    name = "the predicted x_0" if kind == "x_0" else "eps"
    return (
        broken,
        f"{name} has a wrong weight in the steps{factor}: {w.output:.4g} instead of "
        f"{w.right[0]:.4g} at t = {w.move.t:g} to {w.move.s:g}; that of x_t is right",
        f"Compare the factor of {name} with the formula",
    )


def _factor(ratios: list[tuple[Move, float]]) -> str:
    """The expression that is there too often or not, if one alone fits."""
    middle = median(ratio for _, ratio in ratios)
    if sum(abs(ratio - middle) < NEAR * abs(middle) for _, ratio in ratios) >= MOST * len(ratios):
        return f", {middle:.4g} times the right one"
    names = []
    for name in _expressions(ratios[0][0]):
        for words, power in (("multiplied", 1), ("divided", -1)):
            fits = [
                abs(ratio / max(_expressions(move)[name], 1e-9) ** power - 1) < NEAR
                for move, ratio in ratios
            ]
            if sum(fits) >= MOST * len(fits):
                names.append(f", {words} by {name} once too often")
    return names[0] if len(names) == 1 else ""


def _second_order(steps: list[Weights]) -> str:
    """The weight of the newest output of a multistep method whose earlier output is missing."""
    lambdas = [
        [math.log(math.sqrt(bar / (1 - bar))) for bar in (w.move.bar_t, w.move.bar_s)]
        for w in steps
    ]
    ways = [s - t for t, s in lambdas]
    fits = [
        abs(w.ratio - 1 - way / (2 * before)) < 0.02 * w.ratio
        for w, way, before in zip(steps[1:], ways[1:], ways, strict=False)
    ]
    if sum(fits) < 0.8 * len(fits):
        return ""
    return ", (1 + 1 / (2 r)) times the right one: - 1 / (2 r) times the output before is missing"
