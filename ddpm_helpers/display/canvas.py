"""Shared functions of all displays: pixels, tiles, and figures for notebooks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ddpm_helpers.data.dataset import to_bytes

# Okabe & Ito's colours, which colour-blind readers can distinguish; each has its own dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 100
DENSITY = 2  # stored pixels per screen pixel, in each direction, for figures in notebooks
SMALL = 3000  # charts with fewer points are smaller as SVG than as PNG
STYLE: dict[Any, Any] = {
    "axes.formatter.min_exponent": 5,  # log axes show 0.6 and 100, not 6×10⁻¹ and 10²
    "axes.formatter.useoffset": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "figure.facecolor": "white",  # also readable on a dark page
    "figure.dpi": DPI,
    "svg.hashsalt": "ddpm_helpers",  # makes SVG files reproducible
}


class Picture(Figure):
    """A Figure that pyplot does not manage. A cell shows it once, and you need not close it."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return _png_for_page(self)


def notebook_figures() -> None:
    """Set how this notebook shows figures, including your pyplot figures.

    Figures with images become PNG at twice the screen density; charts with few points become SVG.
    Ticks are plain decimals, and colour-blind readers can distinguish the lines. Outside a
    notebook, only ticks and colours are set.
    """
    from IPython import get_ipython

    matplotlib.rcParams.update(STYLE)
    if (shell := get_ipython()) is None:
        return
    import matplotlib.pyplot as plt

    plt.switch_backend(matplotlib.get_backend())  # the inline backend registers its formats
    formatters = shell.display_formatter.formatters
    for formatter in formatters.values():
        formatter.pop(Figure, None)
    formatters["image/svg+xml"].for_type(Figure, _svg_for_page)
    formatters["image/png"].for_type(
        Figure, lambda figure: None if is_small_chart(figure) else _png_for_page(figure)
    )


def is_small_chart(figure: Figure) -> bool:
    """Return whether a figure has no images and few points, so that it is small as SVG."""
    points = 0
    for ax in figure.axes:
        if ax.images:
            return False
        points += sum(np.size(line.get_xdata(orig=False)) for line in ax.lines)
        for one in ax.collections:
            shapes = sum(np.shape(path.vertices)[0] for path in one.get_paths())
            points += shapes * max(1, np.shape(one.get_offsets())[0])
        points += 5 * len(ax.patches)
    return points < SMALL


def _png_for_page(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """Return PNG bytes at twice the screen density, and the size on the page."""
    png = figure_png(figure, DENSITY)
    width, height = (int.from_bytes(png[k : k + 4], "big") // DENSITY for k in (16, 20))
    return png, {"width": width, "height": height}


def _svg_for_page(figure: Figure) -> str | None:
    if not is_small_chart(figure):
        return None
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return file.getvalue()


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """Make an empty figure of width × height inches that pyplot does not manage."""
    figure = Picture(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def line_style(i: int, every: int | list[int] = 1) -> dict[str, Any]:
    """Choose colour, dashes and marker of line i of a figure, as arguments of `ax.plot`.

    Args:
        i: number of the line, from 0; colours repeat after seven.
        every: step between marked points, or the indices of the marked points.
    """
    k = i % len(COLOURS)
    return {
        "color": COLOURS[k], "linestyle": DASHES[k], "marker": MARKERS[k], "markevery": every,
        "markersize": 5, "linewidth": 1.8,
    }  # fmt: skip


def figure_png(figure: Figure, density: int = 1) -> bytes:
    """Convert a figure to lossless PNG bytes, as small as possible: notebooks hold many figures.

    Args:
        figure: a figure; a pyplot figure is cropped to its content.
        density: stored pixels per screen pixel, in each direction.
    """
    file, smaller = io.BytesIO(), io.BytesIO()
    cut = None if isinstance(figure, Picture) else "tight"
    figure.savefig(file, format="png", dpi=DPI * density, facecolor="white", bbox_inches=cut)
    Image.open(file).convert("RGB").save(smaller, format="PNG", optimize=True)
    return smaller.getvalue()


def pixels_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels (H, W, 3) as PNG, fast enough for sliders."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def to_uint8(x: Tensor | np.ndarray) -> np.ndarray:
    """Convert images to uint8 pixels, channels last.

    Args:
        x: (N, C, H, W), C = 1 or 3; floats in [-1, 1], clipped if they lie outside; or uint8.
    Returns:
        uint8 (N, H, W, C); -1 becomes 0 and 1 becomes 255.
    Raises:
        ValueError: x has the wrong shape or dtype, or holds NaN, which would look black.
    """
    # Arrays are copied because torch warns about read-only memory, such as a cache.
    x = (x if isinstance(x, Tensor) else torch.from_numpy(np.array(x))).detach().cpu()
    known = x.is_floating_point() or x.dtype == torch.uint8
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.numel() or not known:
        got = f"{x.dtype} {tuple(x.shape)}"
        raise ValueError(f"images must be (N, 1 or 3, H, W), floats or uint8; got {got}")
    if x.isnan().any():
        raise ValueError(f"{int(x.isnan().sum())} of {x.numel()} pixel values are NaN")
    x = x if x.dtype == torch.uint8 else to_bytes(x)
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge (..., H, W, C) to (..., H * scale, W * scale, C); each pixel becomes a square."""
    return pixels.repeat(scale, axis=-3).repeat(scale, axis=-2)


def tile(pixels: np.ndarray, ncols: int, gap: int = 0, heads: Sequence[int] = ()) -> np.ndarray:
    """Arrange images side by side on white.

    Args:
        pixels: uint8 (N, H, W, C).
        ncols: images per row.
        gap: white pixels between images.
        heads: white pixels above each row, for titles.
    Returns:
        uint8 (height, width, 3).
    """
    n, h, w, _ = pixels.shape
    nrows = -(-n // ncols)
    heads = list(heads) or [0] * nrows
    tops = [sum(heads[: r + 1]) + r * (h + gap) for r in range(nrows)]
    sheet = np.full((tops[-1] + h, ncols * (w + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = tops[i // ncols], i % ncols * (w + gap)
        sheet[top : top + h, left : left + w] = image
    return sheet
