"""Which images are compared: each class's share, names of classes, grey, tiny splits."""

import json
import types

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_helpers import DiffusionUtils, ImageDataset
from ddpm_helpers.cli import main
from ddpm_helpers.data import cartoons
from ddpm_helpers.evaluation import evaluate, take
from ddpm_helpers.evaluation.sets import class_numbers_of, rows_like
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import save_weights

D = DiffusionUtils(5, prediction="x_0")


def write(place, label, n, first=0):
    """n different pictures: cartoons of one class."""
    place.mkdir(parents=True)
    images, labels = cartoons.draw("test", 20 * (first + n))
    found = images[labels == label][first : first + n].transpose(0, 2, 3, 1)
    for i, pixels in enumerate(found):
        Image.fromarray(pixels).save(place / f"{i:03}.png")


@pytest.fixture
def uneven(tmp_path):
    """Mostly cats in train, mostly dogs in test."""
    for split, counts, first in (("train", (60, 20), 0), ("test", (20, 60), 60)):
        for k, name in enumerate(("cat", "dog")):
            write(tmp_path / "pets" / split / name, 3 + 2 * k, counts[k], first)
    return tmp_path / "pets"


class Grey(torch.nn.Module):
    """A network that answers with grey pictures, and notes the classes that it is asked for."""

    image_shape, num_classes, classes = (3, 32, 32), None, ()

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x_t, t, y=None):
        if y is not None:
            self.asked += y.tolist()
        return x_t * 0


def test_a_taken_set_keeps_each_classs_share_and_its_labels(uneven):
    ds = ImageDataset(uneven, 32, split="test")
    x, y = take(ds, 20)
    assert x.shape == (20, 3, 32, 32) and y.bincount().tolist() == [5, 15]
    cartoons_y = take(ImageDataset("cartoons", 32, split="test"), 40)[1]
    assert cartoons_y.bincount().tolist() == [4] * 10
    x, y = take(ds, len(ds))
    for i in (0, 7, 79):
        picture, label = ds[i]
        assert torch.equal(x[i], picture) and y[i] == label


def test_random_rows_have_the_wanted_classes_and_no_image_twice(uneven):
    ds, y = ImageDataset(uneven, 32), torch.tensor([1, 0, 1, 1])
    rng = np.random.default_rng(0)
    draws = np.stack([rows_like(ds, y, rng) for _ in range(5)])
    assert (ds.labels[draws] == y.numpy()).all() and len(np.unique(draws)) > 8
    assert all(len(set(rows)) == 4 for rows in draws.tolist())
    with pytest.raises(ValueError, match="dog has 20 images .* 21 "):
        rows_like(ds, torch.ones(21, dtype=torch.int64))


def test_labels_are_matched_by_name():
    ds = types.SimpleNamespace(classes=("cat", "dog"))
    net = types.SimpleNamespace(num_classes=3, classes=("dog", "cow", "cat"))
    assert class_numbers_of(net, ds, torch.tensor([0, 1, 0])).tolist() == [2, 0, 2]
    net.classes = ()
    assert class_numbers_of(net, ds, torch.tensor([0, 1])).tolist() == [0, 1]
    net.num_classes, net.classes = 2, ("cat", "cow")
    with pytest.raises(ValueError, match="'dog'.* cat, cow"):
        class_numbers_of(net, ds, torch.tensor([0]))
    ds.classes, net.classes = ("renamed",), ("album",)
    assert class_numbers_of(net, ds, torch.tensor([0])).tolist() == [0]


def test_a_network_is_asked_for_classes_by_its_own_numbers(uneven, capsys):
    splits = [ImageDataset(uneven, 32, split=s) for s in ("train", "test")]
    net = Grey()
    net.num_classes, net.classes = 3, ("dog", "cow", "cat")
    evaluate(D, net, *splits, n=8, steps=1)
    assert set(net.asked) <= {0, 2}
    said = capsys.readouterr().out
    assert "test, 8 images: cat 2, dog 6\ntrain, 8 images: cat 2, dog 6\n" in said


def test_without_classes_the_floor_has_the_shares_of_both_splits(uneven):
    splits = [ImageDataset(uneven, 32, split=s) for s in ("train", "test")]
    numbers = evaluate(D, Grey(), *splits, n=20, steps=1)
    assert numbers["classes"] == {"test": {"cat": 5, "dog": 15}, "train": {"cat": 15, "dog": 5}}
    assert numbers["samples"]["accuracy"] is None  # the classifier of photographs has no "cat"


def test_the_commands_measure_and_draw_a_network_of_one_channel(uneven, tmp_path):
    w = save_weights(tmp_path / "w.safetensors", DiffusionNet(32, channels=1, width=8), D)
    words, out = ["--weights", str(w), "--n", "8", "--steps", "2"], tmp_path / "numbers.json"
    assert main(["evaluate", *words, "--data", str(uneven), "--out", str(out)]) == 0
    numbers = json.loads(out.read_text())
    assert numbers["samples"]["n"] == 8 and numbers["floor"]["mean"]["frechet"] > 0
    assert main(["sample", *words, "--out-dir", str(tmp_path / "drawn")]) == 0
    drawn = [np.asarray(Image.open(file)) for file in (tmp_path / "drawn").iterdir()]
    assert len(drawn) == 8 and all((x == x[..., :1]).all() for x in drawn)


def test_a_tiny_test_split_gets_its_loss_and_one_line(tmp_path, capsys):
    write(tmp_path / "album", 8, 20)
    w = save_weights(tmp_path / "w.safetensors", DiffusionNet(32, width=8), D)
    out = tmp_path / "numbers.json"
    words = ["evaluate", "--weights", str(w), "--data", str(tmp_path / "album"), "--n", "10"]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "distances need at least 50" in said and "noise floor" not in said
    assert set(json.loads(out.read_text())) == {"loss", "loss_n"}
