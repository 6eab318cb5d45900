"""Wrong formulas of a sampler's step, made from the right ones, and the one that fits what it does.

Every step is x_s = A x_0 + B eps + sigma z (see `moves`), written here as the complex number
A + iB: x_0 is 1, eps is i, x_t = sqrt(bar_t) + i sqrt(1 - bar_t), and a formula is the arithmetic
that a program does. `READS` are the ways from an output to x_0 and eps, `STEPS` those from there to
x_s. Each consists of terms such as sqrt(1 - bar_t); a wrong formula has one term of the wrong step,
without its root, with the wrong sign and so on, or the same mistake in all its terms.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product

from ddpm_helpers.doctor.finding import Alarm, broken
from ddpm_helpers.doctor.moves import Move
from ddpm_helpers.doctor.tables import Bars, Path, target

EXPLAINED = 0.9  # share of the steps that a mistake must explain
EXACT = 0.15  # misfit of a formula, as a share of what measuring allows, for a table
CLEAR = 1.5  # errors of measurement by which a step must be off
SANE = 30.0  # rms of eps above which rounding hides what a step does
MEASURED = 20  # right and wrong steps each that are compared
TINY = 1e-12  # stands for 0 where it would divide
ROOT = "Put the square root where the formula has one"
Values = dict[str, float]


@dataclass(frozen=True)
class Term:
    """A factor of a formula: sign * base ** power.

    Attributes:
        place: what it does, in words that its value follows.
        base: alpha_bar, 1 - alpha_bar, alpha_t, beta_t, sigma = sqrt(1 / alpha_bar - 1), or 0;
            t and 1 - t of flow matching, the shares of noise and of the image.
        row: t, s, or t by rows, such as t+1.
        less: subtract the variance of the step's noise from the base.
    """

    place: str
    base: str
    row: str = "t"
    power: float = 0.5
    sign: int = 1
    less: bool = False

    def __str__(self) -> str:
        if self.base == "0":
            return "0"
        roots = {0.5: f"sqrt({self.base})", 0: "1", 1: self.base, 2: f"({self.base})^2"}
        text = roots[abs(self.power)]
        text = f"1 / {text}" if self.power < 0 else text
        return text if self.sign > 0 else f"-{text}"


class At:
    """A move with the table's rows around it; alpha_t and beta_t are those of the way to s."""

    def __init__(self, move: Move, bars: Bars, kind: str, eta: float | None = None) -> None:
        self.move, self.bars = move, bars
        self.sigma = move.sigma if eta is None else eta * move.posterior_sigma
        self.q, self.p = math.sqrt(move.bar_t), math.sqrt(1 - move.bar_t)
        self.r, self.l = math.sqrt(move.bar_s), math.sqrt(1 - move.bar_s)
        self.x_t = complex(self.q, self.p)
        self.out: complex = target(kind, 1 + 0j, 1j, move.bar_t)  # type: ignore[arg-type,assignment]
        self.by_row = bars.function is None and move.t == int(move.t)
        self.every_row = self.by_row and move.s == move.t - 1
        self.measured = complex(move.A, move.B)
        self.values: dict[Term, float] = {}
        self.in_time = bars.function is not None and not isinstance(bars.function, Path)
        self.change = self._change(move, bars) if self.in_time else 0.0

    def _change(self, move: Move, bars: Bars) -> float:
        """beta(t) times the step: how much Euler's step of dx = -beta x / 2 dt changes x."""
        ends = [math.log(max(bars.at(move.t + by), TINY)) for by in (1e-4, -1e-4)]
        return (ends[0] - ends[1]) / 2e-4 * (move.s - move.t)

    def bar(self, row: str) -> float:
        """alpha_bar of a row."""
        if row in ("t", "s"):
            return max(self.move.bar_t if row == "t" else self.move.bar_s, TINY)
        return max(self.bars.at(self.move.t + int(row[1:])), TINY)

    def value(self, term: Term) -> float:
        """A term's value here."""
        if term not in self.values:
            self.values[term] = self._value(term)
        return self.values[term]

    def _value(self, term: Term) -> float:
        if term.base == "0":
            return 0.0
        if term.row not in ("t", "s") and not self.by_row:
            return math.nan
        bar = self.bar(term.row)
        if term.base in ("alpha_t", "beta_t"):
            if term.row == "s":
                return math.nan
            before = self.bar("s") if term.row == "t" else self.bar(f"t{int(term.row[1:]) - 1:+}")
            bar = min(1.0, bar / before)
        value = bar if term.base in ("alpha_bar", "alpha_t") else 1 - bar
        value = math.sqrt(1 / bar - 1) if term.base == "sigma" else value
        if term.base in ("t", "1 - t"):
            share = 1 / (1 + math.sqrt(bar / (1 - bar))) if bar < 1 else 0.0
            value = share if term.base == "t" else 1 - share
        value -= self.sigma**2 if term.less else 0
        return term.sign * max(value, TINY) ** term.power


