"""Files that people have: other suffixes, HEIC, archives, truncated JPEGs, 12 to 32 bits."""

import io

import numpy as np
import pytest
from PIL import Image, features

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.data.decode import NotAPicture, decode

SIZE = 8


def load(place, tmp_path, **options):
    return ImageDataset(place, SIZE, cache_dir=tmp_path / "cache", **options)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "p").mkdir()
    return tmp_path / "p"


def smooth(size=64):
    """A picture that JPEG keeps well, another one in every place."""
    corners = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(corners).resize((size, size), Image.Resampling.BICUBIC)


def jpeg(picture, **options):
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90, **options)
    return content.getvalue()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JFIF"])
def test_other_suffixes_of_jpeg(suffix, place, tmp_path):
    (place / f"a{suffix}").write_bytes(jpeg(smooth()))
    assert len(load(place, tmp_path)) == 1


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow is built without AVIF")
def test_avif(place, tmp_path):
    Image.new("RGB", (SIZE, SIZE), (200, 30, 30)).save(place / "a.avif", quality=100)
    assert np.abs(load(place, tmp_path).images[0, :, 4, 4].astype(int) - (200, 30, 30)).max() <= 3


def test_heic_gets_a_line_that_says_how_to_convert(place, tmp_path, capsys):
    (place / "a.HEIC").touch()
    with pytest.raises(ValueError, match=r"1 \.heic\); convert HEIC first.* -format jpg"):
        load(place, tmp_path)
    Image.new("RGB", (SIZE, SIZE)).save(place / "b.png")
    assert len(load(place, tmp_path)) == 1
    assert "ignored: 1 .heic; convert HEIC first" in capsys.readouterr().out


def test_a_file_instead_of_a_folder_gets_advice(place, tmp_path):
    (place / "a.zip").touch()
    with pytest.raises(ValueError, match="a.zip' is a file: give its folder; unpack an archive"):
        load(place / "a.zip", tmp_path)


KINDS = [{}, {"progressive": True}, {"subsampling": 0}]


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("lacking", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read(options, lacking, place, tmp_path):
    whole = jpeg(smooth(), **options)
    assert whole.endswith(b"\xff\xd9")
    for folder, data in (("whole", whole), ("unfinished", whole[:-lacking])):
        (place / folder).mkdir()
        (place / folder / "a.jpg").write_bytes(data)
    with pytest.raises(OSError, match="truncated"):  # Pillow by itself
        Image.open(place / "unfinished" / "a.jpg").load()
    first, second = (load(place / name, tmp_path).images for name in ("whole", "unfinished"))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 4}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_lacks_more_is_refused(options, mode, tmp_path):
    whole, path = jpeg(smooth(48).convert(mode), **options), tmp_path / "a.jpg"
    path.write_bytes(whole)
    pixels, _ = decode(path, 48, "crop")
    refused = 0
    for cut in [*range(3, 40), *range(40, len(whole), 29)]:
        path.write_bytes(whole[:-cut])
        try:  # cut may fall on bits that pad the last byte
            np.testing.assert_array_equal(decode(path, 48, "crop")[0], pixels)
        except NotAPicture:
            refused += 1
    assert refused > 30


def test_a_truncated_jpeg_is_skipped_and_named(place, tmp_path, capsys):
    (place / "a.jpg").write_bytes(jpeg(smooth()))
    (place / "b.jpg").write_bytes(jpeg(smooth())[:-50])
    assert len(load(place, tmp_path)) == 1
    assert "b.jpg: image file is truncated" in capsys.readouterr().out


@pytest.mark.parametrize("top", [200, 4095, 65535])
def test_32_bit_integers_are_scaled(top, place, tmp_path):
    values = np.linspace(0, top, SIZE * SIZE).round().astype(np.int32).reshape(SIZE, SIZE)
    Image.fromarray(values).save(place / "a.tif")
    white = max(top, 255)
    error = load(place, tmp_path).images[0, 0] - values * (255 / white)
    assert np.abs(error).max() <= 0.51


@pytest.mark.parametrize("values", [(0, 3_000_000), (-5, 200)])
def test_32_bit_integers_beyond_16_bits_are_refused(values, place, tmp_path, capsys):
    Image.fromarray(np.resize(np.array(values, np.int32), (SIZE, SIZE))).save(place / "a.tif")
    Image.new("RGB", (SIZE, SIZE)).save(place / "b.png")
    assert len(load(place, tmp_path)) == 1
    assert "a.tif: 32-bit numbers" in capsys.readouterr().out


def test_12_bits_in_16_are_noticed_and_scaled(place, tmp_path, capsys):
    values = np.linspace(0, 4095, SIZE * SIZE).round().astype(np.uint16).reshape(SIZE, SIZE)
    Image.fromarray(values).save(place / "a.tif")
    Image.fromarray(values).save(place / "b.png")
    Image.fromarray(values * 16).save(place / "c.tif")
    images = load(place, tmp_path).images
    assert np.abs(images[:, 0] - values / 4095 * 255).max() <= 1
    assert "p: 2 of 3 files hold 12-bit values in 16 bits" in capsys.readouterr().out
