"""Figures and sliders for `IdealDenoiser`: what x_t reveals about the clean image."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ddpm_helpers.data.dataset import to_float
from ddpm_helpers.diffusion import IdealDenoiser
from ddpm_helpers.diffusion.ideal import count_possible
from ddpm_helpers.display.canvas import COLOURS, new_figure
from ddpm_helpers.display.plots import noised, show_images
from ddpm_helpers.display.widgets import Blitter, FrameSlider, ImageSliders


class PlaneView:
    """A plot of points in the plane, a noised point, and the clean points that are possible.

    Large circles are the data, with an area proportional to their weight. Small dots show the data
    at t without noise. The cross is x_t and the star is E[x_0 | x_t].

    Args:
        ax: axes to draw in.
        ideal: an `IdealDenoiser` of images of shape (2, 1, 1).
        limit: the axes run from -limit to limit.
    """

    def __init__(self, ax: Axes, ideal: IdealDenoiser, limit: float = 1.6) -> None:
        self._ideal = ideal
        points = ideal.images.flatten(1)  # (N, 2)
        ax.plot(*points.T, "o", color="0.75", markersize=5)
        self._weights = ax.scatter(
            points[:, 0], points[:, 1], s=0, color=COLOURS[5], edgecolor=COLOURS[0]
        )
        (self._means,) = ax.plot([], [], ".", color="0.45", markersize=4)
        (self._arrow,) = ax.plot([], [], "-", color="0.3", linewidth=1)
        (self._star,) = ax.plot([], [], "*", color=COLOURS[1], markersize=15)
        (self._cross,) = ax.plot([], [], "X", color=COLOURS[6], markersize=9)
        self._text = ax.text(-0.95 * limit, 0.88 * limit, "", fontsize=10)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        ax.set(xlabel="first value", ylabel="second value")
        self.moving = [
            self._means, self._weights, self._arrow, self._star, self._cross, self._text,
        ]  # fmt: skip

    def show(self, x_t: Tensor, t: int) -> None:
        """Redraw everything for a noised point.

        Args:
            x_t: shape (2,).
            t: timestep of x_t, 0..T.
        """
        asked = x_t.view(1, 2, 1, 1), torch.tensor([t])
        points = self._ideal.images.flatten(1)  # (N, 2)
        weights, mean = self._ideal.weights(*asked)[0], self._ideal.mean(*asked).flatten()
        amplitude = self._ideal.diffusion.alpha_bar[t].sqrt()
        self._weights.set_sizes((900 * weights).tolist())
        self._means.set_data(*(amplitude * points).T)
        self._arrow.set_data(*torch.stack([x_t, mean]).T)
        self._star.set_data(*mean[:, None])
        self._cross.set_data(*x_t[:, None])
        left = float(self._ideal.possible(*asked))
        self._text.set_text(f"t = {t}: {left:.1f} of {len(points)} still possible")


def plane_panels(ideal: IdealDenoiser, x_t: Tensor, ts: Sequence[int]) -> Figure:
    """Show a `PlaneView` for each of several noised points, side by side.

    Args:
        ideal: an `IdealDenoiser` of points in the plane.
        x_t: one point for each panel, shape (K, 2).
        ts: timestep of each point.
    """
    figure = new_figure(3.2 * len(ts), 3.4)
    axes = figure.subplots(1, len(ts), sharey=True, squeeze=False)[0]
    for ax, point, t in zip(axes, x_t, ts, strict=True):
        PlaneView(ax, ideal).show(point, t)
        ax.label_outer()
    return figure


class PlaneSlider(ImageSliders):
    """A `PlaneView` with three sliders for the noised point and the timestep.

    Args:
        ideal: an `IdealDenoiser` of points in the plane, images of shape (2, 1, 1).
        t: start value of the slider for t.
    """

    def __init__(self, ideal: IdealDenoiser, *, t: int = 150) -> None:
        figure = new_figure(5, 5)
        self._view = PlaneView(figure.subplots(), ideal)
        self._blitter = Blitter(figure, self._view.moving)
        of_t = ipywidgets.IntSlider(t, 0, ideal.diffusion.T, description="t")
        place = [
            ipywidgets.FloatSlider(0.3, min=-1.5, max=1.5, step=0.05, description=name)
            for name in ("first", "second")
        ]
        super().__init__([of_t, *place], 500)

    def frame(self, t: int, first: float, second: float) -> bytes:
        """Draw the plane at timestep t with x_t = (first, second), as PNG bytes."""
        self._view.show(torch.tensor([first, second]), t)
        return self._blitter.png()


def likeliest(
    ideal: IdealDenoiser, x_t: Tensor, t: Tensor, n: int = 8
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute rows of images: x_t, the ideal prediction, and the n images with the largest weights.

    Args:
        ideal: the denoiser.
        x_t: noised images, shape (B, C, H, W).
        t: timesteps of x_t, (B,) int64 in 0..T.
        n: number of images; all of them if the set has fewer.
    Returns:
        Rows of images, (B, 2 + n, C, H, W): x_t, E[x_0 | x_t], then the likeliest images; the
        weights of these images, (B, n); and the number of images still possible, (B,).
    """
    weights = ideal.weights(x_t, t)  # (B, N)
    best = weights.topk(min(n, weights.shape[1]))
    found = ideal.images[best.indices]  # (B, n, C, H, W)
    if found.dtype == torch.uint8:
        found = to_float(found)
    answers = torch.stack([x_t, ideal.mean(x_t, t)], 1)  # (B, 2, C, H, W)
    return torch.cat([answers, found], 1), best.values, count_possible(weights)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 5e-4 else "< 0.1%"