@dataclass(frozen=True, eq=False)
class Formula:
    """A formula with its terms by name.

    Attributes:
        name: in words; source: where the right one stands.
        terms: its terms, which are replaced to make wrong ones.
        of: (step, values of the terms, further arguments) -> its result.
    """

    name: str
    source: str
    terms: dict[str, Term]
    of: Callable[..., complex | tuple[complex, complex]]

    def at(self, at: At, *args: complex, changed: dict[str, Term] | None = None):  # type: ignore[no-untyped-def] # noqa: ANN201
        """Its result at a step, with some terms changed."""
        terms = {**self.terms, **(changed or {})}
        return self.of(at, {name: at.value(term) for name, term in terms.items()}, *args)


X_0 = {
    "p": Term("x_0 is computed with", "1 - alpha_bar"),
    "q": Term("x_0 is divided by", "alpha_bar"),
}
OF_X_0 = {
    "P": Term("eps, computed from x_0, is divided by", "1 - alpha_bar"),
    "Q": Term("eps is computed from x_0 times", "alpha_bar"),
}
V = {
    "p": Term("x_0 is computed from v times", "1 - alpha_bar"),
    "q": Term("x_0 is computed from v and x_t times", "alpha_bar"),
}
OF_V = {
    "P": Term("eps is computed from v and x_t times", "1 - alpha_bar"),
    "Q": Term("eps is computed from v times", "alpha_bar"),
}
READ = "x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, with alpha_bar of the network's t"


def _x_0_of_eps(at: At, v: Values, out: complex) -> complex:
    return (at.x_t - v["p"] * out) / v["q"]


def _x_0_of_v(at: At, v: Values, out: complex) -> complex:
    return v["q"] * at.x_t - v["p"] * out


def _and_eps(x_0: Callable[[At, Values, complex], complex]) -> Callable[..., tuple]:
    """x_0, and eps computed from it."""

    def both(at: At, v: Values, out: complex) -> tuple[complex, complex]:
        image = x_0(at, v, out)
        return image, (at.x_t - v["Q"] * image) / v["P"]

    return both


def _x_0_of_eps_by_variance(at: At, out: complex) -> complex:
    return at.x_t / at.q - (at.p / at.q) ** 2 * out


def _x_0_of_v_by_sigma(at: At, out: complex) -> complex:
    return at.q * at.x_t - at.p / at.q * out


Read = Callable[[At, complex], tuple[complex, complex]]
WRONG_READS: dict[str, tuple[str, str, tuple[Read, ...]]] = {
    "eps": (
        "x_0 is computed with 1 / alpha_bar - 1: the square root is missing", ROOT,
        (lambda at, out: (_x_0_of_eps_by_variance(at, out), out),
         lambda at, out: _again(at, _x_0_of_eps_by_variance(at, out))),
    ),
    "v": (
        "x_0 is computed from v times sqrt(1 / alpha_bar - 1), not sqrt(1 - alpha_bar)",
        "x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v",
        (lambda at, out: (_x_0_of_v_by_sigma(at, out), at.p * at.x_t + at.q * out),
         lambda at, out: _again(at, _x_0_of_v_by_sigma(at, out))),
    ),
}  # fmt: skip


def _again(at: At, image: complex) -> tuple[complex, complex]:
    """x_0, and eps computed from it."""
    return image, (at.x_t - at.q * image) / at.p


