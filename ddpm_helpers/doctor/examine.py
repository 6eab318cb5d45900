"""Run all checks that apply, in the order in which the doctor excludes causes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ddpm_helpers.doctor.finding import Finding, broken
from ddpm_helpers.doctor.guidance import check_labels, check_null
from ddpm_helpers.doctor.images import check_data, check_samples
from ddpm_helpers.doctor.network import (
    check_checkerboard,
    check_modes,
    check_neighbours,
    check_precision,
    check_reach,
    check_time,
)
from ddpm_helpers.doctor.patient import Patient
from ddpm_helpers.doctor.schedule import check_schedule
from ddpm_helpers.doctor.tables import Bars, ask, noised
from ddpm_helpers.doctor.training import check_loss, check_overfit

Check = Callable[[], Finding]


def examine(
    patient: Patient,
    x_0: Tensor | None = None,
    y: Tensor | None = None,
    *,
    draw: int = 0,
    overfit: int = 0,
) -> Iterator[Finding]:
    """Run every check that this patient and these pictures allow.

    If a check cannot call the patient as it needs to, its finding is broken, with one line that
    says what was expected.

    Args:
        patient: see `Patient`; `from_ours`, `from_diffusers` and `from_lucidrains` make one.
        x_0: real pictures, (B, C, H, W) in [-1, 1], 32 or more, on the network's device; with
            fewer than 8, samples are not compared.
        y: their classes, (B,), or None.
        draw: samples to draw and compare with x_0; 0 draws none.
        overfit: steps on one batch with a copy of the network; 0 leaves it out.
    Yields:
        Findings, in the order of exclusion.
    """
    for name, check in _checks(patient, x_0, y, draw, overfit):
        try:
            finding = check()
        except ValueError as error:
            finding = broken(name, str(error), "Pass what the doctor expects")
        yield finding
        if finding.numbers.get("finite") == 0:
            return  # a network that outputs NaN fails every later check


def _checks(
    patient: Patient, x_0: Tensor | None, y: Tensor | None, draw: int, overfit: int
) -> Iterator[tuple[str, Check]]:
    if x_0 is not None:
        yield "data", lambda: check_data(x_0)
    yield "schedule", lambda: check_schedule(patient.alpha_bar, prediction=patient.prediction)
    if patient.sample is not None:
        yield "sampler", patient.sampler_finding
    if patient.model is None:
        return
    bars = Bars(patient.alpha_bar)
    yield from _network_checks(patient, bars)
    if patient.module is not None and x_0 is not None and overfit:
        step = overfit_step(patient, x_0[:8], None if y is None else y[:8])
        yield "overfit", lambda: check_overfit(step, calls=overfit, fall=0.9)
    if x_0 is not None:
        yield from _data_checks(patient, bars, x_0, y)
    if x_0 is not None and len(x_0) >= 8 and patient.sample is not None and draw:
        yield "samples", lambda: check_samples(patient.draw(draw), x_0)


def _network_checks(patient: Patient, bars: Bars) -> Iterator[tuple[str, Check]]:
    model, module, shape = patient.model, patient.module, patient.shape
    assert model is not None
    ends, middle = (bars.first, bars.last), (bars.first + bars.last) // 2
    device = next(module.parameters()).device if module is not None else None
    noise = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(device or noise.device)
    if module is not None:
        yield (
            "precision",
            lambda: check_precision(
                module, noise[:4], middle, dtype=torch.bfloat16, model=patient.call
            ),
        )
    yield "time", lambda: check_time(_placed(model, device), shape, ends)
    yield "neighbours", lambda: check_neighbours(_placed(model, device), shape, ends)
    if module is not None:
        call = patient.call
        yield "modes", lambda: check_modes(module, shape, middle, model=call)
        yield "reach", lambda: check_reach(module, shape, middle, model=call)
    yield "checkerboard", lambda: check_checkerboard(lambda x: ask(model, x, bars.last), noise)


def _data_checks(
    patient: Patient, bars: Bars, x_0: Tensor, y: Tensor | None
) -> Iterator[tuple[str, Check]]:
    model, classes, null = patient.model, patient.num_classes, patient.null
    assert model is not None
    labels = y if classes is not None else None
    kind, table = patient.prediction, patient.alpha_bar
    yield "loss", lambda: check_loss(model, x_0, table, prediction=kind, y=labels)
    if classes is None or null is None:
        return
    t = bars.step(0.7)
    x_t, _ = noised(x_0[:8], bars.at(t), kind, torch.Generator().manual_seed(0))
    yield "labels", lambda: check_labels(model, x_t, t, num_classes=classes, null=null)
    if labels is not None and len(labels.unique()) > 1:
        yield (
            "null label",
            lambda: check_null(model, x_0, labels, table, null=null, prediction=kind),
        )


def overfit_step(
    patient: Patient, x_0: Tensor, y: Tensor | None = None, lr: float = 1e-3
) -> Callable[[], float]:
    """Make a function that trains on one batch with fixed t and noise, for `check_overfit`.

    Args:
        patient: with a module, a copy of which is trained.
        x_0: the batch, (B, C, H, W); y: its classes, (B,), or None.
        lr: learning rate of Adam.
    Returns:
        A function that takes one optimiser step and returns its loss.
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
    """The model for checks whose own pictures are on the CPU."""
    if device is None or device.type == "cpu":
        return model
    return lambda x, t, *y: model(x.to(device), t.to(device), *y).to(x.device)
