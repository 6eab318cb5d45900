"""What can be known at timestep t, as it is shown."""

import io

import numpy as np
import torch
from PIL import Image

from ddpm_helpers.diffusion import DiffusionUtils, IdealDenoiser
from ddpm_helpers.display.canvas import is_small_chart
from ddpm_helpers.display.known import (
    PlaneSlider,
    PlaneView,
    PossibleSlider,
    likeliest,
    plane_panels,
    possible_rows,
)

POINTS = torch.tensor([[-0.8, 0.6], [0.9, -0.2], [0.1, -0.85]])
DIFFUSION = DiffusionUtils(100, "cosine")


def plane() -> IdealDenoiser:
    return IdealDenoiser(DIFFUSION, POINTS.view(3, 2, 1, 1))


def squares(n: int = 5) -> torch.Tensor:
    """n images of one grey each, uint8, (n, 3, 8, 8)."""
    greys = torch.linspace(0, 255, n).to(torch.uint8)
    return greys.view(n, 1, 1, 1).repeat(1, 3, 8, 8)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_the_star_is_the_weighted_mean_and_areas_are_the_weights():
    ax = plane_panels(plane(), POINTS[:1], [0]).axes[0]
    view = PlaneView(ax, plane())
    x_t, t, bar = torch.tensor([0.2, 0.1]), 60, DIFFUSION.alpha_bar[60]
    view.show(x_t, t)
    weights = torch.softmax(
        -(x_t - bar.sqrt() * POINTS.double()).square().sum(1) / (2 * (1 - bar)), 0
    )  # (3,)
    star = np.concatenate(view.moving[3].get_data())
    np.testing.assert_allclose(star, weights @ POINTS.double(), rtol=1e-6)
    areas = view.moving[1].get_sizes()
    np.testing.assert_allclose(areas / areas.sum(), weights, rtol=1e-6)
    assert f"{(-(weights * weights.log()).sum()).exp():.1f} of 3" in view.moving[5].get_text()


def test_moving_a_slider_of_the_plane_changes_the_image():
    slider = PlaneSlider(plane(), t=50)
    seen = [slider.image.value]
    for one, value in zip(slider.sliders, (90, -1.0, 1.2), strict=True):
        one.value = value
        seen.append(slider.image.value)
    assert len(set(seen)) == 4


def test_the_likeliest_images_come_first_with_their_weights():
    ideal, t = IdealDenoiser(DIFFUSION, squares()), torch.tensor([1, 100])
    x_t = torch.zeros(2, 3, 8, 8)
    rows, weights, left = likeliest(ideal, x_t, t, n=3)
    assert rows.shape == (2, 5, 3, 8, 8)
    assert torch.equal(rows[:, 0], x_t)
    torch.testing.assert_close(rows[:, 1], ideal.mean(x_t, t))
    torch.testing.assert_close(rows[0, 2], squares()[2].float() / 127.5 - 1)  # the grey near 0
    assert weights[0, 0] > 0.999 and left[0] < 1.01
    torch.testing.assert_close(left[1].item(), 5.0, rtol=1e-3, atol=0)  # at T all are possible
    assert likeliest(ideal, x_t, t)[0].shape[1] == 2 + 5  # not more than there are


def test_rows_and_slider_show_the_same_images():
    ideal = IdealDenoiser(DIFFUSION, squares())
    x_0 = squares()[1:2].float() / 127.5 - 1
    figure = possible_rows(ideal, x_0, (90, 10))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any("t = 90" in text for text in texts) and "100.0%" in texts
    slider = PossibleSlider(ideal, x_0, every=10)
    assert slider.caption.value.startswith("t = 50: ")
    slider.slider.value = 1
    assert slider.caption.value.startswith("t = 10: 1.0 images")
    mean = pixels(slider.image.value)[4:92, 104:192]  # inside of the second tile
    np.testing.assert_allclose(mean, squares()[1, 0, 0, 0].item(), atol=1)


def test_a_plane_whose_lines_are_tensors_is_a_small_chart():
    assert is_small_chart(plane_panels(plane(), POINTS, [0, 50, 100]))
