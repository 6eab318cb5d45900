"""Pictures of every kind come out with the right pixels; other files cannot do harm."""

import errno
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm_helpers.data import ImageDataset, folder

SIZE = 8


def load(place, tmp_path, **options):
    return ImageDataset(place, SIZE, cache_dir=tmp_path / "cache", **options)


def ramp(channels=3):
    """Every pixel another: a turn, a swap of channels or a shift would show."""
    rng = np.random.default_rng(channels)
    return rng.integers(0, 256, (SIZE, SIZE, channels), np.uint8)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "p").mkdir()
    return tmp_path / "p"


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "tif", "ppm", "webp", "PNG"])
def test_formats_without_loss_keep_every_pixel(suffix, place, tmp_path):
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(ramp()).save(place / f"a.{suffix}", **options)
    np.testing.assert_array_equal(load(place, tmp_path).images[0], ramp().transpose(2, 0, 1))


def test_jpeg_is_close(place, tmp_path):
    smooth = np.broadcast_to(np.arange(SIZE, dtype=np.uint8)[:, None, None] * 20, (SIZE, SIZE, 3))
    Image.fromarray(smooth.copy()).save(place / "a.jpg", quality=95)
    error = load(place, tmp_path).images[0].astype(int) - smooth.transpose(2, 0, 1)
    assert np.abs(error).max() <= 4


def test_the_first_frame_of_an_animation_is_used(place, tmp_path):
    frames = [Image.new("RGB", (SIZE, SIZE), c) for c in ("#ff0000", "#00ff00")]
    frames[0].save(place / "a.gif", save_all=True, append_images=frames[1:])
    assert load(place, tmp_path).images[0, :, 0, 0].tolist() == [255, 0, 0]