READS = {
    "eps": (
        Formula("x_0", READ, X_0, lambda at, v, out: (_x_0_of_eps(at, v, out), out)),
        Formula("x_0 and eps", READ, X_0 | OF_X_0, _and_eps(_x_0_of_eps)),
    ),
    "x_0": (Formula("eps", READ, OF_X_0, _and_eps(lambda at, v, out: out)),),
    "v": (
        Formula(
            "x_0 and eps", "x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v", V | OF_V,
            lambda at, v, out: (_x_0_of_v(at, v, out), v["P"] * at.x_t + v["Q"] * out),
        ),
        Formula("x_0 and eps", READ, V | OF_X_0, _and_eps(_x_0_of_v)),
    ),
    "flow": (
        Formula(
            "x_0 and eps", "x_0 = x_t - t * output, eps = x_t + (1 - t) * output, at noise t = 1",
            {"p": Term("x_0 is computed from the output times", "t", power=1),
             "Q": Term("eps is computed from the output times", "1 - t", power=1)},
            lambda at, v, out: (at.x_t / (at.q + at.p) - v["p"] * out,
                                at.x_t / (at.q + at.p) + v["Q"] * out),
        ),
    ),
}  # fmt: skip


def _along_sigma(at: At, v: Values, image: complex, eps: complex) -> complex:
    y, sigma = at.x_t / max(at.q, TINY), at.p / max(at.q, TINY)
    down = math.sqrt(max(0.0, at.l**2 - at.sigma**2)) / max(at.r, TINY)
    return at.r * (y + (down - sigma) * (y - image) / v["d"])


def _by_eps(at: At, v: Values, image: complex, eps: complex) -> complex:
    return (at.x_t - v["b"] / v["d"] * eps) / v["c"]


def _posterior(at: At, v: Values, image: complex, eps: complex) -> complex:
    return v["a"] * v["b"] / v["d"] * image + v["e"] * v["f"] / v["g"] * at.x_t


BY_EPS = Formula(
    "the step", "Compare with Ho et al. 2020, eq. 11: every coefficient has the same t",
    {"c": Term("the step divides by", "alpha_t"),
     "b": Term("eps is multiplied by", "beta_t", power=1),
     "d": Term("eps is divided by", "1 - alpha_bar")},
    _by_eps,
)  # fmt: skip
MEAN = "the posterior's mean has"
POSTERIOR = Formula(
    "the posterior's mean",
    "The weights are sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) and "
    "sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t)",
    {"a": Term(f"{MEAN} x_0 times", "alpha_bar", "s"),
     "b": Term(f"{MEAN} x_0 times", "beta_t", power=1),
     "d": Term(f"{MEAN} x_0 divided by", "1 - alpha_bar", power=1),
     "e": Term(f"{MEAN} x_t times", "alpha_t"),
     "f": Term(f"{MEAN} x_t times", "1 - alpha_bar", "s", power=1),
     "g": Term(f"{MEAN} x_t divided by", "1 - alpha_bar", power=1)},
    _posterior,
)  # fmt: skip
DDIM = Formula(
    "the step", "Compare with Song et al. 2021, eq. 12",
    {"image": Term("the image is scaled by", "alpha_bar", "s"),
     "direction": Term("the direction is scaled by", "1 - alpha_bar", "s", less=True)},
    lambda at, v, image, eps: v["image"] * image + v["direction"] * eps,
)  # fmt: skip
EULER = Formula(
    "the slope", "Divide by the sigma that the network is given",
    {"d": Term("the slope, x - x_0, is divided by", "sigma", power=1)}, _along_sigma,
)  # fmt: skip
STEPS = (BY_EPS, POSTERIOR, DDIM, EULER)

SWAP = {"alpha_bar": "alpha_t", "1 - alpha_bar": "beta_t"}
SWAP |= {other: base for base, other in SWAP.items()}
NEXT, OF_T = "of the next step, not of t", "of the wrong step: t instead of the next one"


