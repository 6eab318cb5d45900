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
    if eta < 0.05 or max(abs(share - eta) for share in shares) > 0.05:
        return None
    sizes, k = [m.sigma for m in steps], len(steps) // 2
    ratios = [size / a for size, a in zip(sizes, room, strict=True)]
    if max(ratios) < 0.02:
        how = "but no noise is added"
    elif max(sizes) < 1.05 * min(sizes):
        how = f"but that of the noise is {sizes[k]:.3g} in every step: it lacks the factor sigma"
    elif max(ratios) < 1.05 * min(ratios):
        how = f"but that of the noise is {ratios[k]:.3g} times as large"
    elif all(abs(r / a**n - 1) < 0.05 for r, a in zip(ratios, room, strict=True) for n in (1,)):
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
