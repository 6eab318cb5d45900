"""Image files of every kind come out with the right pixels; other files cannot do harm."""

import io
import struct
import zlib

import numpy as np
import pytest
from albums import SIZE, noise
from PIL import Image, features

from ddpm_helpers.data.decode import NotAnImage, decode

UPRIGHT = noise().transpose(2, 0, 1)


def decoded(path, size=SIZE):
    return decode(path, size, "crop")


def test_formats_without_loss_keep_every_pixel(tmp_path):
    for suffix in ("png", "bmp", "tiff", "ppm", "webp", "PNG"):
        options = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(noise()).save(tmp_path / f"a.{suffix}", **options)
        np.testing.assert_array_equal(decoded(tmp_path / f"a.{suffix}"), UPRIGHT)


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_formats_with_loss_are_close(kind, tmp_path):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    smooth = np.broadcast_to(np.arange(SIZE, dtype=np.uint8)[:, None, None] * 20, (SIZE, SIZE, 3))
    Image.fromarray(smooth.copy()).save(tmp_path / "a", kind, quality=95)
    assert np.abs(decoded(tmp_path / "a").astype(int) - smooth.transpose(2, 0, 1)).max() <= 4


def png(width, height, depth, kind, rows):
    """A PNG, written by hand: no library decides what white is."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["png", "tiff", "32-bit tiff"])
def test_sixteen_bits_become_eight(kind, tmp_path):
    eight = noise(1)[..., 0]
    values = eight.astype(np.uint16) * 257
    path = tmp_path / f"a.{kind[-4:].strip()}"
    if kind == "png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        path.write_bytes(png(SIZE, SIZE, 16, 0, rows))
    else:
        Image.fromarray(values.astype(np.int32) if kind[0] == "3" else values).save(path)
    np.testing.assert_array_equal(decoded(path), np.stack([eight] * 3))


def on_white(rgb, alpha):
    a = alpha[..., None] / 255
    return (rgb * a + 255 * (1 - a)).transpose(2, 0, 1)


def test_transparent_pixels_are_blended_with_white(tmp_path):
    rgba, grey = noise(4), noise(2)
    Image.fromarray(rgba).save(tmp_path / "1.png")
    Image.fromarray(grey).save(tmp_path / "2.png")  # grey with alpha
    colour = np.abs(decoded(tmp_path / "1.png") - on_white(rgba[..., :3], rgba[..., 3]))
    wanted = on_white(np.repeat(grey[..., :1], 3, 2), grey[..., 1])
    assert max(colour.max(), np.abs(decoded(tmp_path / "2.png") - wanted).max()) <= 1


def test_palettes_their_transparent_colour_and_animations(tmp_path):
    image = Image.fromarray(np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % 2, "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    for name, options, second in (("a.png", {}, [40, 50, 60]),
                                  ("b.png", {"transparency": 1}, [255] * 3),
                                  ("c.gif", {"transparency": 1}, [255] * 3)):  # fmt: skip
        image.save(tmp_path / name, **options)
        assert decoded(tmp_path / name)[:, 0, :2].T.tolist() == [[10, 20, 30], second]
    frames = [Image.new("RGB", (SIZE, SIZE), c) for c in ("#ff0000", "#00ff00")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decoded(tmp_path / "a.gif")[:, 0, 0].tolist() == [255, 0, 0]  # the first one


def test_cmyk_becomes_rgb(tmp_path):
    cyan = Image.new("CMYK", (SIZE, SIZE), (255, 0, 0, 0))
    cyan.save(tmp_path / "a.tif"), cyan.save(tmp_path / "b.jpg", quality=95)
    for name in ("a.tif", "b.jpg"):
        middle = decoded(tmp_path / name)[:, 4, 4].astype(int)
        assert np.abs(middle - [0, 255, 255]).max() <= 3


def test_every_exif_orientation_comes_out_upright(tmp_path):
    turns = {  # the turn that a viewer makes, undone
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2), 6: np.rot90,
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    for turn, undo in turns.items():
        exif = Image.Exif()
        exif[0x0112] = turn
        stored = Image.fromarray(np.ascontiguousarray(undo(noise())))
        stored.save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(decoded(tmp_path / "a.png"), UPRIGHT)


def test_a_damaged_exif_block_does_not_cost_the_image(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise()).save(path, dpi=(72, 72), exif=b"Exif\0\0garbage!")
    with pytest.raises(SyntaxError):  # Pillow by itself
        Image.open(path).getexif()
    assert decoded(path).shape == (3, SIZE, SIZE)


def test_files_that_cannot_be_images_say_why(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(noise(size=64)).save(whole, "JPEG")
    numbers = np.resize(np.array([0, 3_000_000], np.int32), (SIZE, SIZE))
    huge, floats = io.BytesIO(), io.BytesIO()
    Image.fromarray(numbers).save(huge, "TIFF")
    Image.fromarray(numbers.astype(np.float32)).save(floats, "TIFF")
    refused = {
        "empty.jpg": (b"", "cannot identify"),
        "cut.jpg": (whole.getvalue()[:-50], "truncated"),
        "bomb.png": (png(60_000, 60_000, 8, 2, b""), "decompression bomb"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),
        "huge.tiff": (huge.getvalue(), "so white is unknown"),
        "float.tiff": (floats.getvalue(), "so white is unknown"),
    }
    for name, (content, words) in refused.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NotAnImage, match=words) as caught:
            decoded(tmp_path / name)
        assert "\n" not in str(caught.value)
