"""Ten recipes that draw one class each, from back to front, facing right.

A recipe takes an empty `Scene` and paints all its images at once. Numbers that vary from image
to image come from `s.between`, colours from `s.pick`; everything else is fixed for a class.
"""

import numpy as np

from .cartoon_shapes import INK, Scene

WHITE = (0.97, 0.97, 0.95)
SKY_TOP = ("5aa9e6", "4f9bdc", "79bdf0", "8fb9d6")
SKY_LOW = ("bfe3fa", "d6eefb", "fbe6c8", "f7d9d4")
ROAD = ("80838a", "8d8f94", "74777f")
WATER = ("2f6fb3", "2a7fbd", "3a86b8", "26639f")
PAINT = ("e23b32", "2f6fdd", "f2c230", "35a853", "f07f23", "8e4ec6")
WALL = ("f0dcc0", "cfe3ea", "ead2de", "d9e6c9", "f4e7ae")
WINDOW = (0.25, 0.42, 0.62)


def _sky(s: Scene) -> None:
    s.gradient(s.pick(SKY_TOP), s.pick(SKY_LOW))


def _place(s: Scene, turn: float = 0.06, x: float = 0.0, y: float = 0.0) -> None:
    """The usual pose: a small random shift, scale and turn; half of the images are mirrored.

    x and y shift a drawing that is off-centre to the centre.
    """
    mirrored = s.chance(0.5)
    dx = s.between(-0.08, 0.08) + np.where(mirrored, -x, x)
    dy = s.between(-0.05, 0.05) + y
    s.pose(dx, dy, s.between(0.86, 1.0), s.between(-turn, turn), mirrored)


def _mirrored(side: int, *corners: tuple[float, float]) -> list[tuple[float, float]]:
    """Corners on the right (side 1) or on the left (-1), clockwise on both."""
    return [(side * x, y) for x, y in corners][::side]


def _wheels(s: Scene, *xs: float, y: float = 0.44, r: float = 0.2) -> None:
    for x in xs:
        s.draw((0.13, 0.13, 0.15), s.circle(x, y, r), outline=0.5)
        s.draw((0.8, 0.82, 0.85), s.circle(x, y, r * 0.45), outline=0)


def airplane(s: Scene) -> None:
    """A jet in the sky: long fuselage, swept wings, tail fin, a row of windows."""
    _sky(s)
    dx, dy = s.between(-0.06, 0.06), s.between(-0.08, 0.08)
    s.pose(dx, dy, s.between(0.88, 1.02), s.between(-0.5, 0.12), s.chance(0.5))
    body, wing = s.pick(("f5f5f2", "e8ecf0", "fbf3e0")), s.pick(PAINT)
    s.draw(wing, s.polygon((0.02, -0.1), (0.3, -0.1), (-0.12, -0.56), (-0.3, -0.56)))
    s.draw(wing, s.polygon((-0.86, -0.58), (-0.66, -0.58), (-0.42, -0.06), (-0.78, -0.06)))
    s.draw(body, s.limb(-0.74, -0.03, 0.66, 0.0, 0.12, 0.19))
    s.draw(WINDOW, s.ellipse(0.68, -0.06, 0.1, 0.07), outline=0)
    s.draw(WINDOW, *[s.circle(x, -0.05, 0.055) for x in (-0.3, -0.06, 0.18, 0.42)], outline=0)
    s.draw(wing, s.polygon((0.0, 0.08), (0.32, 0.08), (-0.24, 0.68), (-0.46, 0.68)))
    s.draw(wing, s.polygon((-0.82, 0.02), (-0.6, 0.02), (-0.82, 0.26), (-0.96, 0.26)))


def automobile(s: Scene) -> None:
    """A low car from the side: round cabin with two windows, two wheels, a road."""
    _sky(s)
    s.below(0.3 + s.between(-0.06, 0.06), s.pick(ROAD))
    _place(s, 0.03)
    paint, low = s.pick(PAINT), s.between(-0.46, -0.38)
    glass = s.pick(("bfe6f7", "a9d8ee"))
    cabin = s.polygon((-0.4, low), (0.2, low), (0.52, 0.05), (-0.66, 0.05))
    s.draw(paint, cabin, s.box(0.0, 0.2, 0.9, 0.23, rounding=0.18))
    top = low + 0.12
    s.draw(glass, s.polygon((-0.33, top), (-0.12, top), (-0.12, 0.0), (-0.48, 0.0)), outline=0.7)
    s.draw(glass, s.polygon((0.03, top), (0.14, top), (0.36, 0.0), (0.03, 0.0)), outline=0.7)
    s.draw((1.0, 0.93, 0.55), s.ellipse(0.82, 0.13, 0.07, 0.07), outline=0)
    _wheels(s, -0.5, 0.5, r=0.22)


