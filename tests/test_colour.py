"""Colours come out in sRGB, whatever profile an image carries; the profiles are built here."""

import struct

import numpy as np
import pytest
from albums import load
from PIL import Image

D50 = (0.9642, 1.0, 0.8249)
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657],
                       [-0.00105, 0.04189, 0.78407]])  # fmt: skip
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061],
                 [0.01392, 0.09708, 0.71410]])  # fmt: skip
RED = (200, 30, 30)


def fixed(*numbers):
    return b"".join(struct.pack(">i", round(x * 65536)) for x in numbers)


def xyz(*numbers):
    return b"XYZ \0\0\0\0" + fixed(*numbers)


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def profile(space, tags):
    """An ICC profile, version 4."""
    text = "made here".encode("utf-16-be")
    name = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    tags = {b"desc": name, b"cprt": name, b"wtpt": xyz(*D50)} | tags
    start, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for key, value in tags.items():
        table += key + struct.pack(">II", start + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    content = struct.pack(">I", len(tags)) + table + body
    head = struct.pack(">I4sI4s4s4s12s4s", 128 + len(content), b"\0\0\0\0", 0x04300000, b"mntr",
                       space, b"XYZ ", b"\x07\xe6\0\1\0\1\0\0\0\0\0\0", b"acsp")  # fmt: skip
    return (head + b"\0" * 28 + fixed(*D50)).ljust(128, b"\0") + content


def linear(rgb):
    s = np.array(rgb) / 255
    return np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)


WIDE = profile(b"RGB ", {
    **{key: xyz(*DISPLAY_P3[:, k]) for k, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
    **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2)),
})  # fmt: skip
LIGHT = np.linalg.inv(DISPLAY_P3) @ SRGB @ linear(RED)  # the same red in the primaries of P3
WIDE_RED = tuple(np.rint(255 * LIGHT ** (1 / 2)).astype(int).tolist())


def shown(tmp_path, **options):
    """The middle pixel of the one image in tmp_path/p."""
    ds = load(tmp_path / "p", tmp_path, 16, **options)
    return ds.images[0, :, 8, 8].astype(int)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "p").mkdir()
    return tmp_path / "p"


def test_a_wide_gamut_red_is_the_same_red(place, tmp_path):
    wide = Image.new("RGB", (32, 32), WIDE_RED)
    transparent, palette = wide.convert("RGBA"), wide.quantize(2)
    images = {"a.png": wide, "b.jpg": wide, "c.png": transparent, "d.png": palette}
    assert np.abs(np.subtract(WIDE_RED, RED)).max() > 9
    for name, image in images.items():
        options = {"quality": 100, "subsampling": 0} if name == "b.jpg" else {}
        image.save(place / name, icc_profile=WIDE, **options)
        for fit in ("crop", "pad"):
            assert np.abs(shown(tmp_path, fit=fit) - RED).max() <= 2, (name, fit)
        (place / name).unlink()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_profiles_of_8_and_16_bits(suffix, place, tmp_path):
    """Linear light of 0.2140 is 127 of 255 in sRGB; a gamma of 1 stores it as 55."""
    icc = profile(b"GRAY", {b"kTRC": gamma(1)})
    pixels = np.full((16, 16), round(0.2140 * 255), np.uint8)
    pixels = pixels if suffix == "png" else pixels.astype(np.uint16) * 257
    Image.fromarray(pixels).save(place / f"a.{suffix}", icc_profile=icc)
    assert np.abs(shown(tmp_path) - 127).max() <= 2


@pytest.mark.parametrize("icc", [b"no profile at all", WIDE[:200],
                                 profile(b"GRAY", {b"kTRC": gamma(1)})])  # fmt: skip
def test_a_broken_profile_or_one_of_another_kind_is_ignored(icc, place, tmp_path):
    Image.new("RGB", (16, 16), RED).save(place / "a.png", icc_profile=icc)
    assert shown(tmp_path).tolist() == list(RED)