def _mistakes(term: Term) -> Iterator[tuple[int, str, Term]]:
    """Everything that may be wrong in a term: how rare it is, words, and the wrong term."""
    if term.power == 0.5:
        yield 0, ": the square root is missing", replace(term, power=1)
    else:
        yield 1, ": a square root too many", replace(term, power=0.5)
        yield 1, ": it is squared", replace(term, power=2)
    if term.base in ("t", "1 - t"):
        other = replace(term, base="1 - t" if term.base == "t" else "t")
        yield 0, f": {other} stands where {term} belongs", other
    if term.base in SWAP:
        first, second = ("alpha_t", "alpha_bar")[:: 1 if "bar" in term.base else -1]
        words = f": {first} stands where {second} belongs"
        yield 1, words, replace(term, base=SWAP[term.base], less=False)
    if term.base in ("alpha_t", "beta_t"):
        for row in ("t-1", "t+1"):
            yield 0, " of a neighbouring row", replace(term, row=row)
        yield (
            0,
            " of the way from t to t - 1, but the next call is elsewhere",
            replace(term, row="t+0"),
        )
    elif term.row == "s":
        yield 0, f" {OF_T}", replace(term, row="t")
        yield 0, f" {OF_T}", replace(term, row="t", less=False)
    else:
        yield 0, f" {NEXT}", replace(term, row="s")
        yield 0, " of a neighbouring row", replace(term, row="t+1")
    yield 1, ", which has the wrong sign", replace(term, sign=-1)
    yield 2, f", not {term}: upside down", replace(term, power=-term.power)
    yield 2, f", not {term}: it is left out", replace(term, power=0)
    if term.less:
        yield 0, ": there is no direction", replace(term, base="0")


def _is_any(at: At) -> bool:
    return True


def _is_silent(at: At) -> bool:
    return at.move.sigma < 1e-3


@dataclass(frozen=True)
class Fault:
    """A wrong formula.

    Attributes:
        sentence, repair: of the `Finding`.
        predicts: step -> A + iB.
        noise: whether the measured sigma of a step fits; by default any does.
        rare: of formulas that fit equally well, those with the least are named.
        eta: the noise must be the same share of DDPM's at all steps.
    """

    sentence: str
    repair: str
    predicts: Callable[[At], complex]
    noise: Callable[[At], bool] = _is_any
    rare: int = 0
    eta: bool = False

    def distance(self, at: At) -> float:
        """How far a measured step is from what this formula does."""
        try:
            return abs(at.measured - self.predicts(at)) if self.noise(at) else math.inf
        except (ZeroDivisionError, OverflowError):
            return math.inf


def _changes(formula: Formula) -> Iterator[tuple[str, str, int, dict[str, Term]]]:
    """Sentence, repair, rarity and changed terms of everything that may be wrong in a formula."""
    together: dict[str, dict[str, Term]] = {}
    for name, term in formula.terms.items():
        for rare, words, wrong in _mistakes(term):
            repair = ROOT if "root" in words else formula.source
            yield f"{term.place} {wrong}{words}", repair, rare + (name in "PQ"), {name: wrong}
            if "neighbouring" not in words or term.base in ("alpha_t", "beta_t"):
                together.setdefault(words + wrong.row.strip("ts"), {})[name] = wrong
    for pair in ("pq", "PQ", ("image", "direction")):
        if set(pair) <= set(formula.terms):
            a, b = (formula.terms[name] for name in pair)
            for sign in (1, -1):
                wrong = replace(b, place=a.place, less=False, sign=sign)
                both = {pair[0]: wrong, pair[1]: replace(a, place=b.place, sign=sign)}
                yield f"{a.place} {wrong}: exchanged with {a}", formula.source, 1, both
    every = {
        ": the square root is missing": "every square root is missing",
        f" {NEXT}": f"alpha_bar is {NEXT}",
        f" {OF_T}": "alpha_bar of the step before is that of t: it is not shifted by one row",
        " of a neighbouring row+1": "alpha_t and beta_t are those of a neighbouring row",
        " of a neighbouring row-1": "alpha_t and beta_t are those of a neighbouring row",
        " of the way from t to t - 1, but the next call is elsewhere+0": "alpha_t and beta_t are "
        "those of the way from t to t - 1, but the next call is elsewhere",
        ": alpha_t stands where alpha_bar belongs": "alpha_t stands where alpha_bar belongs",
    }
    for key, words in every.items():
        if len(changed := together.get(key, {})) > 1:
            yield f"in the formula of {formula.name}, {words}", formula.source, 1, changed


