"""Sliders for notebooks. The method `frame(value)` of each slider returns the PNG that it shows.

A focused slider moves with the arrow keys, Page Up / Page Down, Home and End.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.display.canvas import (
    COLOURS,
    enlarge,
    figure_png,
    line_style,
    new_figure,
    pixels_png,
    tile,
    to_uint8,
)


class ImageSliders(ipywidgets.VBox):
    """Sliders above an image; subclasses define `frame`, which takes the value of each slider.

    Args:
        sliders: integer or floating-point sliders.
        width: width of the image in screen pixels.
    Attributes:
        sliders, image: the widgets; `slider` is the first of the sliders.
    """

    def __init__(self, sliders: Sequence[ipywidgets.Widget], width: int) -> None:
        self.sliders, self.slider = list(sliders), sliders[0]
        self.image = ipywidgets.Image(format="png", width=width)
        for slider in self.sliders:
            slider.layout.width = "520px"
            slider.observe(self._show, names="value")
        self._show()
        super().__init__([*self.sliders, self.image])

    def __repr__(self) -> str:  # shown on pages without widgets
        over = ", ".join(slider.description for slider in self.sliders)
        if len(self.sliders) == 1:
            over += f" = {self.slider.min}..{self.slider.max}"
        return f"{type(self).__name__} over {over} (moves in JupyterLab)"

    def frame(self, *values: Any) -> bytes:
        """Draw the image for these slider values, as PNG bytes."""
        raise NotImplementedError

    def _show(self, change: Any = None) -> None:
        self.image.value = self.frame(*(slider.value for slider in self.sliders))


class Blitter:
    """A figure with a background that is drawn once, and moving artists on top."""

    def __init__(self, figure: Figure, moving: Sequence[Artist]) -> None:
        self.canvas = FigureCanvasAgg(figure)  # a separate canvas, which pyplot does not close
        self.moving = list(moving)
        for artist in self.moving:
            artist.set_animated(True)  # not part of the background
        self.canvas.draw()
        self.background: Any = self.canvas.copy_from_bbox(figure.bbox)  # type: ignore[attr-defined]

    def png(self) -> bytes:
        self.canvas.restore_region(self.background)  # type: ignore[attr-defined]
        for artist in self.moving:
            artist.axes.draw_artist(artist)  # type: ignore[union-attr]
        return pixels_png(np.asarray(self.canvas.buffer_rgba())[..., :3])


class NoisingSlider(ImageSliders):
    """Show an image at timestep t: x_t, the histogram of its values, and alpha_bar at t.

    Args:
        x_0: one clean image, (C, H, W) or (1, C, H, W), in [-1, 1].
        diffusion: the schedule; t runs over 0..T.
        t: start value of the slider.
        seed: noise seed; the noise is the same at every timestep and in every run.
    """

    def __init__(self, x_0: Tensor, diffusion: DiffusionUtils, *, t: int = 0, seed: int = 0):
        self._x_0 = x_0.reshape(1, *x_0.shape[-3:]).detach().float().cpu()
        self._diffusion = diffusion
        self._eps = torch.randn(self._x_0.shape, generator=torch.Generator().manual_seed(seed))
        figure = new_figure(8.4, 3.2, layout="none")
        moving = [*self._tile(figure), *self._histogram(figure), *self._curve(figure)]
        self._blitter = Blitter(figure, moving)
        super().__init__([ipywidgets.IntSlider(t, 0, diffusion.T, description="t")], 840)

    def frame(self, t: int) -> bytes:
        """Draw the three panels at timestep t, in 0..T, as PNG bytes."""
        x_t, _ = self._diffusion.add_noise(self._x_0, torch.tensor([t]), self._eps)
        bar = float(self._diffusion.alpha_bar[t])
        self._pixels.set_data(tile(to_uint8(x_t), 1))
        self._t_text.set_text(f"t = {t} of {self._diffusion.T}")
        self._bars.set_data(_density(x_t, self._edges))
        self._moments.set_text(f"mean {x_t.mean():+.2f}\nstd   {x_t.std():.2f}")
        self._dot.set_data([t], [bar])
        self._bar_text.set_text(f"ᾱ = {bar:.3g}")
        return self._blitter.png()

    def _tile(self, figure: Figure) -> list[Artist]:
        ax = figure.add_axes((6 / 840, 0.06, 256 / 840, 0.80))  # 256 × 256 screen pixels
        ax.set_axis_off()
        self._pixels = ax.imshow(tile(to_uint8(self._x_0), 1), interpolation="nearest")
        self._t_text = ax.text(0.5, 1.03, "", transform=ax.transAxes, ha="center", fontsize=12)
        return [self._pixels, self._t_text]

    def _histogram(self, figure: Figure) -> list[Artist]:
        ax = figure.add_axes((332 / 840, 0.16, 244 / 840, 0.70))
        self._edges = np.linspace(-4, 4, 65)
        self._bars = ax.stairs(_density(self._x_0, self._edges), self._edges, fill=True,
                               color=COLOURS[5], label=r"values of $x_t$")  # fmt: skip
        z = np.linspace(-4, 4, 161)
        normal = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        (line,) = ax.plot(z, normal, color=COLOURS[1], linestyle="--", label="N(0, 1)")
        self._moments = ax.text(-3.8, 1.02, "", fontsize=9, va="top")
        ax.set(xlabel="pixel value", ylabel="density", xlim=(-4, 4), ylim=(0, 1.1))
        ax.set_title("histogram of the values", fontsize=11)
        ax.legend(loc="upper right", fontsize=8, frameon=False)
        return [self._bars, line, self._moments]  # draw the line above the bars

    def _curve(self, figure: Figure) -> list[Artist]:
        ax = figure.add_axes((636 / 840, 0.16, 190 / 840, 0.70))
        ax.plot(self._diffusion.alpha_bar.numpy(), color=COLOURS[0])
        (self._dot,) = ax.plot([0], [1], "o", color=COLOURS[1], markersize=9)
        self._bar_text = ax.text(0.96, 0.9, "", transform=ax.transAxes, ha="right", fontsize=10)
        ax.set(xlabel="timestep t", ylabel=r"$\bar\alpha_t$", ylim=(-0.04, 1.04))
        ax.set_title("what is left of the signal", fontsize=11)
        ax.grid(alpha=0.3)
        return [self._dot, self._bar_text]


def _density(x: Tensor, edges: np.ndarray) -> np.ndarray:
    """Compute a density histogram of x; values outside the edges count in its total."""
    counts = np.histogram(x.numpy(), edges)[0]
    return counts / (x.numel() * (edges[1] - edges[0]))


class ScheduleSlider(ImageSliders):
    """Show alpha_bar of several schedules, with a slider for T in 10..1000.

    Args:
        schedules: names of schedules.
        T: start value of the slider.
    """

    def __init__(self, schedules: Sequence[str], *, T: int = 500) -> None:
        self._names = list(schedules)
        self._blitter = Blitter(*self._draw(new_figure(8, 3.8)))
        super().__init__([ipywidgets.IntSlider(T, 10, 1000, description="T")], 800)

    def frame(self, T: int) -> bytes:
        """Draw the curves for T timesteps, as PNG bytes."""
        rows = [f"T = {T}"]
        for name, line, dot in zip(self._names, self._lines, self._dots, strict=True):
            bar = DiffusionUtils(T, name, prediction="v").alpha_bar.numpy()
            line.set_data(np.arange(T + 1) / T, bar)
            dot.set_data([1], bar[-1:])
            rows.append(f"{name}\n  alpha_bar {bar[-1]:.3g}\n  SNR {bar[-1] / (1 - bar[-1]):.3g}")
        self._text.set_text("\n".join(rows))
        return self._blitter.png()

    def _draw(self, figure: Figure) -> tuple[Figure, list[Artist]]:
        ax: Axes
        ax, side = figure.subplots(1, 2, width_ratios=(3, 1))
        side.set_axis_off()
        self._text = side.text(0, 1, "", va="top", family="monospace", fontsize=10)
        self._lines, self._dots = [], []
        for i, name in enumerate(self._names):
            style = line_style(i)
            dot = {"marker": style.pop("marker"), "color": style["color"], "markersize": 9}
            self._lines += ax.plot([0, 1], [1, 0], label=name, **style)
            self._dots += ax.plot([1], [0], linestyle="none", **dot)
        ax.set(xlabel="t / T", ylabel=r"$\bar\alpha_t$", xlim=(-0.02, 1.02), ylim=(-0.04, 1.04))
        ax.set_title("What is left of the signal")
        ax.grid(alpha=0.3)
        ax.legend(loc="lower left")
        return figure, [*self._lines, *self._dots, self._text]


class FrameSlider(ImageSliders):
    """Show prepared images, such as denoising steps, with a slider and a play button.

    Args:
        frames: a frame for each slider value: images (N, C, H, W), shown side by side, or one image
            (C, H, W), in [-1, 1] or uint8; or a Figure.
        captions: one text per frame.
        name: label of the slider.
        interval: milliseconds per frame while playing.
        width: width of the frame on the screen; by default small images are enlarged to at least
            96 pixels each, and larger images keep their size.
    """

    def __init__(
        self,
        frames: Sequence[Tensor | np.ndarray | Figure],
        captions: Sequence[str] | None = None,
        *,
        name: str = "frame",
        interval: int = 80,
        width: int | None = None,
    ) -> None:
        self._frames = [_png(frame) for frame in frames]
        self._captions = [""] * len(frames) if captions is None else list(captions)
        self.caption = ipywidgets.Label(self._captions[0])
        last = len(frames) - 1
        self.play = ipywidgets.Play(min=0, max=last, interval=interval, repeat=False)
        own_width = int.from_bytes(self._frames[0][16:20], "big")  # read from the PNG header
        super().__init__([ipywidgets.IntSlider(0, 0, last, description=name)], width or own_width)
        ipywidgets.jslink((self.play, "value"), (self.slider, "value"))
        self.children = [ipywidgets.HBox([self.play, self.slider]), self.caption, self.image]

    def frame(self, value: int) -> bytes:
        """Return the frame with index value, in 0..len - 1, as PNG bytes."""
        return self._frames[value]

    def _show(self, change: Any = None) -> None:
        super()._show(change)
        self.caption.value = self._captions[self.slider.value]


def _png(frame: Tensor | np.ndarray | Figure) -> bytes:
    if isinstance(frame, Figure):
        return figure_png(frame)
    pixels = to_uint8(frame[None] if frame.ndim == 3 else frame)
    pixels = enlarge(pixels, math.ceil(96 / pixels.shape[2]))
    return pixels_png(tile(pixels, min(10, len(pixels)), gap=4))
