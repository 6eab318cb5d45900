"""Grey and colour: `channels` on every source, against Pillow and worked by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_helpers import cli
from ddpm_helpers.data import ImageDataset, cache
from ddpm_helpers.data.cartoons import draw
from ddpm_helpers.data.channels import to_channels


def test_grey_is_pillows_luma():
    colours = np.random.default_rng(0).integers(0, 256, (7, 3, 16, 9), dtype=np.uint8)
    grey = to_channels(colours, 1)
    assert grey.shape == (7, 1, 16, 9)
    for picture, found in zip(colours, grey, strict=True):
        expected = Image.fromarray(picture.transpose(1, 2, 0)).convert("L")
        np.testing.assert_array_equal(found[0], np.asarray(expected))
    red, green, blue = to_channels(np.eye(3, dtype=np.uint8)[..., None, None] * 255, 1).ravel()
    assert (red, green, blue) == (76, 150, 29)  # 255 * (0.299, 0.587, 0.114)


def test_grey_to_colour_and_back_changes_nothing():
    grey = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    colour = to_channels(grey, 3)
    assert (colour == grey).all() and colour.shape == (1, 3, 16, 16)
    np.testing.assert_array_equal(to_channels(colour, 1), grey)


@pytest.fixture
def shades(tmp_path):
    """Two classes of grey files, and what they hold."""
    values = {"dark": [0, 1, 40], "light": [200, 254, 255]}
    for name, levels in values.items():
        (tmp_path / "shades" / name).mkdir(parents=True)
        for level in levels:
            Image.new("L", (20, 20), level).save(tmp_path / "shades" / name / f"{level}.png")
    return tmp_path / "shades"


def test_a_folder_in_grey(shades, tmp_path):
    ds = ImageDataset(shades, 16, cache_dir=tmp_path / "cache", channels=1)
    assert ds.channels == 1 and ds.images.shape == (6, 1, 16, 16)
    found = {
        (int(x.min()), int(x.max()), int(y)) for x, y in zip(ds.images, ds.labels, strict=True)
    }
    dark, light = (
        {(v, v, k) for v in levels} for k, levels in enumerate([(0, 1, 40), (200, 254, 255)])
    )
    assert found == dark | light
    x, y = ds[0]
    assert x.shape == (1, 16, 16) and x.dtype == torch.float32
    assert float(x.unique()) == pytest.approx(int(ds.images[0, 0, 0, 0]) / 127.5 - 1)
    assert repr(ds).count("6 grey pictures of 16×16")


def test_batches_of_one_channel(shades, tmp_path, monkeypatch):
    ds = ImageDataset(shades, 16, cache_dir=tmp_path / "cache", channels=1)
    batches = list(ds.batches(4, seed=0))
    assert [x.shape for x, _ in batches] == [(4, 1, 16, 16), (2, 1, 16, 16)]
    monkeypatch.setattr("ddpm_helpers.data.dataset._has_room", lambda device, needed: True)
    for (x, y), (there, labels) in zip(batches, ds.batches(4, seed=0), strict=True):
        assert torch.equal(x, there) and torch.equal(y, labels)


def test_cartoons_in_grey(tmp_path):
    ds = ImageDataset("cartoons", 32, cache_dir=tmp_path, channels=1, limit=20)
    for picture, found in zip(draw("train", 20)[0], ds.images, strict=True):
        expected = np.asarray(Image.fromarray(picture.transpose(1, 2, 0)).convert("L"))
        np.testing.assert_array_equal(found[0], expected)


def test_grey_and_colour_have_caches_of_their_own(tmp_path):
    options = {"cache_dir": tmp_path, "limit": 10}
    for channels in (1, 3, None, 1):
        ds = ImageDataset("cartoons", 16, channels=channels, **options)
        assert ds.channels == len(ds.images[0]) == (channels or 3)
    assert len(list(tmp_path.glob("cartoons-16-*.npy"))) == 2


def test_a_cache_from_before_there_was_grey_stays_valid(tmp_path):
    """The name of a cache in colour is that of a key without channels, as they were written."""
    colour = cache.Source("test", {"kind": "test"}, ("a",), lambda size: iter(()))
    images, manifest, key = cache.paths(colour, 4, tmp_path)
    assert set(key) == {"identity", "size", "filter", "format"}
    assert images.name == "test-4-5122aaab4efbd943.npy"
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    cache.load(
        cache.Source(
            "test", {"kind": "test"}, ("a",), lambda size: iter([(pixels, np.zeros(1, int))])
        ),
        4,
        tmp_path,
    )
    assert "channels" not in json.loads(manifest.read_text())["key"]
    np.testing.assert_array_equal(cache.open_cache(colour, 4, tmp_path).images, pixels)


@pytest.mark.parametrize("channels", [0, 2, 4, "1", 1.5])
def test_other_channels_are_one_clear_line(channels, tmp_path):
    with pytest.raises(
        ValueError, match=r"^channels is .*; it must be 1 \(grey\) or 3 \(colour\)$"
    ):
        ImageDataset("cartoons", 16, cache_dir=tmp_path, channels=channels)


def test_the_command_line_prepares_grey_pictures(shades, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    assert cli.main(["data", str(shades), "--image-size", "16", "--channels", "1"]) == 0
    assert "6 grey pictures of 16×16" in capsys.readouterr().out
    assert cli.main(["data", "list", "--channels", "1"]) == 2
    assert "--channels means nothing to `data list`" in capsys.readouterr().err
