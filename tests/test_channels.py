"""Grey and colour: `channels` on every source, and one channel through every part."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_helpers import cli
from ddpm_helpers.config import TrainConfig
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.data.squares import to_channels
from ddpm_helpers.display import live, plots
from ddpm_helpers.evaluation import compare, load_classifier
from ddpm_helpers.evaluation.inception import Bytes
from ddpm_helpers.pretrained import load_pretrained
from ddpm_helpers.pretrained.weights import description
from ddpm_helpers.training import TrainingPipeline, build_diffusion, build_model


def test_greyscale_is_pillows_luma():
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
    assert repr(ds).count("6 grey images of 16×16")


GREY = TrainConfig.preset("ci", image_size=16, channels=1, width=8, timesteps=20, epochs=2,
                          batch_size=8, limit=16, warmup_steps=1)  # fmt: skip


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """The grey cartoons, and the folder of a run that was trained on them."""
    place = tmp_path_factory.mktemp("grey")
    ds = ImageDataset("cartoons", 16, cache_dir=place / "cache", channels=1, limit=16)
    pipeline = TrainingPipeline(
        build_model(GREY, 10), build_diffusion(GREY), ds, GREY, place / "run"
    )
    pipeline.fit()
    return ds, pipeline, place


def is_grey(pixels):
    return (pixels == pixels[..., :1]).all() and len(np.unique(pixels)) > 20


def test_one_channel_trains_and_leaves_everything_a_run_leaves(grey):
    _, pipeline, place = grey
    run = place / "run"
    assert pipeline.model.image_shape == (1, 16, 16)
    assert pipeline.samples(7).shape == (7, 1, 16, 16)
    for name in ("samples_epoch_0001.png", "samples_epoch_0002.png", "learning.gif"):
        shown = np.asarray(Image.open(run / name).convert("RGB"))
        assert is_grey(shown) and shown.shape == (35, 171, 3), name  # two rows of ten
    assert TrainConfig.load(run / "config.toml") == GREY
    assert description(run)["model"]["channels"] == 1


def test_grey_from_end_to_end_on_the_command_line(shades, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    for split in ("train", "test"):
        shutil.copytree(shades, data / split)
    words = "--preset ci --image-size 16 --width 8 --timesteps 10 --batch-size 3 --warmup-steps 1"
    run = ["--out", str(tmp_path / "run")]
    assert cli.main(["train", "--data", str(data), "--channels", "1", *words.split(), *run]) == 0
    again = ["--config", str(tmp_path / "run" / "config.toml"), "--epochs", "2", "--resume"]
    assert cli.main(["train", "--data", str(data), *again, *run]) == 0
    assert load_pretrained(tmp_path / "run")[0].image_shape == (1, 16, 16)
    png = tmp_path / "x.png"
    sample = ["sample", "--y", "light", "--n", "3", "--steps", "2", "--out", str(png)]
    assert cli.main([*sample, "--weights", str(tmp_path / "run")]) == 0
    assert is_grey(np.asarray(Image.open(png)))
    numbers = tmp_path / "numbers.json"
    measure = ["evaluate", "--weights", str(tmp_path / "run"), "--n", "6", "--steps", "2"]
    assert cli.main([*measure, "--out", str(numbers)]) == 0
    assert json.loads(numbers.read_text())["loss_n"] == 6


def test_grey_pictures_are_described_as_a_screen_shows_them():
    grey = torch.linspace(-1, 1, 6 * 32 * 32).reshape(6, 1, 32, 32)
    classifier = load_classifier()
    torch.testing.assert_close(
        classifier.features(grey), classifier.features(grey.repeat(1, 3, 1, 1))
    )
    same = compare(grey, grey, torch.zeros(6, dtype=torch.int64))
    assert same.frechet == pytest.approx(0, abs=1e-4) and same.precision == same.recall == 1
    scores = [Bytes(x)[2] for x in (grey, ((grey + 1) * 127.5).round().to(torch.uint8))]
    assert scores[0].shape == (3, 32, 32) and torch.equal(*scores)


@pytest.mark.filterwarnings("error")
def test_grey_pictures_are_shown_in_grey(grey):
    ds, pipeline, _ = grey
    d, x = pipeline.diffusion, ds[0][0]  # (1, 16, 16)
    walk = list(d.sample_steps(pipeline.ema_model, 2, y=0, steps=3, sampler="ddim"))
    sheets = {
        "one": plots.show_images(x),
        "bytes": plots.show_images(ds.images[0]),
        "several": plots.show_images(ds.images[:3]),
        "classes": plots.class_grid(ds, 2),
        "noising": plots.noising_strip(x, d, (0, 5, 20)),
        "path": plots.denoising_path(walk),
        "live": live.draw(pipeline),
    }
    for name, figure in sheets.items():
        (image,) = [image for ax in figure.axes for image in ax.images]
        assert is_grey(np.asarray(image.get_array())), name
    shown = np.asarray(sheets["one"].axes[0].images[0].get_array())
    assert (shown[::6, ::6] == ds.images[0, 0][..., None]).all()
