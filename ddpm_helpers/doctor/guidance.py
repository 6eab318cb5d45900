"""Checks of classes and guidance: the use of y, the "no label" label, the two branches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.finding import Finding, broken, decide, look, ok
from ddpm_helpers.doctor.tables import Bars, ask, calling, check_kind, noised, rms, shape_of

Model = Callable[..., Any]
CLEAR = 4.0  # standard errors by which a loss must differ


def check_labels(model: Model, x_t: Tensor, t: int, *, num_classes: int, null: int) -> Finding:
    """Check that the output depends on the class.

    Args:
        model: `model(x_t, t, y)`.
        x_t: noisy images, (B, C, H, W), best at a t where little is left of them.
        t: their step.
        num_classes: classes 0..num_classes-1.
        null: the label that means none.
    Returns:
        A `Finding` with `between` classes and `to_null`, rms differences over the output's size.
    Raises:
        ValueError: the model cannot be called so.
    """

    def of(k: int) -> Tensor:
        return ask(model, x_t, t, torch.full((len(x_t),), k, device=x_t.device)).double()

    first, second, none = of(0), of(num_classes - 1), of(null)
    size = max(rms(first), rms(second), rms(none))
    if size == 0:
        return look(
            "labels", "the network outputs 0 for every class: it is untrained", "Train or load it"
        )
    between, to_null = rms(first - second) / size, rms(first - none) / size
    return decide(
        "labels",
        (num_classes > 1 and between < 1e-4, broken,
         "the output is the same for every class: y is not used",
         "Embed y and add it to the time embedding in every block"),
        (to_null < 1e-4, broken,
         "class 0 and \"no label\" give the same output: guidance does nothing",
         "Give \"no label\" a row of its own in the embedding: num_classes + 1 rows"),
        otherwise=f"the class changes the output by {between:.1%}",
        between=between, to_null=to_null,
    )  # fmt: skip


def check_null(
    model: Model, x_0: Tensor, y: Tensor, alpha_bar: Any, *, null: int, prediction: str = "eps"
) -> Finding:
    """Check that classes mean what they should, and that "no label" was trained.

    Args:
        model: `model(x_t, t, y)`.
        x_0: real images, (B, C, H, W) in [-1, 1], of several classes.
        y: their classes, (B,).
        alpha_bar: table, see `check_sampler`.
        null: the label that means none.
        prediction: eps, x_0, v or flow.
    Returns:
        A `Finding` with the losses `right`, `none` and `wrong`, over several t, and those of
        labels one `above` and `below`. The right class must do better than a wrong one and no
        worse than none.
    Raises:
        ValueError: the model cannot be called so.
    """
    bars, kind = Bars(alpha_bar), check_kind(prediction)
    generator = torch.Generator().manual_seed(0)
    classes = int(y.max()) + 1
    labels = {
        "right": y, "none": torch.full_like(y, null), "wrong": y.roll(1, 0),
        "above": (y + 1) % classes, "below": (y - 1) % classes,
    }  # fmt: skip
    ts = [bars.step(share) for share in (0.4, 0.55, 0.7, 0.85)]
    each = {name: torch.zeros(len(y), dtype=torch.float64) for name in labels}  # by image
    for t in ts:
        x_t, goal = noised(x_0, bars.at(t), kind, generator)
        for name, label in labels.items():
            error = (ask(model, x_t, t, label) - goal).double().square()
            each[name] += error.flatten(1).mean(1).cpu() / len(ts)
    losses = {name: float(loss.mean()) for name, loss in each.items()}
    sentence = "loss with the right class {right:.4f}, none {none:.4f}, a wrong one {wrong:.4f}"
    sentence = sentence.format(**losses)
    gap = max(losses["wrong"] - losses["right"], 0.02 * losses["right"])  # what a class is worth
    shifts = {name: _better(each[name], each["right"]) for name in ("above", "below")}
    nearest = max(shifts, key=lambda name: shifts[name])
    shift = f"y {'+' if nearest == 'above' else '-'} 1"
    count = classes > 2 and shifts[nearest] > CLEAR
    return decide(
        "null label",
        (count, broken,
         f"{sentence}, {shift} {losses[nearest]:.4f}: labels are off by one",
         f"Training used {shift} for these images: compare the two lists of classes"),
        (_better(each["none"], each["right"]) > CLEAR, broken,
         f"{sentence}: the right class is worse than none, so a label means another class than "
         "in training",
         "Print the list of classes here and in training: they must have the same order"),
        (losses["none"] > losses["wrong"] + gap, broken,
         f"{sentence}: \"no label\" was never trained",
         "Replace y by it for one training image in ten"),
        (0 < abs(_better(each["right"], each["wrong"])) < 2, look,
         f"{sentence}: the right class is no better than a wrong one",
         "Train longer. If that does not help, compare the order of the classes with the training"),
        otherwise=sentence, **losses,
    )  # fmt: skip


def _better(a: Tensor, b: Tensor) -> float:
    """By how many standard errors losses a, (B,), are below losses b of the same images."""
    difference = b - a
    error = difference.std() / math.sqrt(len(a)) if len(a) > 1 else difference.new_tensor(math.inf)
    return float(difference.mean() / error.clamp(min=1e-12))


def check_label_dropout(
    drop: Callable[[Tensor], Tensor], *, num_classes: int, null: int, share: float = 0.1
) -> Finding:
    """Check that labels are hidden one by one and at the given rate, and that others are kept.

    Args:
        drop: `drop(y) -> y'`, as the training does it, y int64 (B,).
        num_classes: classes 0..num_classes-1.
        null: the label that means none.
        share: the share that should be hidden.
    Returns:
        A `Finding` with `hidden`, the share that was hidden.
    Raises:
        ValueError: drop fails or returns another shape.
    """
    y = torch.arange(64) * 7 % num_classes
    hidden, strange = [], 0
    for _ in range(64):
        with calling("drop", "the doctor calls drop(y (64,))"):
            after = drop(y.clone())
        if (got := shape_of(after)) != y.shape:
            raise ValueError(f"drop returned {got}; the doctor calls drop(y (64,)), expects (64,)")
        gone = after == null
        strange += int((~gone & (after != y)).sum())
        hidden.append(gone)
    rows = torch.stack(hidden).double()  # (64 batches, 64 rows)
    rate = float(rows.mean())
    together = bool(((rows.mean(1) == 0) | (rows.mean(1) == 1)).all()) and rate < 1
    same_rows = bool((rows == rows[:1]).all())
    which = "whole batches" if together else "the same rows of every batch"
    return decide(
        "label dropout",
        (strange > 0, broken, f"{strange} labels became another class",
         "Use y = torch.where(torch.rand(len(y)) < 0.1, null, y)"),
        (rate == 0, broken, "no label was ever hidden: \"no label\" is never trained",
         "Hide one label in ten: y = torch.where(torch.rand(len(y)) < 0.1, null, y)"),
        (together or same_rows, broken if same_rows else look,
         f"labels are hidden for {which}, not one by one",
         "Draw one random number for each image: torch.rand(len(y)) < share"),
        (abs(rate - share) > 0.3 * share + 0.02, look,
         f"{rate:.0%} of the labels are hidden, not {share:.0%}",
         "Hide where torch.rand(len(y)) < share; with > the share is 1 - share"),
        otherwise=f"{rate:.0%} of the labels are hidden, one by one", hidden=rate,
    )  # fmt: skip


def check_guidance(
    guided: Callable[..., Any], model: Model, x_t: Tensor, t: int, y: Tensor, *, null: int
) -> Finding:
    """Check guided = none + w (class - none), in which w = 0 and w = 1 are the two branches.

    Args:
        guided: `guided(x_t, t, y, w) -> output`, as the sampler has it.
        model: `model(x_t, t, y)`, the network in it.
        x_t: (B, C, H, W); t: their step; y: (B,), of several classes.
        null: the label that means none.
    Returns:
        A `Finding` with `at_0` and `at_1`, the rms distances from the branches over their
        difference. Counting w from 0, as Ho & Salimans do (w = 0 is the class alone), is ok too.
    Raises:
        ValueError: the functions cannot be called so.
    """

    def at(w: float) -> Tensor:
        return ask(lambda x, steps: guided(x, steps, y, w), x_t, t).double()

    with_y = ask(model, x_t, t, y).double()
    none = ask(model, x_t, t, torch.full_like(y, null)).double()
    gap = rms(with_y - none)
    if gap < 1e-9:
        return broken(
            "guidance", "the output is the same with and without the class: guidance does nothing",
            "Run check_labels and check_null first",
        )  # fmt: skip
    w_0, w_1, w_3 = at(0.0), at(1.0), at(3.0)
    numbers = {"at_0": rms(w_0 - none) / gap, "at_1": rms(w_1 - with_y) / gap}

    def follows(first: Tensor, second: Tensor) -> bool:
        """Whether w = 0, 1, 3 lie on the line from `first` at 0 to `second` at 1."""
        line = ((w_0, first), (w_1, second), (w_3, first + 3 * (second - first)))
        return all(rms(out - meant) < 1e-3 * gap for out, meant in line)

    if follows(none, with_y):
        return ok("guidance", "w = 0 is the branch without the class, w = 1 the one with it",
                  **numbers)  # fmt: skip
    if follows(with_y, 2 * with_y - none):
        return ok("guidance", "w counts from 0, as in Ho & Salimans: w = 0 is the class alone",
                  **numbers)  # fmt: skip
    if rms(w_0 - w_3) < 1e-3 * gap:
        words = "w changes nothing"
    elif follows(with_y, none) or follows(none, 2 * none - with_y):
        words = "the two branches are swapped: w leads away from the class"
    elif numbers["at_0"] < 1e-3 and numbers["at_1"] < 1e-3:
        words = "the branches are right, but the output is not linear in w"
    elif numbers["at_0"] > 1e-3 and numbers["at_1"] > 1e-3:
        words = "neither w = 0 nor w = 1 is a branch, as with labels on the wrong rows of a batch"
    else:
        words = f"w = {int(numbers['at_1'] > 1e-3)} does not give its branch"
    return broken("guidance", words, "none + w * (with_y - none), halves split as they were joined",
                  **numbers)  # fmt: skip
