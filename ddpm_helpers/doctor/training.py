"""Checks of the training: loss, history, overfitting one batch, averaged weights."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.finding import Finding, broken, decide, look
from ddpm_helpers.doctor.noising import mixture
from ddpm_helpers.doctor.tables import Bars, calling, check_kind
from ddpm_helpers.doctor.tasks import SHARES, TELLING, Task, answer, other_task
from ddpm_helpers.doctor.updates import ERRORS, Trace, Watch, rules_for, update_size

Model = Callable[..., Any]
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
        alpha_bar: table, as for `check_sampler`.
        prediction: eps, x_0, v or flow.
        y: their classes, (B,), or None.
    Returns:
        A `Finding`; `loss_at_T*0.1` … are losses over the guess's: below 1, shapes are learned.
    Raises:
        ValueError: the model does not accept these arguments.
    """
    bars, kind = Bars(alpha_bar), check_kind(prediction)
    told = Task("", "", mixture(bars))
    ts = [bars.step(share) for share in SHARES]
    answers, generator = [], torch.Generator().manual_seed(0)
    for t in ts:
        eps = torch.randn(x_0.shape, generator=generator).to(x_0)
        answers.append(found := answer(model, told, x_0, y, t, eps))
        if not torch.isfinite(found.out).all():
            return broken(
                "loss", f"the output at t = {t} is NaN or infinite",
                "Use a lower learning rate, clip the gradients, and start again from good weights",
            )  # fmt: skip
    ratios = [each.ratio(kind) for each in answers]
    numbers = {f"loss_at_T*{share}": ratio for share, ratio in zip(SHARES, ratios, strict=True)}
    words = "loss over that of a one-pixel guess: " + ", ".join(
        f"{ratio:.2f} at {share:.0%} of T" for share, ratio in zip(SHARES, ratios, strict=True)
    )
    if all(each.like(0.0) for each in answers):
        zero = not any(each.out.any() for each in answers)
        return look(
            "loss", f"the output is {'' if zero else 'nearly '}0 at every t: untrained, or x_t "
            f"tells nothing of the target, such as noise drawn a second time; {words}",
            "Take the very eps that is in x_t as the target, then train longer", **numbers,
        )  # fmt: skip
    known = [each.by_heart() for each in answers]
    telling = [i for i, ratio in enumerate(known) if ratio < TELLING] or [0]
    bad = [i for i in telling if ratios[i] > 1.05]
    good = [i for i in telling if ratios[i] < 0.5]
    hardly = any(ratios[i] > 1 - (1 - HARDLY) * (1 - known[i]) for i in (telling[0], telling[-1]))
    other = other_task(model, x_0, y, bars, kind, [ts[i] for i in telling])
    in_0_1 = x_0.shape[1] in (1, 3) and float(x_0.min()) >= -0.01 and float(x_0.max()) > 0.7
    trained_longer = "Train longer. If this stays, check that training draws every t of this table"
    return decide(
        "loss",
        (other is not None, broken if hardly or bad else look,
         "" if other is None else f"{other[0]}; {words}", "" if other is None else other[1]),
        (in_0_1, look, "these images lie in 0..1, but a network is trained on -1..1 in most "
         f"projects; {words}", "Use 2 * x - 1 after ToTensor(), in training and here"),
        (all(each.like(1.0) for each in answers) and kind != "x_0", broken,
         f"the output is x_t itself; {words}", "Use F.mse_loss(out, target) with the target that "
         "you name"),
        (all(0.8 < each.error(kind) < 3 for each in answers), look,
         f"no better than the answer 0 at any t, as a network is before training: {words}",
         "Train it or load its weights. If it was trained, run check_overfit"),
        (min(ratios[i] for i in telling) > 0.95, broken, f"{words}: never better than the guess",
         "Run check_overfit. If it is ok, try another learning rate, then train longer"),
        (bool(good and bad) and max(good) < min(bad) and max(ratios[i] for i in bad) > 2
         and max(answers[i].error(kind) for i in bad) > 0.1, look,
         f"trained at small t alone: {words}", "In training, use t = torch.randint(0, T, (B,))"),
        (hardly, look, f"hardly trained, so the later checks say little: {words}",
         trained_longer),
        (bool(bad), look, f"{words}: worse than the guess at some t", trained_longer),
        otherwise=words, **numbers,
    )  # fmt: skip


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
            "Use a lower learning rate, and clip the gradients", bad=float(len(bad)),
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
         "Use a third of it. Add a warm-up and clip the gradients"),
        (rose, look, f"the loss rose from {lowest:.3f} to {last:.3f}",
         "This is normal at the start of fine-tuning. Else use a smaller learning rate"),
        (not fell, look, f"the loss stays at {last:.3f}",
         "This is normal if you continue a finished training. Else run check_overfit to see "
         "whether an update changes the weights"),
        otherwise=f"the loss fell from {first:.3f} to {last:.3f}; jumps are normal, since each "
        "batch draws other t", first=first, lowest=lowest, last=last,
    )  # fmt: skip