def bird(s: Scene) -> None:
    """A round songbird on a branch: beak, eye, wing, tail."""
    _sky(s)
    _place(s, 0.12)
    coat, belly = s.pick(("e5432f", "2f7de0", "f4c22b", "3fae5a")), s.pick(("fbe6c4", "fdf3e3"))
    s.draw((0.45, 0.29, 0.16), s.limb(-1.4, 0.72, 1.4, 0.66, 0.08))
    legs = s.limb(-0.08, 0.4, -0.1, 0.68, 0.05), s.limb(0.14, 0.4, 0.14, 0.66, 0.05)
    s.draw(INK, *legs, outline=0)
    s.draw(coat * 0.75, s.polygon((-0.4, 0.0), (-0.3, 0.3), (-0.9, 0.5), (-0.98, 0.28)))
    s.draw((0.98, 0.65, 0.12), s.polygon((0.56, -0.48), (0.94, -0.3), (0.56, -0.18)))
    s.draw(coat, s.ellipse(-0.02, 0.1, 0.54, 0.42, -0.35), s.circle(0.34, -0.34, 0.34))
    s.draw(belly, s.ellipse(0.2, 0.2, 0.28, 0.24, -0.5), outline=0)
    s.draw(coat * 0.7, s.ellipse(-0.2, 0.1, 0.34, 0.18, s.between(-0.1, 0.5)), outline=0.7)
    s.draw(WHITE, s.circle(0.42, -0.4, 0.12), outline=0)
    s.draw(INK, s.circle(0.44, -0.4, 0.075), outline=0)


def cat(s: Scene) -> None:
    """A cat's face indoors: pointed ears, slit eyes, pink nose, whiskers."""
    s.gradient(s.pick(WALL), s.pick(WALL))
    _place(s, 0.15, y=0.1)
    fur = s.pick(("f0932b", "8d949c", "4c4a52", "f3e2c3", "b8794a"))
    eye = s.pick(("8fe04a", "f5d033", "6fd3ef"))
    for side in (-1, 1):
        ear = s.polygon(*_mirrored(side, (0.14, -0.5), (0.66, -0.92), (0.74, -0.1)))
        inside = s.polygon(*_mirrored(side, (0.34, -0.48), (0.6, -0.7), (0.62, -0.3)))
        s.draw(fur, ear)
        s.draw((0.96, 0.62, 0.66), inside, outline=0)
    s.draw(fur, s.ellipse(0.0, 0.1, 0.8, 0.66))
    s.draw(WHITE, s.ellipse(-0.14, 0.42, 0.2, 0.16), s.ellipse(0.14, 0.42, 0.2, 0.16), outline=0)
    for side in (-1, 1):
        s.draw(eye, s.ellipse(side * 0.36, -0.02, 0.17, 0.18), outline=0.8)
        s.draw(INK, s.ellipse(side * 0.36, -0.02, 0.06, 0.16), outline=0)
        upper = s.limb(side * 0.5, 0.3, side * 0.96, 0.2, 0.045)
        lower = s.limb(side * 0.5, 0.42, side * 0.96, 0.48, 0.045)
        s.draw(WHITE, upper, lower, outline=0.4)
    s.draw((0.95, 0.45, 0.52), s.polygon((-0.13, 0.22), (0.13, 0.22), (0.0, 0.38)), outline=0.5)


