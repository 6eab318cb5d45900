"""The shapes and the canvas that the cartoons are drawn with.

A shape is an array of signed distances, one per pixel, negative inside. A distance becomes
coverage with soft edges, so every shape is anti-aliased, and all images of a batch are drawn by
the same few numpy calls. Coordinates run from -1 to 1, x to the right, y downwards.

Source of the distance formulas: Inigo Quilez, "2D distance functions".
"""

from collections.abc import Sequence

import numpy as np

SIZE = 32
INK = (0.09, 0.08, 0.11)
OUTLINE = 1.1  # width of the dark line around a shape, in pixels

Number = float | np.ndarray  # one value for all images, or one per image, (B, 1, 1)
Colour = tuple[float, float, float] | np.ndarray  # RGB in [0, 1], (3,) or (B, 3)

f32 = np.float32  # the same pixels with every version of numpy


class Scene:
    """A batch of images being painted, back to front.

    Args:
        rng: random generator for this batch.
        n: number of images in the batch, B.
    """

    def __init__(self, rng: np.random.Generator, n: int):
        self.rng, self.n = rng, n
        axis = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2 / SIZE) - 1
        self._rows, self._cols = axis[None, :, None], axis[None, None, :]
        self.pixels = np.zeros((n, 3, SIZE, SIZE), np.float32)  # (B, 3, 32, 32) in [0, 1]
        self.pose()

    # ---- random numbers -----------------------------------------------------------------------

    def between(self, low: float, high: float) -> np.ndarray:
        """One uniform number per image, (B, 1, 1)."""
        return self.rng.uniform(low, high, (self.n, 1, 1)).astype(f32)

    def chance(self, probability: float) -> np.ndarray:
        """True for each image with this probability, (B, 1, 1) bool."""
        return self.rng.random((self.n, 1, 1)) < probability

    def pick(self, palette: Sequence[str], jitter: float = 0.04) -> np.ndarray:
        """One colour of the palette ("e0a030") for each image, varied a little, (B, 3)."""
        table = np.array([[int(c[k : k + 2], 16) / 255 for k in (0, 2, 4)] for c in palette])
        colour = table[self.rng.integers(len(palette), size=self.n)]
        return (colour + self.rng.uniform(-jitter, jitter, (self.n, 3))).astype(np.float32)

    def pose(
        self,
        dx: Number = 0.0,
        dy: Number = 0.0,
        scale: Number = 1.0,
        turn: Number = 0.0,
        flip: bool | np.ndarray = False,
    ) -> None:
        """Move, scale, turn (radians) and mirror everything that is drawn from here on."""
        self._scale = np.asarray(scale, f32)
        x, y = (self._cols - f32(dx)) / self._scale, (self._rows - f32(dy)) / self._scale
        x, y = _turned(np.where(flip, -x, x), y, turn)
        self.x, self.y = np.broadcast_arrays(x, y)  # (B or 1, 32, 32)

    # ---- shapes: signed distance of every pixel, (B, 32, 32) ----------------------------------

    def ellipse(self, cx: Number, cy: Number, rx: Number, ry: Number, turn: Number = 0.0):
        """An ellipse with half-axes rx, ry, turned about its centre."""
        x, y = _turned(self.x - cx, self.y - cy, turn)
        x, y = x / rx, y / ry
        k0 = np.sqrt(x * x + y * y)
        x, y = x / rx, y / ry
        return k0 * (k0 - 1) / (np.sqrt(x * x + y * y) + 1e-6)

    def circle(self, cx: Number, cy: Number, r: Number):
        """A disc of radius r."""
        x, y = self.x - cx, self.y - cy
        return np.sqrt(x * x + y * y) - r

    def box(self, cx: Number, cy: Number, hx: Number, hy: Number, rounding: float = 0.0):
        """A rectangle with half-sides hx, hy; its corners rounded by `rounding`."""
        x = np.abs(self.x - cx) - (f32(hx) - f32(rounding))
        y = np.abs(self.y - cy) - (f32(hy) - f32(rounding))
        inner = np.maximum(x, y)
        if not rounding:
            return inner
        x, y = np.maximum(x, 0), np.maximum(y, 0)
        return np.sqrt(x * x + y * y) + np.minimum(inner, 0) - rounding

    def limb(
        self, x0: Number, y0: Number, x1: Number, y1: Number, r0: Number, r1: Number | None = None
    ):
        """A stroke with round ends from (x0, y0), radius r0, to (x1, y1), radius r1."""
        x, y = self.x - x0, self.y - y0
        ax, ay = f32(x1) - f32(x0), f32(y1) - f32(y0)
        along = np.clip((x * ax + y * ay) / (ax * ax + ay * ay + f32(1e-9)), 0, 1)
        x, y = x - along * ax, y - along * ay
        radius = r0 if r1 is None else r0 + along * (f32(r1) - f32(r0))
        return np.sqrt(x * x + y * y) - radius

    def polygon(self, *corners: tuple[Number, Number]):
        """A convex polygon; its corners in clockwise order, as seen in the image."""
        sides = []
        for (xa, ya), (xb, yb) in zip(corners, corners[1:] + corners[:1], strict=True):
            nx, ny = f32(yb) - f32(ya), f32(xa) - f32(xb)
            length = np.sqrt(nx * nx + ny * ny)
            nx, ny = nx / length, ny / length
            sides.append(self.x * nx + self.y * ny - (f32(xa) * nx + f32(ya) * ny))
        return np.maximum.reduce(sides)

    # ---- paint --------------------------------------------------------------------------------

    def gradient(self, top: Colour, bottom: Colour) -> None:
        """Fill the image from one colour at the top to another at the bottom."""
        mix = ((self._rows + 1) / 2)[:, None]  # (1, 1, 32, 1)
        top, bottom = self._colour(top), self._colour(bottom)
        self.pixels[:] = top + mix * (bottom - top)

    def below(self, height: Number, colour: Colour) -> None:
        """Fill everything under a horizon at y = height."""
        self._blend(self._coverage(height - self._rows, 1.0), colour)

    def draw(self, colour: Colour, *shapes: np.ndarray, outline: float = OUTLINE) -> None:
        """Paint the union of the shapes in one colour, with a dark line of `outline` pixels."""
        distance = np.minimum.reduce(shapes)
        if outline:
            self._blend(self._coverage(distance, self._scale, outline), INK)
        self._blend(self._coverage(distance, self._scale), colour)

    @staticmethod
    def _coverage(distance: np.ndarray, scale: Number, grow: float = 0.0) -> np.ndarray:
        return np.clip((0.5 + grow) - distance * (scale * f32(SIZE / 2)), 0, 1)

    @staticmethod
    def _colour(colour: Colour) -> np.ndarray:
        return np.asarray(colour, f32).reshape(-1, 3, 1, 1)

    def _blend(self, coverage: np.ndarray, colour: Colour) -> None:
        step = self._colour(colour) - self.pixels
        step *= coverage[:, None]
        self.pixels += step


def _turned(x: np.ndarray, y: np.ndarray, turn: Number) -> tuple[np.ndarray, np.ndarray]:
    c, s = np.cos(f32(turn)), np.sin(f32(turn))
    return c * x + s * y, c * y - s * x
