"""The built-in cartoons: the same every time, balanced, shuffled, ten distinct classes."""

import time

import numpy as np
import pytest

from ddpm_helpers.data import cartoons
from ddpm_helpers.data.cartoon_shapes import Scene


@pytest.fixture(scope="module")
def train():
    return cartoons.draw("train", 1500)


@pytest.fixture(scope="module")
def test():
    return cartoons.draw("test", 1000)


def test_shapes_types_and_names(train):
    images, labels = train
    assert images.shape == (1500, 3, 32, 32) and images.dtype == np.uint8
    assert labels.shape == (1500,) and labels.dtype == np.int64
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert cartoons.CLASSES == tuple(names.split())


@pytest.mark.parametrize("n", [1, 499, 500, 501])
def test_a_picture_does_not_depend_on_how_many_are_drawn(train, n):
    images, labels = cartoons.draw("train", n)
    assert np.array_equal(images, train[0][:n]) and np.array_equal(labels, train[1][:n])


def test_an_interrupted_drawing_leaves_out_the_other_blocks(monkeypatch):
    drawn = []

    def slow(split, block):
        drawn.append(block)
        time.sleep(0.05)
        return np.zeros((500, 1), np.uint8), np.zeros(500, np.int64)

    monkeypatch.setattr(cartoons, "_draw_block", slow)
    blocks = cartoons._blocks("train", 50_000)
    next(blocks)
    blocks.close()
    assert len(drawn) < 100


def test_no_picture_comes_twice(train, test):
    both = np.concatenate([train[0], test[0]])
    assert len({picture.tobytes() for picture in both}) == len(both)


def test_classes_are_balanced_and_shuffled(train, test):
    for _, labels in (train, test):
        assert np.ptp(np.bincount(labels, minlength=10)) == 0
        runs = np.count_nonzero(np.diff(labels)) + 1
        assert runs > 0.85 * len(labels)  # sorted labels would make 10 runs a block
    assert not np.array_equal(train[1][:500], train[1][500:1000])


def test_pictures_use_the_whole_range(train):
    images = train[0]
    assert images.min() < 30 and images.max() > 240
    assert (images.reshape(len(images), -1).std(1) > 25).all()  # no flat picture


def test_a_linear_classifier_tells_the_classes_apart(train, test):
    def flat(images):
        x = images[:, :, ::2, ::2].reshape(len(images), -1) / 127.5 - 1
        return np.hstack([x, np.ones((len(x), 1))])

    x, targets = flat(train[0]), np.eye(10)[train[1]]
    weights = np.linalg.solve(x.T @ x + 30 * np.eye(x.shape[1]), x.T @ targets)
    accuracy = (np.argmax(flat(test[0]) @ weights, 1) == test[1]).mean()
    assert accuracy > 0.9


def test_pictures_of_a_class_differ_from_each_other(train):
    images, labels = train
    for label in range(10):
        pictures = images[labels == label].astype(float)
        assert pictures.std(0).mean() > 15  # of 255


@pytest.mark.parametrize("n", [0, 10_001])
def test_an_impossible_number_is_refused(n):
    with pytest.raises(ValueError, match=f"in 1..10000, got {n}$"):
        cartoons.draw("test", n)


# ---- the shapes, against areas known from geometry ------------------------------------------


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        (lambda s: s.circle(0.1, -0.05, 0.5), np.pi * 0.25),
        (lambda s: s.ellipse(0.0, 0.1, 0.7, 0.4, 0.6), np.pi * 0.28),
        (lambda s: s.box(0.0, 0.0, 0.6, 0.3), 0.72),
        (lambda s: s.box(0.0, 0.0, 0.6, 0.3, rounding=0.2), 0.72 - (4 - np.pi) * 0.04),
        (lambda s: s.limb(-0.4, -0.3, 0.4, 0.3, 0.2), 0.4 + np.pi * 0.04),
        (lambda s: s.polygon((-0.6, 0.5), (0.0, -0.7), (0.6, 0.5)), 0.72),
    ],
)
def test_a_shape_covers_its_area(shape, area):
    scene = Scene(np.random.default_rng(0), 1)
    scene.draw((1.0, 1.0, 1.0), shape(scene), outline=0)
    assert scene.pixels.mean() * 4 == pytest.approx(area, rel=0.03)


def test_pose_moves_scales_and_mirrors():
    scene = Scene(np.random.default_rng(0), 2)
    scene.pose(dx=0.25, scale=0.5, flip=np.array([False, True]).reshape(2, 1, 1))
    scene.draw((1.0, 1.0, 1.0), scene.circle(0.5, 0.0, 0.5), outline=0)
    xs = (np.arange(32) + 0.5) / 16 - 1
    weight = scene.pixels[:, 0].sum(1)  # (2, 32)
    centre = (weight * xs).sum(1) / weight.sum(1)
    assert centre == pytest.approx([0.5, 0.0], abs=0.01)  # 0.25 + 0.5 * 0.5, and mirrored
    assert scene.pixels[0].mean() * 4 == pytest.approx(np.pi * 0.0625, rel=0.05)