def check_overfit(step: Callable[[], Any], *, calls: int = 100, fall: float = 0.5) -> Finding:
    """Check that the loss falls on one batch that is repeated with the same t and noise.

    It proves that gradients reach the weights and that the optimiser moves them, and little else: a
    model with a wrong sampler, range or schedule passes. Run `check_sampler` too.

    Args:
        step: takes one optimiser step on the one batch and returns its loss.
        calls: how many, 2 or more; the first two are watched through PyTorch's hooks.
        fall: the share of the first loss below which the last must be.
    Returns:
        A `Finding` with the `first` and the `last` loss.
    Raises:
        ValueError: step fails, or returns no number.
    """

    def update() -> float:
        with calling("step", "the doctor calls step() and expects its loss"):
            loss = step()
            return loss.item() if isinstance(loss, Tensor) else float(loss)

    trace = Trace()
    try:
        with trace.recording():
            seen = Watch(None).run(update)
            second = Watch(seen.net).run(update)
            losses = [seen.loss, second.loss, *(update() for _ in range(calls - 2))]
    except ValueError as error:
        for part, (words, repair) in ERRORS.items():
            if part in str(error.__cause__):
                return broken("overfit", words, repair)
        raise
    first, last = losses[0], statistics.median(losses[-5:])
    fell = f"from {first:.3f} to {last:.3f} in {calls} updates on one batch"
    ratio = last / first if first else math.inf  # the rule before `rules` says what a 0 means
    rules = [
        (holds, verdict, f"{words}; the loss went {fell}", repair)
        for holds, verdict, words, repair in rules_for(seen, second, trace, ratio, fall)
    ]
    size, rate = update_size(second), max(trace.rates[:2], default=0.0)
    moves = f"an update changes the weights by {size:.2g} of their size (learning rate {rate:.2g})"
    bad = next((i for i, loss in enumerate(losses, 1) if not math.isfinite(loss)), 0)
    falls = last < 0.95 * statistics.median(losses[len(losses) // 2 :][:5])
    return decide(
        "overfit",
        (first == 0, broken,
         "the loss is 0 before anything is learned: the output is compared with itself, or a "
         "weight of the loss is 0",
         "Compute the target from x_0 and eps alone, and print the weights of the loss"),
        *rules,
        (bad > 0, broken, f"the loss is NaN or infinite from update {bad} on; the first such "
         f"number is in {trace.nan or 'the loss'}; {moves}",
         "Use a tenth of the learning rate and clip the gradients, unless the place shows another "
         "cause"),
        (last < 0, broken, f"the loss is negative, which no mean of squares is: {fell}",
         "Remove the minus sign in front of the loss, and square the differences"),
        (last > 1.2 * first, broken,
         f"the loss rose {fell}; {moves}: the learning rate is too high",
         "Use a tenth of the learning rate"),
        (last > 0.98 * first, broken, f"the loss did not move: {fell}; {moves}",
         "Use a larger learning rate if the updates are smaller than 1e-4, a smaller one if they "
         "are larger than 0.1"),
        (last > fall * first, look, f"the loss fell only {fell}; {moves}; "
         f"{'it is still falling' if falls else 'it no longer falls'}",
         "Use more updates or a larger learning rate" if falls else "Use a smaller learning rate. "
         "If this stays, the network cannot give such outputs: check its last layer"),
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
        average: the network with averaged weights.
        steps: optimiser steps taken.
        decay: decay of the average.
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
            "Load the last checkpoint without NaN", **numbers,
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
         "Average the parameters only, and copy the buffers"),
        (same and steps != 0, look,
         "the average equals the raw weights: it is not averaged, or not a copy",
         "Use copy.deepcopy(model) at the start, and update it after each step"),
        (untouched is not None and steps != 0, broken,
         f"{losses}; {untouched} is still constant in the average: it was never updated",
         "Update the average after each optimizer.step()"),
        (remembers > 0.05, broken, f"{losses}; {remembers:.0%} of it is still the initial weights",
         "Use a smaller decay: their share halves every 0.69 / (1 - decay) updates"),
        (averaged > 1.5 * raw, broken, f"{losses}: the average is too old, or was never updated",
         "Use a smaller decay or more updates, and update the average after each optimizer.step()"),
        (raw > 3 * averaged, look, f"{losses}: the learning rate may be too high",
         "Sample with the averaged weights, and let the learning rate fall to 0"),
        otherwise=losses, **numbers,
    )  # fmt: skip


def _untouched(model: Any, average: Any) -> str | None:
    """Find a parameter that has its first value, such as zeros, only in the average."""
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
    """Find a buffer that differs from the model's; BatchNorm's are averages anyway."""
    others = dict(average.named_buffers())
    for name, value in model.named_buffers():
        other = others.get(name)
        if other is None or other.shape != value.shape or "running_" in name:
            continue
        if value.is_floating_point() and not torch.allclose(value, other.to(value), atol=1e-5):
            return name
    return None
