"""Figures of images, schedules and training: each function takes data and returns a Figure.

pyplot does not manage these figures. To show a figure once, make it the last value of a cell (no
semicolon) or call `display(...)`. You need not close it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.display.canvas import (
    DPI,
    enlarge,
    new_figure,
    notebook_figures,
    tile,
    to_uint8,
)
from ddpm_helpers.display.charts import plot_history, plot_schedules, plot_snr

__all__ = [
    "class_grid", "denoising_path", "noising_strip", "notebook_figures", "plot_history",
    "plot_schedules", "plot_snr", "show_images", "to_uint8",
]  # fmt: skip

_GAP, _HEAD = 4, 18  # screen pixels: gap between images, height of a line of titles
_TILE = 96  # minimum image width in screen pixels, unless a scale is given
_POINTS = 9  # font size of titles and labels


def show_images(
    x: Tensor | np.ndarray,
    *,
    titles: Sequence[str] | None = None,
    ncols: int | None = None,
    title: str | None = None,
    scale: int | None = None,
    row_labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Show a grid of images without smoothing.

    Args:
        x: (N, C, H, W), or one image (C, H, W), in [-1, 1] (values outside are clipped), or uint8;
            C = 1 is shown in grey.
        titles: titles above the images; rows with only empty titles need no space.
        ncols: images per row; by default up to 8.
        title: title of the whole figure.
        scale: screen pixels per image pixel; by default an image is at least 96 pixels wide.
        row_labels: labels to the left of the rows.
        ax: axes to draw into; None makes a new figure.
    """
    pixels = to_uint8(x[None] if x.ndim == 3 else x)
    n, height, width, _ = pixels.shape
    ncols = min(n, 8) if ncols is None else checks.count("ncols", ncols)
    nrows = -(-n // ncols)
    titles = _fitting("titles", titles, n)
    labels = _fitting("row_labels", row_labels, nrows)
    scale = math.ceil(_TILE / width) if scale is None else scale
    heads = [_HEAD * any(titles[r * ncols : (r + 1) * ncols]) for r in range(nrows)]
    sheet = tile(enlarge(pixels, scale), ncols, _GAP, heads)
    ax = _sheet_axes(sheet, title, labels) if ax is None else ax
    ax.imshow(sheet, interpolation="nearest")
    ax.set_axis_off()
    bottom, room = 0, width * scale
    size = max(5.0, _POINTS * room / max(room, _text_width(titles)))  # the widest title fits
    for row in range(nrows):
        bottom += heads[row] + height * scale
        middle = bottom - height * scale / 2
        ax.text(-8, middle, labels[row], ha="right", va="center", fontsize=_POINTS)
        for column, text in enumerate(titles[row * ncols : (row + 1) * ncols]):
            left = column * (room + _GAP) + room / 2
            above = bottom - height * scale - 3
            ax.text(left, above, text, ha="center", va="bottom", fontsize=size)
        bottom += _GAP
    return ax.figure  # type: ignore[return-value]


def _fitting(name: str, texts: Sequence[str] | None, count: int) -> list[str]:
    texts = [""] * count if texts is None else [str(text) for text in texts]
    if len(texts) != count:
        raise ValueError(f"{name} must be {count} texts, got {len(texts)}")
    return texts


def _text_width(texts: Sequence[str]) -> float:
    """Measure the width of the widest text in screen pixels; 0 without texts."""
    figure = new_figure(1, 1, layout="none")
    drawn = [figure.text(0, 0, text, fontsize=_POINTS) for text in set(texts) if text.strip()]
    return max((text.get_window_extent().width for text in drawn), default=0)


def _sheet_axes(sheet: np.ndarray, title: str | None, labels: Sequence[str]) -> Axes:
    """Make axes that show the sheet at one screen pixel per pixel, with room for the texts."""
    height, width = sheet.shape[:2]
    left = 12 + (8 + math.ceil(_text_width(labels)) if any(labels) else 0)
    top = 34 if title else 8
    wide = max(left + width + 12, 12 + int(9.72 * len(title or "")))  # letters of 11 points
    high = height + top + 8
    figure = new_figure(wide / DPI, high / DPI, layout="none")
    if title:
        figure.suptitle(title, fontsize=11, y=1 - 8 / high, va="top")
    return figure.add_axes((left / wide, 8 / high, width / wide, height / high))


def noising_strip(
    x_0: Tensor,
    diffusion: DiffusionUtils | Mapping[str, DiffusionUtils],
    ts: Sequence[int] = (0, 100, 300, 500),
    *,
    seed: int = 0,
    **options: Any,
) -> Figure:
    """Show an image at chosen timesteps, one per column, with the same noise at each.

    Args:
        x_0: one clean image, (C, H, W) or (1, C, H, W), in [-1, 1].
        diffusion: a schedule, or {name: schedule} for one row per schedule.
        ts: timesteps, each in 0..T.
        seed: noise seed.
        options: as for `show_images`.
    """
    named = diffusion if isinstance(diffusion, Mapping) else {"": diffusion}
    rows = [noised(one, x_0, ts, seed) for one in named.values()]  # each (len(ts), C, H, W)
    titles = [f"t = {t}" for t in ts] + [""] * (len(ts) * (len(rows) - 1))
    options.setdefault("row_labels", list(named))
    options.setdefault("title", "Forward noising: x_t at chosen timesteps")
    return show_images(torch.cat(rows), titles=titles, ncols=len(ts), **options)


def noised(diffusion: DiffusionUtils, x_0: Tensor, ts: Sequence[int], seed: int) -> Tensor:
    """Noise one clean image to each timestep of ts with the same noise: (len(ts), C, H, W)."""
    x_0 = x_0.reshape(1, *x_0.shape[-3:]).cpu()
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed))
    t, shape = torch.tensor(ts), (len(ts), -1, -1, -1)
    return diffusion.add_noise(x_0.expand(shape), t, eps.expand(shape))[0]


