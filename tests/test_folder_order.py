"""The first n pictures of a folder hold every class; shuffles do not know how it is kept."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_helpers.data import ImageDataset

SIZES = {"a": 30, "b": 10, "c": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A class-sorted folder; the blue of a picture is its number in the order of names."""
    folder, number = tmp_path_factory.mktemp("p"), 0
    for name, size in SIZES.items():
        (folder / "train" / name).mkdir(parents=True)
        for k in range(size):
            Image.new("RGB", (8, 8), (0, 0, number)).save(folder / "train" / name / f"{k:02}.png")
            number += 1
    (folder / "test" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "test" / "a" / "1.png")
    return folder


@pytest.fixture
def ds(place, tmp_path):
    return ImageDataset(place, 8, cache_dir=tmp_path / "cache")


def test_a_limit_keeps_each_share(place, tmp_path):
    few = ImageDataset(place, 8, cache_dir=tmp_path / "cache", limit=12)
    assert np.bincount(few.labels).tolist() == [6, 2, 4]
    assert isinstance(few.images, np.memmap)


def test_the_first_pictures_hold_every_class_with_the_right_label(ds):
    x, y = next(ds.batches(12, seed=0, shuffle=False))
    assert torch.bincount(y).tolist() == [6, 2, 4]
    assert y.tolist() == ds.labels[:12].tolist() == [ds[i][1] for i in range(12)]
    numbers = ds.images[:, 2, 0, 0]  # the blue of each
    assert sorted(numbers) == list(range(60))
    assert np.array_equal(ds.labels, np.repeat([0, 1, 2], list(SIZES.values()))[numbers])


def test_broken_files_leave_no_hole_in_the_order(tmp_path):
    for k in range(20):
        for name in "ab":
            path = tmp_path / "p" / "train" / name / f"{k:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == "a" and k < 10:
                path.touch()
            else:
                Image.new("RGB", (8, 8), (0, 0, k)).save(path)
    (tmp_path / "p" / "test" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "p" / "test" / "a" / "1.png")
    ds = ImageDataset(tmp_path / "p", 8, cache_dir=tmp_path / "cache")
    assert np.bincount(ds.labels[:15]).tolist() == [5, 10]
    assert ds.images[ds.labels == 0, 2, 0, 0].tolist() == list(range(10, 20))
    assert [path.suffix for path in (tmp_path / "cache").glob("*.part")] == []
