"""Checks of the training: loss, history, overfitting one batch, averaged weights."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.finding import Finding, broken, decide, look
from ddpm_helpers.doctor.tables import Bars, ask, calling, check_kind, error_gain, noised, rms

Model = Callable[..., Any]
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of T, where the loss is measured
HARDLY = 0.9  # loss over that of the guess, at an end, from which samples are noise or a blur


def check_loss(
    model: Model, x_0: Tensor, alpha_bar: Any, *, prediction: str = "eps", y: Tensor | None = None
) -> Finding:
    """Compare the loss at several fixed t, on fixed noise, with that of a one-pixel guess.

    The guess is the best one that uses one pixel at a time, and the data's mean and variance: the
    mean where all is noise, x_t where there is none, a mix in between. The mean loss over all t
    hides this: it falls to a tenth before the network has learned a single shape.

    Args:
        model: `model(x_t, t)`, or `model(x_t, t, y)` if y is given.
        x_0: real images, (B, C, H, W) in [-1, 1], 16 or more.
        alpha_bar: table, see `check_sampler`.
        prediction: eps, x_0, v or flow.
        y: their classes, (B,), or None.
    Returns:
        A `Finding`; `loss_at_T*0.1` … are losses over the guess's: below 1, shapes are learned.
    Raises:
        ValueError: the model cannot be called so.
    """
    bars, kind = Bars(alpha_bar), check_kind(prediction)
    generator = torch.Generator().manual_seed(0)
    numbers = {}
    for share in SHARES:
        t = bars.step(share)
        bar = bars.at(t)
        x_t, goal = noised(x_0, bar, kind, generator)
        out = ask(model, x_t, t, y, finite=False).to(x_0.dtype)
        if not torch.isfinite(out).all():
            return broken(
                "loss", f"the output at t = {t} is NaN or infinite",
                "Lower the learning rate, clip gradients, and start again from good weights",
            )  # fmt: skip
        loss = rms(out - goal) ** 2
        numbers[f"loss_at_T*{share}"] = loss / _one_pixel_guess(x_0, bar, kind)
    ratios = list(numbers.values())
    words = "loss over that of a one-pixel guess: " + ", ".join(
        f"{ratio:.2f} at {share:.0%} of T" for share, ratio in zip(SHARES, ratios, strict=True)
    )
    return decide(
        "loss",
        (min(ratios) > 0.95, broken, f"{words}: never better than the guess",
         "Overfit one batch; if that works, check the rate, then train longer"),
        (max(ratios[0], ratios[-1]) > HARDLY, look,
         f"hardly trained, so most of what follows means little: {words}",
         "Train longer; if it stays, check that training draws every t, counted as here"),
        (max(ratios) > 1.05, look, f"{words}: worse than the guess at some t",
         "Train longer; if it stays, check that training draws every t, counted as here"),
        otherwise=words, **numbers,
    )  # fmt: skip


def _one_pixel_guess(x_0: Tensor, bar: float, kind: str) -> float:
    """Mean squared error of the best guess that is linear in one pixel (Wiener)."""
    spread = float(x_0.double().var())
    return spread * (1 - bar) / (bar * spread + 1 - bar) * error_gain(kind, bar)


def check_history(losses: Sequence[float]) -> Finding:
    """Check that a loss falls, although it jumps: each batch draws different t.

    Args:
        losses: of successive steps, 50 or more.
    Returns:
        A `Finding` with the medians of the `first`, `lowest` and `last` twentieth.
    Raises:
        ValueError: fewer than 50 losses.
    """
    values = [float(loss) for loss in losses]
    if len(values) < 50:
        raise ValueError(f"the doctor expects 50 losses or more, got {len(values)}")
    bad = [i for i, value in enumerate(values) if not math.isfinite(value)]
    if bad:
        return broken(
            "history", f"the loss of step {bad[0] + 1} is NaN or infinite",
            "Lower the learning rate, clip gradients, skip bad batches", bad=float(len(bad)),
        )  # fmt: skip
    size = max(5, len(values) // 20)
    medians = [
        statistics.median(values[i : i + size]) for i in range(0, len(values) - size + 1, size)
    ]
    first, lowest, last = medians[0], min(medians), medians[-1]
    parts = [values[i * len(values) // 8 : (i + 1) * len(values) // 8] for i in range(8)]
    means = [statistics.fmean(part) for part in parts]
    errors = [statistics.stdev(part) / math.sqrt(len(part)) for part in parts]
    least = means.index(min(means))
    chance = 5 * math.hypot(errors[least], errors[-1])
    rose = means[-1] > 1.5 * means[least] and means[-1] - means[least] > chance
    fell = means[0] - means[-1] > 3 * math.hypot(errors[0], errors[-1])
    return decide(
        "history",
        (rose and means[least] < 0.7 * means[0], broken,
         f"the loss rose again, from {lowest:.3f} to {last:.3f}: the learning rate is too high",
         "Use a third of it, warm-up, gradient clipping"),
        (rose, look, f"the loss rose from {lowest:.3f} to {last:.3f}",
         "Normal at the begin of fine-tuning; else use a smaller learning rate"),
        (not fell, look, f"the loss stays at {last:.3f}",
         "Normal where trained weights are trained further; else overfit one batch: does an update "
         "change the weights?"),
        otherwise=f"the loss fell from {first:.3f} to {last:.3f}; jumps are normal, since each "
        "batch draws other t", first=first, lowest=lowest, last=last,
    )  # fmt: skip


def check_overfit(step: Callable[[], Any], *, calls: int = 100, fall: float = 0.5) -> Finding:
    """Check that the loss falls on one batch that is repeated with the same t and noise.

    It proves that gradients reach the weights and that the optimiser moves them, and little else: a
    model with a wrong sampler, range or schedule passes. Run `check_sampler` too.

    Args:
        step: takes one optimiser step on the one batch and returns its loss.
        calls: how many.
        fall: the share of the first loss below which the last must be.
    Returns:
        A `Finding` with the `first` and the `last` loss.
    Raises:
        ValueError: step fails, or returns no number.
    """
    losses = []
    for _ in range(calls):
        with calling("step", "the doctor calls step() and expects its loss"):
            loss = step()
            losses.append(loss.item() if isinstance(loss, Tensor) else float(loss))
    first, last = losses[0], statistics.median(losses[-5:])
    fell = f"from {first:.3f} to {last:.3f} in {calls} updates on one batch"
    return decide(
        "overfit",
        (not math.isfinite(last), broken, f"the loss went {fell}", "Use a tenth of the rate"),
        (last < 0, broken, f"the loss is negative, which no mean of squares is: {fell}",
         "Look for a minus sign in front of it"),
        (last > 1.2 * first, broken,
         f"the loss rose {fell}: the learning rate is too high, or its sign is wrong",
         "Use a tenth of the learning rate"),
        (last > 0.98 * first, broken, f"the loss did not move: {fell}",
         "Does the optimiser hold these parameters? Look for detach, no_grad, a late zero_grad"),
        (last > fall * first, look, f"the loss fell only {fell}",
         "Use more updates, or a larger learning rate; then look for frozen layers"),
        otherwise=f"the loss fell {fell}", first=first, last=last,
    )  # fmt: skip


def check_average(
    loss: Callable[[Any], Any], model: Any, average: Any, *, steps: int | None = None,
    decay: float | None = None,
) -> Finding:  # fmt: skip
    """Compare raw and averaged weights by their losses on the same batch.

    Args:
        loss: `loss(network) -> float`, on a fixed batch with fixed t and noise.
        model: the trained network, an nn.Module.
        average: the averaged one.
        steps: optimiser steps taken.
        decay: of the average.
    Returns:
        A `Finding` with the losses `raw` and `averaged`, and `remembers`, the share of the initial
        weights that is still in the average.
    Raises:
        ValueError: loss fails.
    """
    expects = "the doctor calls loss(network) and expects a number"
    with torch.no_grad(), calling("loss", expects):
        raw, averaged = float(loss(model)), float(loss(average))
    numbers = {"raw": raw, "averaged": averaged}
    if not math.isfinite(raw) or not math.isfinite(averaged):
        return broken(
            "average", f"the loss is {raw:.4f} with the raw weights, {averaged:.4f} averaged",
            "Go back to the last checkpoint without NaN", **numbers,
        )  # fmt: skip
    if steps is not None and decay is not None:
        numbers["remembers"] = decay**steps
    remembers = numbers.get("remembers", 0.0)
    untouched = _untouched(model, average)
    losses = f"loss {raw:.4f} with the raw weights, {averaged:.4f} with the averaged ones"
    buffer = _averaged_buffer(model, average)
    same = all(
        torch.equal(a, b) for a, b in zip(model.parameters(), average.parameters(), strict=False)
    )
    return decide(
        "average",
        (buffer is not None, broken, f"the buffer {buffer} was averaged too",
         "Average parameters alone"),
        (same and steps != 0, look,
         "the average equals the raw weights: it is not averaged, or not a copy",
         "Use copy.deepcopy(model) at the start, and update it after each step"),
        (untouched is not None and steps != 0, broken,
         f"{losses}; {untouched} is still constant in the average: it was never updated",
         "Update the average after each update of the weights"),
        (remembers > 0.05, broken, f"{losses}; {remembers:.0%} of it is still the initial weights",
         "Use a smaller decay: their share halves every 0.69 / (1 - decay) updates"),
        (averaged > 1.5 * raw, broken, f"{losses}: it lags behind or was never updated",
         "Use a smaller decay or more steps; is it updated after every step?"),
        (raw > 3 * averaged, look, f"{losses}: the learning rate may be too high",
         "Sample from the averaged weights, and let the rate fall towards the end"),
        otherwise=losses, **numbers,
    )  # fmt: skip


def _untouched(model: Any, average: Any) -> str | None:
    """A parameter that has its first value, such as a bias of zeros, in the average alone."""
    others = dict(average.named_parameters())
    for name, value in model.named_parameters():
        other = others.get(name)
        if other is None or value.numel() < 2:
            continue
        ours, first = value.detach(), other.detach().flatten()
        if float(ours.std()) > 1e-6 and first[0] in (0.0, 1.0) and bool((first == first[0]).all()):
            return name
    return None


def _averaged_buffer(model: Any, average: Any) -> str | None:
    """The first buffer with other values than the model's; BatchNorm's are averages anyway."""
    others = dict(average.named_buffers())
    for name, value in model.named_buffers():
        other = others.get(name)
        if other is None or other.shape != value.shape or "running_" in name:
            continue
        if value.is_floating_point() and not torch.allclose(value, other.to(value), atol=1e-5):
            return name
    return None
