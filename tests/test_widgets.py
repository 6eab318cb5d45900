"""Every slider is moved, every value of it is drawn, and what it shows follows from the data."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.display.canvas import figure_png
from ddpm_helpers.display.plots import plot_schedules, to_uint8
from ddpm_helpers.display.widgets import FrameSlider, NoisingSlider, ScheduleSlider

T = 40


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    assert plt.get_fignums() == []


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def picture(size=32):
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def noising():
    return NoisingSlider(picture(), DiffusionUtils(T, "linear"), seed=5)


def test_moving_the_slider_changes_the_picture(noising):
    shown = []
    for t in (0, 1, T // 2, T, 0):
        noising.slider.value = t
        shown.append(noising.image.value)
        assert noising.image.value == noising.frame(t)
    assert len(set(shown)) == 4 and shown[0] == shown[-1]
    assert len({noising.frame(t) for t in range(T + 1)}) == T + 1
    grey = NoisingSlider(torch.zeros(1, 8, 8), DiffusionUtils(T), t=3)
    assert grey.slider.value == 3 and grey.image.value == grey.frame(3)


def test_the_picture_is_x_t_in_crisp_squares(noising):
    eps = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    for t in (0, 17, T):
        bar = float(np.prod(1 - noising._diffusion.betas.numpy()[: t + 1]))
        x_t = bar**0.5 * picture()[None] + (1 - bar) ** 0.5 * eps
        frame = pixels(noising.frame(t)).astype(int)
        assert frame.shape == (320, 840, 3)
        box = noising._pixels.axes.get_window_extent()
        assert (round(box.width), round(box.height)) == (256, 256)
        top, left = 320 - round(box.y1), round(box.x0)
        shown = frame[top + 4 : top + 256 : 8, left + 4 : left + 256 : 8]
        assert abs(shown - to_uint8(x_t)[0]).max() <= 1


def test_histogram_and_marker_follow_the_data(noising):
    noising.frame(T)
    heights, edges, _ = noising._bars.get_data()
    assert heights.sum() * (edges[1] - edges[0]) == pytest.approx(1, abs=0.01)
    bar = float(noising._diffusion.alpha_bar[T])
    assert noising._dot.get_xydata()[0] == pytest.approx([T, bar])
    assert noising._t_text.get_text() == f"t = {T} of {T}"
    noising.frame(0)
    assert noising._bars.get_data()[0][edges[:-1] >= 1].sum() == 0  # a clean picture ends at 1


def test_the_noise_is_the_same_every_time(noising):
    again = NoisingSlider(picture()[None], DiffusionUtils(T, "linear"), seed=5)
    other = NoisingSlider(picture(), DiffusionUtils(T, "linear"), seed=6)
    assert again.frame(9) == noising.frame(9) != other.frame(9)


def test_schedule_slider_over_T():
    slider = ScheduleSlider(["linear", "cosine"])
    assert (slider.slider.min, slider.slider.max, slider.slider.description) == (10, 1000, "T")
    before = slider.image.value
    slider.slider.value = 100
    assert slider.image.value != before and slider.image.value == slider.frame(100)
    betas = np.linspace(1e-4, 0.02, 100)
    assert slider._dots[0].get_ydata()[0] == pytest.approx(np.prod(1 - betas))
    for T_ in (10, 11, 1000):
        slider.frame(T_)
        assert len(slider._lines[1].get_xdata()) == T_ + 1
    assert repr(slider) == "ScheduleSlider over T = 10..1000 (moves in JupyterLab)"


def test_frame_slider_shows_its_frames_and_captions():
    frames = [torch.full((2, 3, 8, 8), v) for v in (-1.0, 0.0, 1.0)]
    slider = FrameSlider(frames, ["black", "grey", "white"])
    for i, (level, caption) in enumerate(
        zip((0, 128, 255), ("black", "grey", "white"), strict=True)
    ):
        slider.slider.value = i
        assert slider.image.value == slider.frame(i) and slider.caption.value == caption
        shown = pixels(slider.frame(i))
        assert shown.shape == (96, 2 * 96 + 4, 3) and (shown[:, :96] == level).all()
    assert (slider.play.min, slider.play.max) == (0, 2) == (slider.slider.min, slider.slider.max)
    assert int(slider.image.width) == 196


def test_frame_slider_takes_bytes_of_a_dataset_and_figures():
    figure = plot_schedules({"cosine": DiffusionUtils(T)})
    raw = np.random.default_rng(0).integers(0, 256, (3, 200, 200), np.uint8)
    slider = FrameSlider([raw, figure])
    assert np.array_equal(pixels(slider.frame(0)), raw.transpose(1, 2, 0))
    assert slider.frame(1) == figure_png(figure)