def deer(s: Scene) -> None:
    """A stag in the forest: antlers, long neck, slim legs, white spots."""
    s.gradient(s.pick(("2f6b3a", "37784a", "2a5f45")), s.pick(("5d9e4f", "6aa85a")))
    s.below(0.62 + s.between(-0.05, 0.05), s.pick(("3f7d35", "4b8a3a", "588f3f")))
    _place(s, 0.05, x=-0.08, y=0.03)
    fur = s.pick(("b5713a", "c0803f", "a86532", "c98a4e"))
    bone = (0.97, 0.9, 0.74)
    s.draw(fur * 0.8, s.limb(-0.36, 0.3, -0.3, 0.88, 0.07), s.limb(0.2, 0.3, 0.14, 0.88, 0.07))
    for x in (0.36, 0.66):
        beam = s.limb(x, -0.55, x + (x - 0.5) * 0.9, -0.92, 0.055)
        tine = s.limb(x + (x - 0.5) * 0.4, -0.72, x + (x - 0.5) * 1.9, -0.74, 0.05)
        s.draw(bone, beam, tine, outline=0.7)
    s.draw(WHITE, s.ellipse(-0.66, 0.02, 0.1, 0.14))
    s.draw(
        fur,
        s.ellipse(-0.12, 0.14, 0.56, 0.27),
        s.limb(0.28, 0.06, 0.5, -0.42, 0.2, 0.14),
        s.limb(0.5, -0.45, 0.8, -0.32, 0.16, 0.1),
        s.ellipse(0.3, -0.52, 0.15, 0.08, 0.4),
        s.limb(-0.5, 0.25, -0.52, 0.9, 0.12, 0.07),
        s.limb(0.32, 0.25, 0.34, 0.9, 0.1, 0.07),
    )
    spots = (-0.4, 0.05), (-0.16, 0.0), (0.06, 0.08), (-0.28, 0.22), (-0.04, 0.24)
    s.draw(WHITE, *[s.circle(x, y, 0.065) for x, y in spots], outline=0)
    s.draw(INK, s.circle(0.56, -0.46, 0.065), s.circle(0.88, -0.32, 0.07), outline=0)


def dog(s: Scene) -> None:
    """A dog's face: hanging ears, light snout, big nose, tongue out."""
    s.gradient(s.pick(WALL), s.pick(("b98a5e", "a9795a", "c49a70", "8f9bb0")))
    _place(s, 0.15)
    fur = s.pick(("c98d4f", "e3b778", "8a5a33", "f2e6d2", "a9a9ae"))
    ear = fur * 0.55
    s.draw(fur, s.ellipse(0.0, -0.08, 0.6, 0.68), s.ellipse(0.0, 0.2, 0.52, 0.5))
    s.draw((0.94, 0.4, 0.47), s.limb(0.0, 0.5, 0.0, s.between(0.74, 0.82), 0.14))
    s.draw((0.98, 0.94, 0.86), s.ellipse(0.0, 0.36, 0.36, 0.28), outline=0.6)
    for side in (-1, 1):
        s.draw(ear, s.ellipse(side * 0.68, -0.02, 0.2, 0.5, side * -0.18))
        s.draw(INK, s.circle(side * 0.25, -0.16, 0.11), outline=0)
        s.draw(WHITE, s.circle(side * 0.25 + 0.03, -0.2, 0.045), outline=0)
    s.draw(INK, s.ellipse(0.0, 0.22, 0.18, 0.13), outline=0)
    s.draw(INK, s.limb(0.0, 0.3, 0.0, 0.5, 0.04), outline=0)


def frog(s: Scene) -> None:
    """A wide green frog on a lily pad: two bulging eyes on top, a wide mouth."""
    s.gradient(s.pick(WATER), s.pick(("4fb0c6", "57a9c9")))
    _place(s, 0.08)
    skin = s.pick(("57b947", "6ccb3f", "3fa557", "86c440"))
    s.draw((0.16, 0.45, 0.24), s.ellipse(0.0, 0.72, 1.0, 0.26))
    s.draw(skin * 0.85, s.ellipse(-0.62, 0.5, 0.3, 0.24), s.ellipse(0.62, 0.5, 0.3, 0.24))
    eyes = s.circle(-0.42, -0.42, 0.27), s.circle(0.42, -0.42, 0.27)
    s.draw(skin, s.ellipse(0.0, 0.15, 0.8, 0.54), *eyes)
    s.draw((0.9, 0.95, 0.66), s.ellipse(0.0, 0.5, 0.46, 0.19), outline=0)
    for side in (-1, 1):
        s.draw(WHITE, s.circle(side * 0.42, -0.44, 0.19), outline=0.6)
        s.draw(INK, s.circle(side * 0.42, -0.42, 0.1), outline=0)
    s.draw(
        INK,
        s.limb(-0.5, 0.08, -0.2, 0.22, 0.045),
        s.limb(-0.2, 0.22, 0.2, 0.22, 0.045),
        s.limb(0.2, 0.22, 0.5, 0.08, 0.045),
        outline=0,
    )


