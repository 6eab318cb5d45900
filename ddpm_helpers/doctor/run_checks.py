"""Run all checks that apply, in the order in which the doctor excludes causes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.finding import SKIPPED, Finding, broken, skipped
from ddpm_helpers.doctor.guidance import check_labels, check_null
from ddpm_helpers.doctor.images import check_data, check_samples
from ddpm_helpers.doctor.network import (
    check_checkerboard,
    check_modes,
    check_neighbours,
    check_output,
    check_precision,
    check_repeats,
    check_time,
)
from ddpm_helpers.doctor.noising import mixture
from ddpm_helpers.doctor.patient import Patient
from ddpm_helpers.doctor.schedule import check_schedule
from ddpm_helpers.doctor.tables import Bars, ask, noised
from ddpm_helpers.doctor.tasks import Task, answer
from ddpm_helpers.doctor.training import check_loss, check_overfit

Check = Callable[[], Finding | list[Finding]]
NEED_TRAINING = ("modes", "checkerboard", "null label")


def run_checks(
    patient: Patient,
    x_0: Tensor | None = None,
    y: Tensor | None = None,
    *,
    draw: int = 0,
    overfit: int = 0,
) -> Iterator[Finding]:
    """Run every check that the patient and the images allow.

    Checks that need images are `skipped` if there are none; checks of parts that the patient does
    not have are left out. If a check raises ValueError, for example because the model does not
    accept its arguments, its finding is `broken`, with the message of the error.

    Args:
        patient: see `Patient`; `from_ours`, `from_diffusers` and `from_lucidrains` make one.
        x_0: real images, (B, C, H, W) in [-1, 1], on the network's device. B should be at least
            32; below 8, samples are not compared.
        y: class numbers of x_0, (B,); None if unknown.
        draw: number of samples to draw and compare with x_0; 0 leaves this check out.
        overfit: number of updates of `check_overfit`, which trains a copy of the network on one
            batch; 0 leaves this check out.
    Yields:
        Findings, in the order in which causes are excluded. Checks that are meaningful only for a
        trained network are skipped, unless the loss shows that it is trained.
    """
    modules = [] if patient.module is None else list(patient.module.modules())
    training = [part.training for part in modules]
    try:
        yield from _run(_checks(patient, x_0, y, draw, overfit), patient, x_0)
    finally:
        for part, mode in zip(modules, training, strict=True):  # _repeats may have called eval()
            part.training = mode


def _run(
    checks: Iterator[tuple[str, Check]], patient: Patient, x_0: Tensor | None
) -> Iterator[Finding]:
    """Run checks, and skip those that an earlier finding makes meaningless."""
    untrained = "needs images to know whether the network is trained"
    repeats = True
    for name, check in checks:
        if name in NEED_TRAINING and untrained:
            yield skipped(name, untrained)
            continue
        if name == "neighbours" and not repeats:
            yield skipped(name, "needs a network that returns the same output for the same input")
            continue
        try:
            found = check()
        except ValueError as error:
            found = broken(name, str(error), "Change the argument that this message names")
        for finding in found if isinstance(found, list) else [found]:
            yield finding
            if finding.numbers.get("finite") == 0:
                return  # a network that outputs NaN fails every later check
            if name == "loss" and finding.verdict != SKIPPED:
                good = not finding.alarm or _is_trained_without_labels(patient, x_0)
                untrained = "" if good else "means nothing before the loss is good"
            repeats = repeats and not (name == "repeats" and finding.verdict == "broken")


def _is_trained_without_labels(patient: Patient, x_0: Tensor | None) -> bool:
    """Return whether the loss is good if every label is "no label": only the labels are wrong."""
    if x_0 is None or patient.null is None:
        return False
    y = torch.full((len(x_0),), patient.null, device=x_0.device)
    model, kind = patient.model, patient.prediction
    assert model is not None
    return not check_loss(model, x_0, patient.alpha_bar, prediction=kind, y=y).alarm


def _checks(
    patient: Patient, x_0: Tensor | None, y: Tensor | None, draw: int, overfit: int
) -> Iterator[tuple[str, Check]]:
    """Yield the name of each check that applies, and a function that runs it."""
    if x_0 is not None:
        yield "data", lambda: check_data(x_0)
    if callable(patient.alpha_bar):  # continuous t: only the loop can be checked
        yield "sampler", patient.check_sampler_all
        return
    yield "schedule", lambda: check_schedule(patient.alpha_bar, prediction=patient.prediction)
    if patient.sample is not None:
        yield "sampler", patient.check_sampler_all
    if patient.model is None:
        return
    bars = Bars(patient.alpha_bar)
    if x_0 is None:
        for name in ("data", "loss", *(["labels"] if patient.num_classes else [])):
            yield name, lambda name=name: skipped(name, "needs images")  # type: ignore[misc]
    yield from _network_checks(patient, bars, x_0, y)
    if patient.module is not None and x_0 is not None and overfit:
        step = overfit_step(patient, x_0[:8], None if y is None else y[:8])
        yield "overfit", lambda: check_overfit(step, calls=overfit, fall=0.9)
    if x_0 is not None:
        yield from _label_checks(patient, bars, x_0, y)
    if patient.sample is None or not draw:
        return
    if x_0 is not None and len(x_0) >= 8:
        yield "samples", lambda: check_samples(patient.draw(draw), x_0)
    else:
        yield "samples", lambda: skipped("samples", "needs 8 images or more to compare with")


def _network_checks(
    patient: Patient, bars: Bars, x_0: Tensor | None, y: Tensor | None
) -> Iterator[tuple[str, Check]]:
    """Yield the checks of the network."""
    model, module, shape = patient.model, patient.module, patient.shape
    assert model is not None
    first, last = int(bars.first), int(bars.last)
    ends, middle = (first, last), (first + last) // 2
    device = next(module.parameters()).device if module is not None else None
    noise = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(device or noise.device)
    yield "repeats", lambda: _repeats(patient, _placed(model, device), middle)
    if module is not None:
        yield (
            "precision",
            lambda: check_precision(
                module, noise[:4], middle, dtype=torch.bfloat16, model=patient.call
            ),
        )
    kind = patient.prediction
    yield "output", lambda: check_output(_placed(model, device), shape, middle, prediction=kind)
    if x_0 is not None:
        labels = y if patient.num_classes is not None else None
        yield "loss", lambda: _loss(patient, model, x_0, labels)
    yield "time", lambda: check_time(_placed(model, device), shape, ends)
    yield "neighbours", lambda: check_neighbours(_placed(model, device), shape, ends)
    if module is not None:
        call = patient.call
        yield "modes", lambda: check_modes(module, shape, middle, model=call)
    yield "checkerboard", lambda: check_checkerboard(lambda x: ask(model, x, last), noise)


def _loss(patient: Patient, model: Any, x_0: Tensor, y: Tensor | None) -> list[Finding]:
    """Run `check_loss`; if the loss is bad, test whether all weights are too small or large."""
    kind, module = patient.prediction, patient.module
    found = check_loss(model, x_0, patient.alpha_bar, prediction=kind, y=y)
    if not found.alarm or module is None:
        return [found]
    bars, module = Bars(patient.alpha_bar), copy.deepcopy(module)
    few, labels = x_0[:8], None if y is None else y[:8]
    noise = torch.randn(few.shape, generator=torch.Generator().manual_seed(0)).to(few)
    told, t = Task("", "", mixture(bars)), bars.step(0.5)
    losses = {}
    for k in range(-5, 7):  # scale all weights by 2^(k / 3), from 0.31 to 4
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(2 ** (1 / 3) if k > -5 else 2 ** (-5 / 3))
        asked = answer(patient.call(module), told, few, labels, t, noise)
        losses[k] = asked.ratio(kind) if torch.isfinite(asked.out).all() else math.inf
    best = min(losses, key=lambda k: losses[k])
    if best == 0 or losses[best] > 0.6 or losses[best] > 0.4 * losses[0]:
        return [found]
    words = f"the loss is {losses[0] / losses[best]:.1f} times lower with all weights times"
    return [
        broken(
            "average", f"{words} {2 ** (best / 3):.2g}: probably the average began at 0 without "
            "bias correction, or was not multiplied by its decay",
            "Begin with a copy of the weights: average = decay * average + (1 - decay) * weights",
        ),
        found,
    ]  # fmt: skip


def _repeats(patient: Patient, model: Any, t: int) -> Finding:
    """Run `check_repeats`; if the output differs in train mode, switch to eval mode."""
    module, shape = patient.module, patient.shape
    if module is None or not module.training:
        return check_repeats(model, shape, t)
    found = check_repeats(model, shape, t, training=True)
    if not found.alarm:
        return found
    module.eval()
    in_eval = check_repeats(model, shape, t)
    return in_eval if in_eval.alarm else found


def _label_checks(
    patient: Patient, bars: Bars, x_0: Tensor, y: Tensor | None
) -> Iterator[tuple[str, Check]]:
    """Yield the checks of the labels."""
    model, classes, null = patient.model, patient.num_classes, patient.null
    assert model is not None
    kind, table = patient.prediction, patient.alpha_bar
    if classes is None or null is None:
        return
    t = bars.step(0.7)
    x_t, _ = noised(x_0[:8], bars.at(t), kind, torch.Generator().manual_seed(0))
    yield "labels", lambda: check_labels(model, x_t, t, num_classes=classes, null=null)
    if y is not None and len(y.unique()) > 1:
        yield (
            "null label",
            lambda: check_null(model, x_0, y, table, null=null, prediction=kind),
        )
    else:
        yield "labels", lambda: skipped("null label", "needs images of several known classes")


def overfit_step(
    patient: Patient, x_0: Tensor, y: Tensor | None = None, lr: float = 1e-3
) -> Callable[[], float]:
    """Make a function that trains on one batch with fixed t and noise, for `check_overfit`.

    Args:
        patient: a patient with a module; a copy of the module is trained.
        x_0: the batch, (B, C, H, W); y: its classes, (B,), or None.
        lr: learning rate of Adam.
    Returns:
        A function that makes one update and returns its loss.
    """
    assert patient.module is not None
    module = copy.deepcopy(patient.module).train().requires_grad_(True)
    call, bars = patient.call(module), Bars(patient.alpha_bar)
    t = torch.linspace(bars.first, bars.last, len(x_0)).long().to(x_0.device)  # (B,)
    bar, generator = bars.column(t, x_0), torch.Generator().manual_seed(0)  # bar: (B, 1, 1, 1)
    x_t, goal = noised(x_0, bar, patient.prediction, generator)
    optimizer = torch.optim.Adam(module.parameters(), lr)
    labels = y if patient.num_classes is not None else None

    def step() -> float:
        out = call(x_t, t) if labels is None else call(x_t, t, labels)
        loss = (out - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _placed(model: Any, device: torch.device | None) -> Any:
    """Wrap the model so that it accepts and returns tensors on the CPU."""
    if device is None or device.type == "cpu":
        return model
    return lambda x, t, *y: model(x.to(device), t.to(device), *y).to(x.device)