def png16(values, clear=None):
    """A 16-bit grey PNG, written by hand: no library decides what white is."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 0)
    holes = b"" if clear is None else chunk(b"tRNS", struct.pack(">H", clear))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    body = chunk(b"IHDR", header) + holes + pixels + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_become_eight(kind, place, tmp_path):
    eight = ramp(1)[..., 0]
    values = eight.astype(np.uint16) * 257
    if kind == "png":
        (place / "a.png").write_bytes(png16(values))
    else:
        Image.fromarray(values).save(place / "a.tiff")
    np.testing.assert_array_equal(load(place, tmp_path).images[0], np.stack([eight] * 3))


def test_sixteen_bits_with_a_transparent_grey(place, tmp_path):
    values = np.resize(np.array([0, 257, 25700, 65535], np.uint16), (SIZE, SIZE))
    (place / "a.png").write_bytes(png16(values, clear=25700))
    want = np.resize(np.array([0, 1, 255, 255], np.uint8), (SIZE, SIZE))
    np.testing.assert_array_equal(load(place, tmp_path).images[0], np.stack([want] * 3))


def on_white(rgb, alpha):
    a = alpha[..., None] / 255
    return (rgb * a + 255 * (1 - a)).transpose(2, 0, 1)


def test_transparent_pixels_are_blended_with_white(place, tmp_path):
    rgba = ramp(4)
    Image.fromarray(rgba).save(place / "1.png")
    Image.fromarray(ramp(2)).save(place / "2.png")  # grey with alpha
    images = load(place, tmp_path).images.astype(float)
    assert np.abs(images[0] - on_white(rgba[..., :3], rgba[..., 3])).max() <= 1
    grey = np.repeat(ramp(2)[..., :1], 3, 2)
    assert np.abs(images[1] - on_white(grey, ramp(2)[..., 1])).max() <= 1


def test_a_palettes_transparent_colour_is_white(place, tmp_path):
    picture = Image.fromarray(np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % 2, "P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.save(place / "a.png", transparency=1)
    picture.save(place / "b.gif", transparency=1)
    for image in load(place, tmp_path).images:
        assert image[:, 0, :2].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_cmyk_becomes_rgb(place, tmp_path):
    cmyk = np.broadcast_to(np.array((255, 0, 0, 0), np.uint8), (SIZE, SIZE, 4))  # cyan
    Image.fromarray(cmyk.copy(), "CMYK").save(place / "a.tif")
    Image.fromarray(cmyk.copy(), "CMYK").save(place / "b.jpg", quality=95)
    for image in load(place, tmp_path).images:
        assert np.abs(image[:, 4, 4].astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation_comes_out_upright(turn, place, tmp_path):
    upright = ramp()
    stored = {  # the turn that a viewer makes, undone
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2), 6: np.rot90,
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, -1),
    }[turn](upright)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.ascontiguousarray(stored)).save(place / "a.png", exif=exif)
    np.testing.assert_array_equal(load(place, tmp_path).images[0], upright.transpose(2, 0, 1))


def test_pad_keeps_the_whole_picture_and_crop_its_centre(place, tmp_path):
    Image.new("RGB", (16, 8), "black").save(place / "wide.png")
    padded, cropped = load(place, tmp_path, fit="pad"), load(place, tmp_path)
    assert padded.images[0, 0, :, 0].tolist() == [255, 255, 0, 0, 0, 0, 255, 255]
    assert (cropped.images == 0).all()
    with pytest.raises(ValueError, match="unknown fit 'stretch'; choose from crop, pad"):
        load(place, tmp_path, fit="stretch")


def bomb(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def test_files_that_are_not_pictures_are_skipped_listed_and_counted(place, tmp_path, capsys):
    Image.new("RGB", (SIZE, SIZE)).save(place / "good.png")
    (place / "empty.jpg").touch()
    (place / "bomb.png").write_bytes(bomb(60_000, 60_000))
    (place / "large.png").write_bytes(bomb(9_434, 9_435))  # just above the limit
    (place / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage")
    Image.fromarray(np.zeros((SIZE, SIZE), np.float32)).save(place / "float.tiff")
    (place / "film.mov").touch()
    assert len(load(place, tmp_path)) == 1
    printed = capsys.readouterr()
    text = printed.out + printed.err
    for words in (
        "empty.jpg: empty file",
        "bomb.png: ",
        "9,434×9,435 pixels are too many",
        "script.png: cannot identify",
        "float.tiff: floating",
        "5 of 6 files",
        "1 .mov",
    ):
        assert words in text


def test_thousands_of_broken_files_do_not_flood_the_screen(place, tmp_path, capsys):
    for k in range(100):
        (place / f"{k}.png").touch()
    Image.new("RGB", (SIZE, SIZE)).save(place / "good.png")
    load(place, tmp_path)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("empty file") == folder.LISTED
    assert "90 of 91 files" in printed.out  # a tenth is held out


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows, pipes are POSIX")
def test_cyclic_links_end_and_linked_albums_count(place, tmp_path, capsys):
    for name in ("a", "b"):
        (place / name).mkdir()
        Image.new("RGB", (SIZE, SIZE)).save(place / name / "1.png")
    album = tmp_path / "album"
    album.mkdir()
    Image.new("RGB", (SIZE, SIZE)).save(album / "2.png")
    (place / "a" / "up").symlink_to(place)
    (place / "a" / "self").symlink_to(place / "a")
    (place / "b" / "album").symlink_to(album)
    (place / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (place / "b" / "circle.png").symlink_to(place / "b" / "circle.png")
    os.mkfifo(place / "b" / "pipe.png")
    assert sorted(load(place, tmp_path).labels) == [0, 1, 1]
    said = capsys.readouterr().out
    assert "other files were ignored: 2 broken link, 1 special file" in said


@pytest.mark.parametrize("name", ["Ferien am Meer ☀", "假期", "صور", "отпуск", "कैमरा"])
def test_names_in_any_script(name, place, tmp_path):
    (place / name).mkdir()
    Image.new("RGB", (SIZE, SIZE)).save(place / name / f"{name} 1.png")
    (place / name / f"{name} 2.png").touch()
    ds = load(place, tmp_path)
    assert ds.classes == (name,) and len(ds) == 1
    assert load(place, tmp_path).classes == (name,)


@pytest.mark.skipif(
    os.name == "nt" or os.uname().sysname == "Darwin", reason="names are text there"
)
def test_a_file_name_that_is_not_valid_text(place, tmp_path, capsys):
    odd = os.fsdecode(b"\xff.png")
    (place / odd).touch()
    Image.new("RGB", (SIZE, SIZE)).save(place / os.fsdecode(b"\xfe.png"))
    assert len(load(place, tmp_path)) == 1
    assert "\\udcff.png: empty file" in capsys.readouterr().out


def test_pictures_beside_class_folders_are_left_out_with_a_message(place, tmp_path, capsys):
    for name in ("a/1.png", "b/2.png", "3.png", "4.png", ".5.png"):
        (place / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (SIZE, SIZE)).save(place / name)
    assert len(load(place, tmp_path)) == 2
    assert "left out 2 pictures beside the class folders" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOMEM])
def test_a_temporary_failure_is_not_cached_as_a_missing_picture(
    number, place, tmp_path, monkeypatch
):
    for name in "ab":
        Image.new("RGB", (SIZE, SIZE)).save(place / f"{name}.png")
    failing, read = ["b.png"], Image.open

    def flaky(path, **options):
        if path.name in failing:
            raise OSError(number, os.strerror(number), str(path))
        return read(path, **options)

    monkeypatch.setattr(Image, "open", flaky)
    with pytest.raises(OSError, match=r"cannot read .*b\.png: .*" + os.strerror(number)):
        load(place, tmp_path)
    failing.clear()
    assert len(load(place, tmp_path)) == 2


def test_a_picture_that_vanishes_between_listing_and_reading_is_skipped(
    place, tmp_path, monkeypatch, capsys
):
    for name in "ab":
        Image.new("RGB", (SIZE, SIZE)).save(place / f"{name}.png")
    listed = folder._listing

    def and_delete(where):
        found = listed(where)
        (place / "b.png").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(folder, "_listing", and_delete)
    assert len(load(place, tmp_path)) == 1
    assert "b.png: " in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="names cannot hold a line break there")
def test_names_are_printable_where_the_terminal_knows_few_characters(place, tmp_path):
    for name in ("假期.png", "line\nbreak.png"):
        (place / name).touch()
    Image.new("RGB", (SIZE, SIZE)).save(place / "good.png")
    code = (
        "import sys; from ddpm_helpers.data import ImageDataset\n"
        "ImageDataset(sys.argv[1], 8, cache_dir=sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, place, tmp_path / "cache"], capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"\\u5047\\u671f.png: empty file" in done.stdout
    assert b"line\\nbreak.png: empty file" in done.stdout


def test_256_by_256_runs_through_the_same_code(place, tmp_path):
    big = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(big).save(place / "a.png")
    ds = ImageDataset(place, 256, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(ds.images[0], big.transpose(2, 0, 1))


def test_a_damaged_exif_block_does_not_cost_the_picture(place, tmp_path):
    Image.fromarray(ramp()).save(place / "a.jpg", dpi=(72, 72), exif=b"Exif\0\0garbage!")
    with pytest.raises(SyntaxError):  # Pillow by itself
        Image.open(place / "a.jpg").getexif()
    assert len(load(place, tmp_path)) == 1


def test_a_folder_that_disappears_leaves_no_cache(place, tmp_path, monkeypatch):
    for name in "abc":
        Image.fromarray(ramp()).save(place / f"{name}.png")
    decode = folder.decode

    def then_the_drive_is_gone(path, size, fit):
        if path.name == "b.png" and place.exists():
            place.rename(tmp_path / "unplugged")
        return decode(path, size, fit)

    monkeypatch.setattr(folder, "decode", then_the_drive_is_gone)
    with pytest.raises(OSError, match="is gone: is its drive still connected"):
        load(place, tmp_path)
    (tmp_path / "unplugged").rename(place)
    monkeypatch.undo()
    assert len(load(place, tmp_path)) == 3


def test_drives_that_number_no_files_have_folders_too(place, tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        (place / name).mkdir()
        Image.fromarray(ramp()).save(place / name / "a.png")
    stat = os.stat
    zero = lambda *a, **k: os.stat_result((s := stat(*a, **k))[:1] + (0, 0) + s[3:])  # noqa: E731
    monkeypatch.setattr(folder.os, "stat", zero)
    names, _ = folder._listing(place)
    assert names == [("cat", "a.png"), ("dog", "a.png")]