@lru_cache
def formulas(kind: str) -> tuple[Fault, ...]:
    """All wrong formulas for a kind of prediction."""
    found = []
    reads, steps = READS[kind], STEPS
    for read in reads:
        for words, repair, rare, changed in _changes(read):
            for step in steps:

                def by_read(at: At, read=read, step=step, changed=changed) -> complex:  # type: ignore[no-untyped-def] # noqa: ANN001
                    return step.at(at, *read.at(at, at.out, changed=changed))

                found.append(Fault(words, repair, by_read, rare=rare))
    for step in steps:
        for words, repair, rare, changed in _changes(step):

            def by_step(at: At, step=step, changed=changed) -> complex:  # type: ignore[no-untyped-def] # noqa: ANN001
                return step.at(at, *reads[0].at(at, at.out), changed=changed)

            noise = _is_silent if "no direction" in words else _is_any
            found.append(Fault(words, repair, by_step, noise, rare))
    words, repair, wrong_reads = WRONG_READS.get(kind, ("", "", ()))
    for wrong_read, step in product(wrong_reads, steps):

        def by_wrong_read(at: At, read=wrong_read, step=step) -> complex:  # type: ignore[no-untyped-def] # noqa: ANN001
            return step.at(at, *read(at, at.out))

        found.append(Fault(words, repair, by_wrong_read))
    return (*found, *SPECIAL)


def _with_noise(sigma2: Callable[[At], float]) -> Callable[[At], complex]:
    """A right step but for the variance that its direction leaves room for."""
    return lambda at: complex(at.r, math.sqrt(max(0.0, at.l**2 - sigma2(at))))


def _near(at: At, *sigmas: float) -> bool:
    """Whether the noise is one of these."""
    room = 1.5 * at.move.chance + 0.01
    return any(abs(at.move.sigma - sigma) <= room * sigma + 2e-5 for sigma in sigmas)


def _is_variance(at: At) -> bool:
    post, beta = at.move.posterior_sigma**2, at.move.beta_sigma**2
    return _near(at, post, beta, post / max(at.r, TINY))  # the last in the scale of sigma


def _posterior_swapped(at: At) -> complex:
    a = at.r * (1 - (at.q / at.r) ** 2) / at.p**2
    b = at.q / at.r * at.l**2 / at.p**2
    return b + a * at.x_t


def _log_snr(at: At) -> complex:
    """x_s = sigma_s / sigma_t x_t - sqrt(bar_s) expm1(-2 h) x_0, after Lu et al. 2022."""
    ratio = at.l / max(at.r, TINY) * at.q / at.p
    return at.l / at.p * at.x_t + at.r * (1 - ratio**2)


ROOM = "sqrt(1 - alpha_bar - sigma^2)"
NOISE_SCALED = (
    "the noise of each step is scaled by its variance, not by the square root of it",
    f"{ROOT}: sigma * z with sigma = sqrt(variance)",
)
SPECIAL = (
    Fault(*NOISE_SCALED, _with_noise(lambda at: at.move.posterior_sigma**2), _is_variance),
    Fault(*NOISE_SCALED, _with_noise(lambda at: at.move.sigma), _is_variance),
    Fault(*NOISE_SCALED, _with_noise(lambda at: at.l**2), lambda at: _near(at, at.l**2)),
    Fault(
        "each step reduces eps to make room for noise (as DDPM or eta > 0 do), but adds none",
        "Add sigma_t * z at every step but the last",
        _with_noise(lambda at: at.move.posterior_sigma**2),
        lambda at: at.move.sigma < 0.1 * at.move.posterior_sigma,
    ),
    Fault(
        "eta is used in one of two places: noise is added, but sigma^2 is not subtracted in "
        f"{ROOM}",
        "Subtract sigma^2 under the root of the direction too",
        _with_noise(lambda at: 0.0), lambda at: at.move.sigma > 1e-3, eta=True,
    ),
    Fault(
        "noise is added to steps that leave no room for it",
        f"Add none, or scale the direction by {ROOM}",
        _with_noise(lambda at: 0.0), lambda at: at.move.sigma > 1e-3, rare=1,
    ),
    Fault(
        "the noise's part of the drift has the wrong sign: eps grows where it should make room",
        "The drift of the SDE is v - w / 2 * score, with score = -eps / sigma, for noise of "
        "variance w dt", _with_noise(lambda at: -at.sigma**2), lambda at: at.move.sigma > 1e-3,
        rare=1,
    ),
    Fault(
        f"sigma, not sigma^2, is subtracted in {ROOM} of the direction",
        "Subtract sigma^2, the variance of the noise", _with_noise(lambda at: at.sigma),
        lambda at: at.move.sigma > 1e-3, eta=True,
    ),
    Fault(
        f"the direction is scaled by sqrt(1 - alpha_bar) - sigma, not by {ROOM}",
        "Subtract sigma^2 under the root", lambda at: complex(at.r, at.l - at.sigma),
        lambda at: at.move.sigma > 1e-3, eta=True,
    ),
    Fault(
        "each step goes down to make room for a part of the noise, but adds all of it: "
        "sigma of the next step for sigma_up",
        "Multiply the noise by sigma_up = sqrt(sigma_s^2 (sigma_t^2 - sigma_s^2)) / sigma_t",
        _with_noise(lambda at: at.move.posterior_sigma**2),
        lambda at: _near(at, at.l) and not _near(at, at.move.posterior_sigma, at.move.beta_sigma),
    ),
    Fault(
        "the posterior's mean has the weights of x_0 and x_t swapped", POSTERIOR.source,
        _posterior_swapped,
    ),
    Fault(
        "lambda lacks its factor 1/2: it is log(alpha_bar / (1 - alpha_bar))",
        "lambda is log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)), half the logarithm of SNR", _log_snr,
    ),
)  # fmt: skip


