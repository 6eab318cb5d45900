"""The basis of all displays: pixels, tiles, and figures that pyplot does not know."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

# Okabe & Ito's colours, which colour-blind readers can tell apart; each has its own dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 100


class Picture(Figure):
    """A Figure that pyplot does not know: shown once, as the last value of a cell, and freed."""

    def _repr_png_(self) -> bytes:
        return figure_png(self)


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of width × height inches, unknown to pyplot."""
    options.setdefault("layout", "constrained")
    figure = Picture(figsize=(width, height), dpi=DPI, **options)
    FigureCanvasAgg(figure)
    return figure


def line_style(i: int, every: int | list[int] = 1) -> dict[str, Any]:
    """Colour, dashes and marker of the i-th line of a figure, as arguments of `ax.plot`.

    Args:
        i: number of the line, from 0; colours repeat after seven.
        every: distance between marked points, or the indices of the marked points.
    """
    k = i % len(COLOURS)
    return {
        "color": COLOURS[k], "linestyle": DASHES[k], "marker": MARKERS[k], "markevery": every,
        "markersize": 5, "linewidth": 1.8,
    }  # fmt: skip


def figure_png(figure: Figure) -> bytes:
    """A figure as PNG bytes, optimised for size without loss, because notebooks hold many."""
    from PIL import Image

    file, smaller = io.BytesIO(), io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    Image.open(file).convert("RGB").save(smaller, format="PNG", optimize=True)
    return smaller.getvalue()


def pixels_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels (H, W, 3), or (H, W, 1) in grey, as PNG bytes, fast enough for sliders.

    Each row is stored as its difference from the row above (PNG's filter 2), which is 0 for most
    rows of enlarged pictures; an encoder that tries every filter needs three times as long.
    """
    height, width, _ = pixels.shape
    flat = np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3))).reshape(height, -1)
    rows = np.empty((height, 1 + flat.shape[1]), np.uint8)
    rows[:, 0] = 2
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def to_uint8(x: Tensor | np.ndarray) -> np.ndarray:
    """Convert pictures to uint8 pixels, channels last.

    Args:
        x: (N, C, H, W), C = 1 or 3; floats in [-1, 1], clipped if they lie outside; or uint8.
    Returns:
        uint8 (N, H, W, C); -1 becomes 0 and 1 becomes 255.
    Raises:
        ValueError: another shape, or NaN.
    """
    # Arrays are copied: torch warns about read-only memory, such as a cache's.
    x = (x if isinstance(x, Tensor) else torch.from_numpy(np.array(x))).detach().cpu()
    if x.ndim != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        raise ValueError(f"pictures must be (N, C, H, W) with C = 1 or 3, got {tuple(x.shape)}")
    if x.dtype != torch.uint8:
        if not x.is_floating_point():
            raise ValueError(f"pictures must be floats in [-1, 1] or uint8, got {x.dtype}")
        if x.isnan().any():
            raise ValueError(f"{int(x.isnan().sum())} of {x.numel()} pixel values are NaN")
        x = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def enlarge(pixels: np.ndarray, scale: int) -> np.ndarray:
    """(..., H, W, C) -> (..., H * scale, W * scale, C), every pixel a crisp square."""
    return pixels.repeat(scale, axis=-3).repeat(scale, axis=-2)


def tile(pixels: np.ndarray, ncols: int, gap: int = 0, heads: Sequence[int] = ()) -> np.ndarray:
    """Pictures side by side on white.

    Args:
        pixels: uint8 (N, H, W, C).
        ncols: pictures per row.
        gap: white pixels between neighbours.
        heads: white pixels above each row, for its titles.
    Returns:
        uint8 (height, width, 3).
    """
    n, h, w, _ = pixels.shape
    nrows = -(-n // ncols)
    heads = list(heads) or [0] * nrows
    tops = [sum(heads[: r + 1]) + r * (h + gap) for r in range(nrows)]
    sheet = np.full((tops[-1] + h, ncols * (w + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = tops[i // ncols], i % ncols * (w + gap)
        sheet[top : top + h, left : left + w] = picture
    return sheet