def _number(n: float) -> str:
    return f"{n:,.0f}" if n >= 10 else f"{n:.1f}"


def possible_rows(ideal: IdealDenoiser, x_0: Tensor, ts: Sequence[int], *, seed: int = 0) -> Figure:
    """Show one row per t: clean image, x_t, ideal prediction, and the eight likeliest images.

    Args:
        ideal: the denoiser.
        x_0: one clean image, shape (1, C, H, W).
        ts: the timesteps, each in 0..T.
        seed: noise seed; the noise is the same in every row.
    """
    x_t = noised(ideal.diffusion, x_0, ts, seed)
    rows, weights, left = likeliest(ideal, x_t, torch.tensor(ts))
    rows = torch.cat([x_0.expand(len(ts), 1, *x_0.shape[1:]), rows], 1)  # (K, 11, C, H, W)
    titles = [
        title
        for shares in weights.tolist()
        for title in ("x_0", "x_t", "mean", *map(_percent, shares))
    ]
    labels = [f"t = {t}\n{_number(n)} possible" for t, n in zip(ts, left.tolist(), strict=True)]
    return show_images(rows.flatten(0, 1), titles=titles, ncols=rows.shape[1], row_labels=labels)


class PossibleSlider(FrameSlider):
    """The rows of `possible_rows`, without x_0, with a slider for t and a play button.

    All rows are computed when the slider is created.

    Args:
        ideal: the denoiser.
        x_0: one clean image, shape (1, C, H, W).
        every: timesteps between two rows, from 0 to T.
    """

    def __init__(self, ideal: IdealDenoiser, x_0: Tensor, *, every: int = 20) -> None:
        ts = range(0, ideal.diffusion.T + 1, every)
        x_t = noised(ideal.diffusion, x_0, ts, seed=0)
        rows, weights, left = likeliest(ideal, x_t, torch.tensor(ts))
        captions = [
            f"t = {t}: {_number(n)} images still possible. x_t, their mean, and the likeliest ones "
            f"({', '.join(map(_percent, shares[:3]))}, …)"
            for t, n, shares in zip(ts, left.tolist(), weights.tolist(), strict=True)
        ]
        super().__init__(list(rows), captions, name="row")
        self.slider.value = len(ts) // 2