def name_fault(moves: Sequence[Move], bars: Bars, kind: str, calls: int = 1) -> Alarm | None:
    """The wrong formula that explains the moves, if it alone does and the right one does not.

    Args:
        moves: of a run, without the last.
        bars, kind: the table and what the network predicts.
        calls: network calls with the same x_t, 2 for guidance.
    """
    known = [m for m in moves if 0 < m.bar_t < 1 and 0 < m.bar_s < 1 and m.size < SANE]
    sane = len(known)
    known = [move for move in known if move.linear and move.bar_t != move.bar_s]
    wrong = [move for move in known if not move.right and move.away > CLEAR * move.spare]
    if len(wrong) < min(2, len(known)) or not wrong:
        return None
    right = [move for move in known if move.right]
    some = _some(wrong) + _some(right)
    steps = [At(move, bars, kind, _eta(some)) for move in some]
    mean_is_right = all(
        abs(at.measured - complex(at.r, at.move.posterior_B)) <= at.move.spare for at in steps
    )
    faults = SPECIAL if mean_is_right else formulas(kind)
    if not mean_is_right and (calls > 1 or len(known) > sane / 2):  # few steps fit a factor
        faults = (*faults, *_factors(steps, kind, calls))
    most = EXACT if bars.function is None else 1.0
    costs = [(cost, fault) for fault in faults if (cost := _cost(fault, steps)) < most]
    least = min((cost for cost, _ in costs), default=0.0)
    best = [fault for cost, fault in costs if cost <= 1.2 * least + 0.01]
    best = [fault for fault in best if fault.rare == min(other.rare for other in best)]
    named = {fault.sentence: fault.repair for fault in best}
    if not 0 < len(named) < 4:
        return _noise_size(steps) if mean_is_right else None
    return broken, "; or ".join(named), ". ".join(dict.fromkeys(named.values()))


def _eta(moves: list[Move]) -> float | None:
    """The noise over that of DDPM, if it is the same at all steps."""
    shares = [m.sigma / m.posterior_sigma for m in moves if m.posterior_sigma > 1e-4]
    if not shares or max(shares) > 1.2 * min(shares):
        return None
    eta = statistics.median(shares)
    return round(eta, 1) if abs(eta - round(eta, 1)) < 0.02 else eta