def horse(s: Scene) -> None:
    """A horse on a meadow: big body, arched neck, dark mane and tail, four legs."""
    _sky(s)
    s.below(0.35 + s.between(-0.08, 0.08), s.pick(("6fb544", "7cc050", "5fa53f", "8ac75a")))
    _place(s, 0.05, y=0.02)
    coat = s.pick(("8a4b22", "6d3a1c", "a8622d", "efe9df", "4a4247"))
    mane = np.where(coat.mean(1, keepdims=True) > 0.7, coat * 0.6, coat * 0.35)
    s.draw(mane, s.limb(-0.64, -0.08, -0.88, 0.5, 0.13, 0.09))
    s.draw(coat * 0.8, s.limb(-0.34, 0.3, -0.26, 0.86, 0.1), s.limb(0.2, 0.3, 0.12, 0.86, 0.1))
    s.draw(mane, s.limb(0.14, -0.14, 0.4, -0.72, 0.18, 0.14))
    s.draw(
        coat,
        s.ellipse(-0.12, 0.06, 0.6, 0.34),
        s.limb(0.26, 0.0, 0.52, -0.54, 0.26, 0.16),
        s.limb(0.54, -0.58, 0.84, -0.28, 0.17, 0.13),
        s.limb(0.46, -0.66, 0.46, -0.86, 0.08, 0.03),
        s.limb(-0.52, 0.2, -0.54, 0.88, 0.15, 0.09),
        s.limb(0.36, 0.2, 0.38, 0.88, 0.13, 0.09),
    )
    s.draw(INK, s.circle(0.58, -0.56, 0.065), s.circle(0.86, -0.26, 0.05), outline=0)


def ship(s: Scene) -> None:
    """A steamer at sea: hull, white decks, a funnel."""
    _sky(s)
    s.below(0.42 + s.between(-0.06, 0.06), s.pick(WATER))
    _place(s, 0.08)
    hull, funnel = s.pick(("c8322b", "26303f", "1f4e8c", "8c3b2a")), s.pick(("f2c230", "e23b32"))
    s.draw(funnel, s.box(s.between(-0.16, 0.16), -0.56, 0.14, 0.34))
    s.draw(WHITE, s.box(0.0, -0.2, 0.4, 0.17), s.box(-0.04, 0.02, 0.66, 0.14))
    s.draw(hull, s.polygon((-0.92, 0.12), (0.98, 0.12), (0.66, 0.6), (-0.72, 0.6)))
    s.draw(WINDOW, *[s.circle(x, -0.2, 0.065) for x in (-0.24, 0.0, 0.24)], outline=0)
    s.draw(WHITE, *[s.circle(x, 0.34, 0.06) for x in (-0.4, -0.1, 0.2, 0.5)], outline=0)


def truck(s: Scene) -> None:
    """A lorry: tall cargo box, cab in front with one window, wheels, a road."""
    _sky(s)
    s.below(0.38 + s.between(-0.06, 0.06), s.pick(ROAD))
    _place(s, 0.03)
    cab, cargo = s.pick(PAINT), s.pick(("f2f2ee", "d9dde2", "f6e3b4", "c9d8e8"))
    top = s.between(-0.74, -0.6)
    s.draw((0.25, 0.25, 0.28), s.box(0.0, 0.42, 0.88, 0.08))
    s.draw(cargo, s.polygon((-0.92, top), (0.26, top), (0.26, 0.36), (-0.92, 0.36)))
    s.draw(cab, s.polygon((0.36, -0.34), (0.7, -0.34), (0.94, 0.06), (0.94, 0.42), (0.36, 0.42)))
    window = s.polygon((0.48, -0.22), (0.66, -0.22), (0.8, 0.05), (0.48, 0.05))
    s.draw((0.72, 0.9, 0.97), window, outline=0.7)
    _wheels(s, -0.6, -0.14, 0.64, y=0.5, r=0.2)


DRAWN = (airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck)
RECIPES = {recipe.__name__: recipe for recipe in DRAWN}
