"""The form of a sampler's result: range, order of pixels and channels, rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations

import torch
from torch import Tensor

from ddpm_helpers.doctor.finding import Alarm, broken, look
from ddpm_helpers.doctor.tables import fit, rms

Mend = Callable[[Tensor], Tensor]
ROUNDED = 0.006  # rms distance of images that were rounded to 256 grey levels, up or down
SORTED = 0.008  # the same between sorted values; those of two images differ by more
NEAR = 0.02  # rms distance of a result that is x_0 in another form, if all else is right
RANGES: tuple[tuple[str, str, Mend], ...] = (
    ("0..1", "Use 2 * x - 1 before you compare", lambda x: 2 * x - 1),
    ("0..255", "Use x / 127.5 - 1 before you compare", lambda x: x / 127.5 - 1),
    ("-0.5..0.5", "Use 2 * x before you compare", lambda x: 2 * x),
)


def read_result(result: Tensor, x_0: Tensor, quantised: bool = False) -> tuple[Mend, Alarm | None]:
    """Find the form in which a result is x_0.

    Args:
        result, x_0: what a sampler returned and what it should be, (B, C, H, W).
        quantised: the sampler returned uint8.
    Returns:
        A function that brings results into the range and order of x_0, and an alarm: a look for
        another range, broken for all else; None if the form is right or unknown.
    """

    def same(x: Tensor) -> Tensor:
        return x

    if not torch.isfinite(result).all() or rms(result - x_0) < NEAR:
        return same, None
    if quantised and (alarm := _levels((result + 1) * 127.5, x_0)):
        return same, alarm
    for name, repair, mend in RANGES:
        slope, offset = line(mend(result), x_0)
        if abs(slope - 1) < 0.1 and abs(offset) < 0.1:
            return mend, (look, f"the sampler returns images in {name}", repair)
    if rms(result - x_0.clamp(min=0)) < NEAR:
        return same, (
            broken, "x_0 is clipped to 0..1, but images lie in -1..1", "Clip to -1..1",
        )  # fmt: skip
    for words, order in _orders(result, x_0):
        for name, mend in [("", same), *((name, mend) for name, _, mend in RANGES)]:
            if rms(mend(order(result)) - x_0) < NEAR:
                sentence = f"the result is x_0 with {words}" + (f", in {name}" if name else "")
                return (
                    lambda x, order=order, mend=mend: mend(order(x)),  # type: ignore[misc]
                    (broken, sentence, "Compare permute, flip, view and index behind the loop"),
                )
    return _affine(result, x_0) or (same, None)


LEVELS: dict[str, Mend] = {
    "x * 255": lambda x: 255 * x, "x * 127.5": lambda x: 127.5 * x,
    "(x + 1) / 2, without the factor 255": lambda x: (x + 1) / 2,
    "x, without the factor 127.5": lambda x: x, "(x + 1) * 255": lambda x: 255 * (x + 1),
    "(x' + 1) * 127.5 with x' in 0..1": lambda x: 63.75 * x + 191.25,
}  # fmt: skip


def _levels(grey: Tensor, x_0: Tensor) -> Alarm | None:
    """Grey levels of a wrong range, cut at 0 and 255 or starting again there."""
    for words, of in LEVELS.items():
        levels = of(x_0)
        cut = (levels.clamp(0, 255) - grey).abs() < 1.01
        again = ((levels.floor() - grey + 1) % 256 < 2.01) | ((levels - grey + 0.5) % 256 < 1.01)
        for same, how in ((cut, "cut at 0 and 255"), (again, "and starts again beyond 0 and 255")):
            if float(same.double().mean()) > 0.97:
                return (
                    broken, f"the result in uint8 is {words}, {how}, not (x + 1) * 127.5",
                    "Use ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)",
                )  # fmt: skip
    return None


def line(x: Tensor, x_0: Tensor) -> tuple[float, float]:
    """Slope and offset of the line that gives x from x_0."""
    centred = x_0 - x_0.mean()
    slope = float(((x - x.mean()) * centred).sum() / centred.square().sum())
    return slope, float(x.mean() - slope * x_0.mean())


def _affine(result: Tensor, x_0: Tensor) -> tuple[Mend, Alarm] | None:
    """x_0 in a range of its own, for each channel if need be."""
    lines = [line(result[:, c], x_0[:, c]) for c in range(x_0.shape[1])]
    slopes, offsets = (result.new_tensor(v)[:, None, None] for v in zip(*lines, strict=True))
    if float(slopes.abs().min()) < 0.05 or rms(result - (slopes * x_0 + offsets)) > 1e-3:
        return None
    a, b = lines[0]
    scale = f"the result is {a:.3f} * x_0 {b:+.3f}"
    scale += "" if rms(slopes - a) + rms(offsets - b) < 0.01 else " in the first channel"
    if max(abs(a - 1), abs(b)) < 0.01 and "first" not in scale:
        return None  # a matter of the last step
    return (
        lambda x: (x - offsets) / slopes,
        (broken, f"{scale}: it is normalised twice, or not back",
         "Convert to another range once, where images are saved or shown"),
    )  # fmt: skip


FUNCTIONS: dict[str, Mend] = {
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "the absolute value": torch.abs,
    "the square": torch.square, "sin": torch.sin, "arctanh": torch.atanh,
    "a ReLU": torch.relu,
}  # fmt: skip


def read_values(result: Tensor, x_0: Tensor) -> Alarm | None:
    """What became of x_0 behind a right loop, if no affine map and no other order explains it."""
    return _by_image(result, x_0) or _by_pixel(result, x_0)


def _by_image(result: Tensor, x_0: Tensor) -> Alarm | None:
    """One image several times, or a range for each."""
    nearest = torch.cdist(result.flatten(1), x_0.flatten(1)).argmin(1)
    if rms(result - x_0[nearest]) < NEAR and len(nearest.unique()) < len(nearest):
        return (
            broken, "the batch holds images several times, by their numbers: "
            f"{', '.join(map(str, nearest[:8].tolist()))}{', ..' if len(nearest) > 8 else ''}",
            "Look for an index or a broadcast such as x[:1].expand(n, ...) behind the loop",
        )  # fmt: skip
    lines = [line(image, known) for image, known in zip(result, x_0, strict=True)]
    slopes, offsets = (result.new_tensor(v)[:, None, None, None] for v in zip(*lines, strict=True))
    if float(slopes.abs().min()) < 0.05 or rms(result - (slopes * x_0 + offsets)) > ROUNDED:
        return None
    (a, b), (c, d) = min(lines), max(lines)
    if c - a < 1e-3:
        return None
    return (
        broken, f"each image of the result is scaled by itself, from {a:.3f} * x_0 {b:+.3f} to "
        f"{c:.3f} * x_0 {d:+.3f}, as if stretched to its own minimum and maximum",
        "Convert all images with the same factor: (x + 1) / 2, without normalize=True",
    )  # fmt: skip


def _by_pixel(result: Tensor, x_0: Tensor) -> Alarm | None:
    """A function of each value."""
    powers = [x_0.double() ** k for k in range(10)]
    _, rest = fit(result.double(), *powers)
    named = [
        name for name, of in FUNCTIONS.items()
        for mend in (lambda x: x, *(mend for _, _, mend in RANGES))
        if rms(mend(result) - of(x_0)) < ROUNDED
    ]  # fmt: skip
    if not named and rms(rest) > ROUNDED:
        return None
    what = f"{named[0]} of x_0" if named else "another function of each value of x_0"
    order = x_0.flatten().argsort()
    ends = result.flatten()[order[[0, len(order) // 2, -1]]].tolist()
    return (
        broken, f"the result is {what}: {ends[0]:.2f}, {ends[1]:.2f} and {ends[2]:.2f} for the "
        "least, middle and largest value", "Return the x_0 of the loop without it",
    )  # fmt: skip


def _orders(result: Tensor, x_0: Tensor) -> Iterator[tuple[str, Mend]]:
    C, H, W = x_0.shape[1:]
    if C > 1:
        for order in permutations(range(C)):
            if C <= 4 and list(order) != sorted(order):
                back = [order.index(c) for c in range(C)]
                yield (
                    f"its channels in the order {', '.join(map(str, order))}, such as BGR for RGB",
                    lambda x, back=back: x[:, back],  # type: ignore[misc]
                )
    yield "left and right exchanged", lambda x: x.flip(-1)
    yield "top and bottom exchanged", lambda x: x.flip(-2)
    yield "both sides exchanged, as after a turn by 180 degrees", lambda x: x.flip(-1, -2)
    if H == W:
        yield "rows and columns exchanged", lambda x: x.transpose(-1, -2)
        yield "a turn by 90 degrees", lambda x: x.rot90(1, (-2, -1))
        yield "a turn by 90 degrees", lambda x: x.rot90(-1, (-2, -1))
    flat, known = (v.flatten(1) - v.flatten(1).mean(1, keepdim=True) for v in (result, x_0))
    nearest = (known @ flat.T).argmax(1)  # of each known image
    if len(nearest.unique()) == len(nearest):
        yield "its images in another order", lambda x: x[nearest]
    off = rms(result.flatten(1).sort(1).values - x_0.flatten(1).sort(1).values)
    if off < SORTED < 0.1 * rms(result - x_0):
        index = x_0.flatten(1).argsort(1).argsort(1)
        yield (
            "its pixels in another order, as after view() in place of permute()",
            lambda x: x.flatten(1).sort(1).values.gather(1, index).reshape(x_0.shape),
        )


def is_rounded(result: Tensor) -> bool:
    """Whether images in -1..1 have no values but 256 grey levels."""
    levels = (result + 1) * 127.5
    return rms(levels - levels.round()) < 0.01