def _some(moves: list[Move]) -> list[Move]:
    return moves[:: max(1, -(-len(moves) // MEASURED))]


def _cost(fault: Fault, steps: list[At]) -> float:
    """The mean misfit of wrong steps, 1 being all that measuring allows; infinite if too many."""
    if fault.eta and _eta([at.move for at in steps]) is None:
        return math.inf
    ratios, misfits = [], 0
    for at in steps:
        share = 0.01 if at.bars.function is None else 0.03  # steps in a continuous t are inexact
        room = 2 * at.move.spare + share * min(at.move.away, 1.0)
        ratio = fault.distance(at) / room
        misfits += not ratio <= 1
        if misfits > (1 - EXPLAINED) * len(steps):
            return math.inf
        if ratio <= 1 and at.move.away > CLEAR * at.move.spare:
            ratios.append(ratio)
    return statistics.mean(ratios or [math.inf])


def _factors(steps: list[At], kind: str, calls: int) -> Iterator[Fault]:
    """Formulas in which the output, or the way to the next t, has the same wrong factor."""
    read = READS[kind][0]

    def times(step: Formula) -> Callable[[float, At], complex]:
        return lambda m, at: step.at(at, *read.at(at, m * at.out))

    def longer(m: float, at: At) -> complex:
        y, sigma = at.x_t / max(at.q, TINY), at.p / max(at.q, TINY)
        return at.r * (y + m * (at.l / max(at.r, TINY) - sigma) * 1j)

    def longer_in_flow(m: float, at: At) -> complex:
        tau, to = at.p / (at.q + at.p), at.l / (at.r + at.l)
        return (at.r + at.l) * (at.x_t / (at.q + at.p) + m * (to - tau) * (1j - 1))

    def drift(m: float, at: At) -> complex:
        return at.x_t * (1 + at.change / 2) - m * at.change / 2 * read.at(at, at.out)[1] / at.p

    ways = [(times(step), False) for step in STEPS]
    if steps[0].in_time and not all(at.move.sigma**2 > 0.5 * at.change for at in steps):
        ways.append((drift, False))
    if all(_is_silent(at) for at in steps):
        ways += [(longer, True), (longer_in_flow, True)]
    for of, way in ways:
        ratios = [((at.measured - of(0, at)) / slope).real
                  for at in steps if abs(slope := of(1, at) - of(0, at)) > 1e-4]  # fmt: skip
        m = statistics.median(ratios) if ratios else 1.0
        if (abs(m) > 0.05 or calls > 1) and abs(m) < 50 and abs(m - 1) > 4e-3:
            of_t = steps[0].bars.function
            noisy = (
                None if of_t is None or isinstance(of_t, Path) else not all(map(_is_silent, steps))
            )
            words = _of_factor(m, way, calls, noisy)
            usual = kind == "flow" if way else calls > 1
            rare = 0 if abs(m + 1) < 0.02 or usual else 2 if way and calls > 1 else 1
            yield Fault(*words, partial(of, m), rare=rare)


def _of_factor(m: float, way: bool, calls: int, noisy: bool | None) -> tuple[str, str]:
    """Sentence and repair of a factor m; noisy: for continuous t, whether the steps add noise."""
    if noisy is not None and abs(m - 2) < 0.1:
        adds = "the noise is too weak, as with dt for sqrt(dt)" if noisy else "the step adds none"
        return (
            f"the score counts twice, as in a step with noise, but {adds}",
            "Add noise of sqrt(beta dt), or halve the score, as the probability flow does",
        )
    if abs(m + 1) < 0.02:
        return (
            "the output enters with the wrong sign: steps lead away from x_0",
            "Compare the signs of the step and of the output with the formula",
        )
    if way:
        return (
            f"each step is {m:.4f} times as long as the difference between its t and the next",
            "Use t_next - t of the very t that the network is given: linspace has steps + 1 ends",
        )
    if calls > 1:
        return (
            f"the weights of the two outputs of guidance sum to {0 if abs(m) < 0.02 else m:.3g}, "
            "not to 1",
            "Use none + w * (with_y - none), or (1 + w) * with_y - w * none",
        )
    return f"the output is multiplied by {m:.3g}", "Use the output as the network returns it"


def _noise_size(steps: list[At]) -> Alarm | None:
    """By how much the noise of DDPM's steps is wrong, as a factor if it is the same in all."""
    found = []
    for of in ("posterior_sigma", "beta_sigma"):
        ratios = [at.move.sigma / right for at in steps if (right := getattr(at.move, of)) > 1e-3]
        middle = statistics.median(ratios or [0.0])
        away = [abs(ratio / max(middle, TINY) - 1) for ratio in ratios]
        found.append((statistics.median(away or [1.0]), middle, len(away)))
    spread, middle, count = min(found)
    if count < 3:
        return None
    if spread > 0.03 or middle < 0.05 or abs(middle - 1) < 0.05:
        move = max((at.move for at in steps), key=lambda m: abs(m.sigma - m.posterior_sigma))
        return (
            broken,
            f"the mean of each step is DDPM's, but its noise is not: at t = {move.t:.4g} its "
            f"standard deviation is {move.sigma:.4f}, not {move.posterior_sigma:.4f} to "
            f"{move.beta_sigma:.4f}",
            "Check log variance, its factor 1/2, and the weights of a learned variance",
        )  # fmt: skip
    return (
        broken, f"the noise of each step is {middle:.3g} times what it should be",
        "sigma^2 is beta_t or (1 - alpha_bar_s) / (1 - alpha_bar_t) beta_t",
    )  # fmt: skip
