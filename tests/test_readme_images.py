"""The command that makes the pictures of README.md."""

import io

import numpy as np
import pytest
from PIL import Image

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import save_weights
from tools import readme_images


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    model = DiffusionNet(32, width=8, num_classes=10)
    return save_weights(path, model, DiffusionUtils(20, prediction="v"))


def test_pictures_without_weights_are_small_pngs_and_the_same_every_time():
    made = readme_images.draw_without_weights()
    assert set(made) == {"alpha_bar.png", "cartoons.png", "noising.png"}
    assert all(opened(content).format == "PNG" for content in made.values())
    assert all(len(content) < 300_000 for content in made.values())
    assert made == readme_images.draw_without_weights()


def test_pictures_with_weights(weights):
    made = readme_images.draw_with_weights(str(weights), steps=3)
    film = opened(made.pop("denoising.gif"))
    assert film.format == "GIF" and film.n_frames >= 3 and film.info["loop"] == 0
    assert film.size == (4 * 96 + 12, 96)
    assert {opened(content).format for content in made.values()} == {"PNG"}


def test_photographs_are_drawn_by_class(weights):
    made = readme_images.draw_photographs(str(weights))
    assert opened(made["photographs.png"]).height > 10 * 32


def test_the_animation_keeps_the_colours_of_its_frames():
    frames = [np.full((4, 6, 3), value, np.uint8) for value in (0, 90, 200)]
    film = opened(readme_images.gif(frames))
    for i, frame in enumerate(frames):
        film.seek(i)
        assert np.array_equal(np.asarray(film.convert("RGB")), frame)


def test_the_command_writes_all_pictures_but_the_planes_without_a_browser(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(readme_images.shutil, "which", lambda name: None)
    monkeypatch.setattr(readme_images, "draw_without_weights", lambda: {"a.png": b"1"})
    monkeypatch.setattr(readme_images, "draw_with_weights", lambda name: {"b.png": b"2"})
    monkeypatch.setattr(readme_images, "draw_photographs", lambda name: {"c.png": b"3"})
    readme_images.main([str(tmp_path / "new")])
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["a.png", "b.png", "c.png"]
    assert "no Chromium" in capsys.readouterr().out
