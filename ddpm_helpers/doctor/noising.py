"""The noising x_t = A x_0 + B eps, every way to get A or B wrong, and the check of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.finding import Finding, broken, decide, look
from ddpm_helpers.doctor.tables import Bars, calling, rms, shape_of, usual_betas

FORMULA = "x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps"
EXACT = 1e-3  # rms by which x_t may be off a formula that it follows
Weights = tuple[Tensor, Tensor]  # of x_0 and of eps, (B, 1, 1, 1)
Mixture = Callable[[Tensor], Weights]  # t, (B,), int64 -> its weights


def mixture(bars: Bars) -> Mixture:
    """The right weights, for any t; outside of the table those of its ends."""

    def weights(t: Tensor) -> Weights:
        bar = bars.table[t.cpu().clamp(0, bars.last)].reshape(-1, 1, 1, 1)
        return bar.sqrt(), (1 - bar).sqrt()

    return weights


def wrong_mixtures(bars: Bars) -> Iterator[tuple[str, Mixture]]:
    """Every mixture with one mistake: what is wrong, and the weights that follow from it."""
    right = mixture(bars)

    def alphas(t: Tensor) -> Tensor:
        before = torch.where((t > 0).reshape(-1, 1, 1, 1), right(t - 1)[0] ** 2, 1.0)
        return right(t)[0] ** 2 / before

    def single(change: Callable[[Tensor, Tensor, Tensor], Weights]) -> Mixture:
        return lambda t: change(*right(t), alphas(t))

    for words, change in SINGLE.items():
        yield words, single(change)
    yield "t is off by one: the table's next row is used", lambda t: right(t + 1)
    yield "t is off by one: the table's previous row is used", lambda t: right(t - 1)
    yield "the table is read from its other end", lambda t: right(bars.first + bars.last - t)
    yield "all images are noised with the t of the first", lambda t: right(t[:1].expand(len(t)))
    yield (
        "the weights of an image change along its width: alpha_bar[t] lacks the shape (B, 1, 1, 1)",
        lambda t: (right(t)[0].reshape(1, 1, 1, -1), right(t)[1].reshape(1, 1, 1, -1)),
    )
    yield (
        "the weights of an image change along its height: alpha_bar[t] lacks the shape "
        "(B, 1, 1, 1)",
        lambda t: (right(t)[0].reshape(1, 1, -1, 1), right(t)[1].reshape(1, 1, -1, 1)),
    )
    for name, betas in usual_betas(bars.last + 1 - bars.first).items():
        other = (1 - betas).cumprod(0)
        if float((other - bars.table[bars.first :]).abs().max()) > 0.01:
            table = torch.cat([bars.table[: bars.first], other])
            yield f"the table is another one: {name}", mixture(Bars(table))


SINGLE: dict[str, Callable[[Tensor, Tensor, Tensor], Weights]] = {  # of A, B and alpha_t
    "the image is scaled by alpha_bar: the square root is missing": lambda A, B, a: (A**2, B),
    "the noise is scaled by 1 - alpha_bar: the square root is missing": lambda A, B, a: (A, B**2),
    "both square roots are missing": lambda A, B, a: (A**2, B**2),
    "the image is scaled by a square root too many": lambda A, B, a: (A**0.5, B),
    "the noise is scaled by a square root too many": lambda A, B, a: (A, B**0.5),
    "the two weights are swapped": lambda A, B, a: (B, A),
    "alpha_t stands where alpha_bar belongs: the product is missing": lambda A, B, a: (
        a.sqrt(), (1 - a).sqrt()
    ),
    "the image is scaled by sqrt(alpha_t), not sqrt(alpha_bar)": lambda A, B, a: (a.sqrt(), B),
    "the noise is scaled by sqrt(beta_t), not sqrt(1 - alpha_bar)": lambda A, B, a: (
        A, (1 - a).sqrt()
    ),
    "the noise is scaled by beta_t, not sqrt(1 - alpha_bar)": lambda A, B, a: (A, 1 - a),
    "the image is not scaled": lambda A, B, a: (A**0, B),
    "the noise is not scaled": lambda A, B, a: (A, B**0),
    "nothing is scaled": lambda A, B, a: (A**0, B**0),
    "the noise is scaled by 1 - sqrt(alpha_bar)": lambda A, B, a: (A, 1 - A),
    "the noise is scaled by sqrt(1 - sqrt(alpha_bar))": lambda A, B, a: (A, (1 - A).sqrt()),
    "the image is missing": lambda A, B, a: (0 * A, B),
    "the noise is subtracted": lambda A, B, a: (A, -B),
    "the image is subtracted": lambda A, B, a: (-A, B),
    "x_t has the scale of sigma: x_0 + sigma eps": lambda A, B, a: (A**0, B / A.clamp(min=1e-9)),
    "the weights are alpha_bar and sqrt(1 - alpha_bar^2): a square root of alpha_bar is missing":
        lambda A, B, a: (A**2, (1 - A**4).sqrt()),
    "the noise is scaled by sqrt(1 - alpha_bar^2)": lambda A, B, a: (A, (1 - A**4).sqrt()),
    "the image is scaled by sqrt(alpha_bar[t - 1])": lambda A, B, a: (A / a.sqrt(), B),
    "the noise is scaled by sqrt(1 - alpha_bar[t - 1])": lambda A, B, a: (
        A, (1 - A**2 / a).clamp(min=0).sqrt()
    ),
}  # fmt: skip


def check_noising(
    add_noise: Callable[..., Any], alpha_bar: Any, *, shape: tuple[int, int, int] = (3, 16, 16)
) -> Finding:
    """Check x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps, with a t for each image.

    Args:
        add_noise: `add_noise(x_0, t, eps) -> x_t` of the training code, x_0 and eps (B, C, H, W),
            t int64 (B,), counted as in the table. If it returns a tuple, x_t must come first.
        alpha_bar: table, see `check_sampler`.
        shape: of one image; B is its width, so that weights on the wrong axis do not fail.
    Returns:
        A `Finding` with `error`, the rms distance from the formula.
    Raises:
        ValueError: add_noise fails, or returns another shape.
    """
    bars, B = Bars(alpha_bar), shape[-1]
    generator = torch.Generator().manual_seed(0)
    ts = torch.linspace(bars.first, bars.last, B).long()  # (B,)
    x_0 = torch.rand(B, *shape, generator=generator) * 2 - 1
    eps = torch.randn(B, *shape, generator=generator)
    expects = f"the doctor calls add_noise(x_0 {tuple(x_0.shape)}, t ({B},), eps) and expects x_t"
    results = []
    for _ in range(2):
        with calling("add_noise", expects):
            given = x_0.clone(), ts.clone(), eps.clone()
            x_t = add_noise(*given)
        x_t = x_t[0] if isinstance(x_t, tuple) else x_t
        if shape_of(x_t) != x_0.shape:
            raise ValueError(f"add_noise returned {shape_of(x_t)}; {expects}")
        results.append(x_t.detach().double())
    right = mixture(bars)
    ideal = _mixed(right, x_0, ts, eps)
    changed = not all(torch.equal(a, b) for a, b in zip(given, (x_0, ts, eps), strict=True))
    off = rms(results[0] - ideal)
    return decide(
        "noising",
        (off >= EXACT and rms(results[0] - results[1]) > EXACT, broken,
         "it draws noise of its own: two calls with one eps differ",
         f"{FORMULA}, with the eps that is the target"),
        (off >= EXACT, broken,
         "" if off < EXACT else _name(results[0], x_0, ts, eps, bars), FORMULA),
        (changed, look, "it changes its arguments in place: x_0 or eps is lost after the call",
         "Use a * x_0 in place of x_0.mul_(a)"),
        otherwise=f"x_t agrees with the formula within {off:.0e}", error=off,
    )  # fmt: skip


def _mixed(weights: Mixture, x_0: Tensor, ts: Tensor, eps: Tensor) -> Tensor:
    A, B = weights(ts)
    return A * x_0 + B * eps


def _name(x_t: Tensor, x_0: Tensor, ts: Tensor, eps: Tensor, bars: Bars) -> str:
    """The mistake that gives this x_t, or else the weights that were measured."""
    right = mixture(bars)
    made = {words: _mixed(weights, x_0, ts, eps) for words, weights in wrong_mixtures(bars)}
    made["x_t is clipped to -1..1: its noise must reach beyond"] = _mixed(
        right, x_0, ts, eps
    ).clamp(-1, 1)
    made["the image is in 0..1, not in -1..1"] = _mixed(right, (x_0 + 1) / 2, ts, eps)
    made["2 * x - 1 is applied to images that lie in -1..1 already"] = _mixed(
        right, 2 * x_0 - 1, ts, eps
    )
    off = {words: _typical(x_t - wrong) for words, wrong in made.items()}
    if off[named := min(off, key=lambda words: off[words])] < EXACT:
        return named
    known = torch.stack([x_0.flatten(1), eps.flatten(1)], 2).double()  # (B, N, 2)
    measured = torch.linalg.lstsq(known, x_t.flatten(1)[..., None]).solution.squeeze(2)  # (B, 2)
    meant = torch.cat([weight.flatten(1) for weight in right(ts)], 1)  # (B, 2)
    ratios = (measured / meant)[1:-1]
    middle = ratios.median(0).values
    if float((measured - meant)[1:-1].abs().max()) < 0.01:
        return "the weights are off by less than 0.01: the table is rounded, as in bfloat16"
    if ((ratios - middle).abs() < 0.01).all():
        return "the image is scaled {:.3f} times, the noise {:.3f} times as it should be".format(
            *middle.tolist()
        )
    i = len(ts) // 2
    (A, B), (a, b) = measured[i].tolist(), meant[i].tolist()
    return (
        f"at t = {int(ts[i])} the image is scaled by {A:.3f} instead of {a:.3f}, "
        f"the noise by {B:.3f} instead of {b:.3f}"
    )


def _typical(x: Tensor) -> float:
    """The rms that nine images of ten do not exceed: at an end of the table an index may wrap."""
    return float(x.square().mean((1, 2, 3)).sqrt().quantile(0.9))
