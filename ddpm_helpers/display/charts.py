"""Charts: schedules over t, and the loss over a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.display.canvas import COLOURS, line_style, new_figure


def plot_schedules(diffusions: Mapping[str, DiffusionUtils], *, title: str | None = None) -> Figure:
    """Plot alpha_bar over the timesteps, one line per schedule.

    Args:
        diffusions: {name: schedule}; schedules with different T are drawn over t / T.
        title: title of the chart.
    Source: Nichol & Dhariwal 2021, figure 5.
    """
    ax = _curves(diffusions, lambda bar: bar)
    ax.set(ylabel=r"$\bar\alpha_t$ (share of signal power)", ylim=(-0.03, 1.03))
    ax.set_title(title or r"What is left of the image: $\bar\alpha_t$")
    return ax.figure  # type: ignore[return-value]


def plot_snr(diffusions: Mapping[str, DiffusionUtils]) -> Figure:
    """Plot the signal-to-noise ratio alpha_bar / (1 - alpha_bar) for t in 1..T, on a log axis.

    Args: as for `plot_schedules`. A ratio of 0 leaves a gap.
    Source: Kingma et al. 2021, section 3.
    """
    ax = _curves(diffusions, lambda bar: (bar / (1 - bar)).where((bar > 0) & (bar < 1), torch.nan))
    ax.axhline(1, color="0.6", linewidth=0.8)
    ax.set(ylabel="signal-to-noise ratio", yscale="log")
    ax.set_title(r"Signal-to-noise ratio $\bar\alpha_t / (1 - \bar\alpha_t)$")
    return ax.figure  # type: ignore[return-value]


def _curves(diffusions: Mapping[str, DiffusionUtils], value: Callable[[Tensor], Tensor]) -> Axes:
    one_T = len({one.T for one in diffusions.values()}) == 1
    ax = new_figure(6.4, 3.8).add_subplot()
    for i, (name, one) in enumerate(diffusions.items()):
        t = np.arange(one.T + 1) / (1 if one_T else one.T)
        marks = np.linspace(0, one.T, 9).round().astype(int).tolist()  # mark both ends
        ax.plot(t, value(one.alpha_bar).numpy(), label=name, **line_style(i, marks))
    ax.set_xlabel("timestep t" if one_T else "t / T")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def plot_history(
    history: Sequence[Any], *, ax: Axes | None = None, title: str | None = None
) -> Figure:
    """Plot the training loss of each update and its running mean, on a log axis.

    Args:
        history: records with `step` and `loss`, at least one, such as `TrainingPipeline.history`.
        ax: axes to draw into; None makes a new figure.
        title: title of the axes.
    """
    step = np.array([record.step for record in history])
    loss = np.array([record.loss for record in history], float)
    if (finite := np.isfinite(loss)).any():  # without skipped batches
        step, loss = step[finite], loss[finite]
    window = max(1, min(100, len(loss) // 10))
    smooth = np.convolve(loss, np.full(window, 1 / window), "valid")  # mean of the last `window`
    ax = new_figure(6.4, 3.6).add_subplot() if ax is None else ax
    ax.plot(step, loss, color=COLOURS[5], linewidth=0.7, alpha=0.6, label="each batch")
    ax.plot(step[window - 1 :], smooth, color=COLOURS[1], label=f"mean of the last {window}")
    ax.set(xlabel="update", ylabel="loss (mean squared error)", yscale="log")
    ax.set_title(title or "Training loss")
    ax.grid(alpha=0.3, which="both")
    ax.legend()
    return ax.figure  # type: ignore[return-value]