def denoising_path(
    steps: Iterable[Any], n_frames: int = 10, *, picture: int = 0, **options: Any
) -> Figure:
    """Show the steps from noise to one image: x_t above, the predicted x_0 below.

    Args:
        steps: all `Step`s of a call of `sample_steps`.
        n_frames: number of steps to show, including the first and the last.
        picture: index of the image in the batch.
        options: as for `show_images`.
    """
    steps = list(steps)
    picks = np.unique(np.linspace(0, len(steps) - 1, n_frames).round().astype(int))
    shown = [steps[i] for i in picks]
    x = torch.stack([s.x_t[picture] for s in shown] + [s.x_0_pred[picture] for s in shown])
    titles = [f"t = {s.t}" for s in shown] + [""] * len(shown)
    options.setdefault("title", "Denoising: from noise to an image")
    options.setdefault("row_labels", ["x_t", "x_0_pred"])
    return show_images(x.float(), titles=titles, ncols=len(shown), **options)


def class_grid(ds: Any, per_class: int = 8, **options: Any) -> Figure:
    """Show the first images of each class, one row per class.

    Args:
        ds: an `ImageDataset`, or an object with its `images` (uint8), `labels` and `classes`.
        per_class: images per row; white space if a class has fewer.
        options: as for `show_images`.
    """
    names, rows = [], []
    for k, name in enumerate(ds.classes):
        where = np.flatnonzero(np.asarray(ds.labels) == k)[:per_class]
        if len(where):
            row = np.full((per_class, *ds.images.shape[1:]), 255, np.uint8)
            row[: len(where)] = ds.images[where]
            names.append(name)
            rows.append(row)
    options.setdefault("title", f"{len(names)} classes")
    options.setdefault("row_labels", names)
    return show_images(np.concatenate(rows), ncols=per_class, **options)
