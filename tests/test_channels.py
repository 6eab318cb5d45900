"""Grey and colour: `channels` on every source, and one channel through every part."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.data.decode import to_grey
from ddpm_helpers.display import live, plots
from ddpm_helpers.evaluation import compare, load_classifier
from ddpm_helpers.evaluation.inception import as_dataset
from ddpm_helpers.pretrained.weights import description
from ddpm_helpers.training import TrainingPipeline, build_diffusion, build_model


def test_greyscale_is_pillows_luma():
    colours = np.random.default_rng(0).integers(0, 256, (7, 3, 16, 9), dtype=np.uint8)
    grey = to_grey(colours)
    assert grey.shape == (7, 1, 16, 9)
    for image, found in zip(colours, grey, strict=True):
        expected = Image.fromarray(image.transpose(1, 2, 0)).convert("L")
        np.testing.assert_array_equal(found[0], np.asarray(expected))
    red, green, blue = to_grey(np.eye(3, dtype=np.uint8)[..., None, None] * 255).ravel()
    assert (red, green, blue) == (76, 150, 29)  # 255 * (0.299, 0.587, 0.114)


def test_a_folder_in_grey(tmp_path):
    for label, level in enumerate((0, 1, 40, 255)):
        (tmp_path / "shades" / str(label)).mkdir(parents=True)
        Image.new("L", (20, 20), level).save(tmp_path / "shades" / str(label) / "0.png")
    ds = ImageDataset(tmp_path / "shades", 16, cache_dir=tmp_path / "cache", channels=1)
    assert ds.channels == 1 and ds.images.shape == (4, 1, 16, 16)
    assert (ds.images == np.uint8([0, 1, 40, 255])[:, None, None, None]).all()
    x, y = ds[2]
    assert x.shape == (1, 16, 16) and x.dtype == torch.float32 and y == 2
    assert float(x.unique()) == pytest.approx(40 / 127.5 - 1)
    assert repr(ds).count("4 grey images of 16×16")


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
    for name in ("samples_epoch_0001.png", "samples_epoch_0002.png"):
        shown = np.asarray(Image.open(run / name).convert("RGB"))
        assert is_grey(shown) and shown.shape == (35, 171, 3), name  # two rows of ten
    assert TrainConfig.load(run / "config.toml") == GREY
    assert description(run)["model"]["channels"] == 1


def test_grey_images_are_described_as_a_screen_shows_them():
    grey = torch.linspace(-1, 1, 6 * 32 * 32).reshape(6, 1, 32, 32)
    classifier = load_classifier()
    torch.testing.assert_close(
        classifier.features(grey), classifier.features(grey.repeat(1, 3, 1, 1))
    )
    same = compare(grey, grey, torch.zeros(6, dtype=torch.int64))
    assert same.frechet == pytest.approx(0, abs=1e-4) and same.precision == same.recall == 1
    given = grey, ((grey + 1) * 127.5).round().to(torch.uint8)
    scores = [as_dataset(x)[2] for x in given]
    assert scores[0].shape == (3, 32, 32) and torch.equal(*scores)


@pytest.mark.filterwarnings("error")
def test_grey_images_are_shown_in_grey(grey):
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
