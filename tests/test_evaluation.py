"""Distances between sets against other formulas, the classifier, and `ddpm evaluate`."""

import json
import types

import numpy as np
import pytest
import torch

from ddpm_helpers.cli import main
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.data.cartoons import CLASSES
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.evaluation import (
    compare,
    draw_samples,
    evaluate,
    frechet_distance,
    loss_per_step,
    take,
)
from ddpm_helpers.evaluation.classifier import SHIPPED, classifier_for
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import save_weights
from tools.train_classifier import accuracy, train_classifier


@pytest.fixture(scope="module")
def sets():
    return [ImageDataset("cartoons", 32, split=split, limit=300) for split in ("train", "test")]


# ---- the classifier ----------------------------------------------------------------------


def test_the_shipped_classifiers_are_small_and_know_their_classes(sets):
    assert sum(path.stat().st_size for path in SHIPPED.values()) < 1_000_000
    classifier = classifier_for(sets[1])
    assert classifier.classes == CLASSES and classifier.accuracy > 0.95
    assert accuracy(classifier, sets[1]) > classifier.accuracy - 0.03
    scores = classifier(torch.zeros(2, 3, 64, 64))  # other sizes are brought to 32
    assert scores.shape == (2, 10)
    photographs = classifier_for(types.SimpleNamespace(source="an/album"))
    assert photographs.classes == CLASSES and 0.7 < photographs.accuracy < 1


@pytest.mark.slow
def test_a_classifier_learns_from_scratch(sets):
    classifier = train_classifier(sets[0], epochs=12, batch_size=50, lr=4e-3)
    assert accuracy(classifier, sets[0]) > 0.5


# ---- comparisons -------------------------------------------------------------------------


def test_comparing_real_with_real_is_the_floor_and_noise_lies_far_above(sets):
    train, test = (next(ds.batches(300, seed=0, shuffle=False)) for ds in sets)
    floor = compare(test[0], train[0], train[1])
    noise = compare(test[0], torch.randn_like(train[0]).clamp(-1, 1), train[1])
    assert floor.n == 300 and floor.accuracy > 0.95 and floor.precision > 0.6
    assert noise.frechet > 10 * floor.frechet and noise.kernel > 10 * abs(floor.kernel)
    assert noise.precision < 0.1 and noise.accuracy < 0.3
    flipped = compare(test[0].flip(-1), torch.tensor(sets[0].images[:300]), train[1])
    assert flipped.frechet < noise.frechet / 3  # uint8 is taken too


def test_loss_per_step_is_the_mean_of_each_pictures_loss(sets):
    d = DiffusionUtils(20, "linear", prediction="x_0")
    loss = loss_per_step(d, lambda x, t: x * 0, sets[1], [1, 20], n=100)
    x_0 = take(sets[1], 100)[0]
    torch.testing.assert_close(loss, x_0.square().mean().expand(2).cpu())


def test_samples_are_the_same_whatever_the_batch():
    d = DiffusionUtils(5, prediction="x_0")
    options = {"shape": (3, 8, 8), "clip": False}
    few, many = (
        list(draw_samples(d, lambda x, t: x / 2, 7, batch_size=b, **options)) for b in (2, 7)
    )
    assert [len(x) for x in few] == [2, 2, 2, 1]
    torch.testing.assert_close(torch.cat(few), *many)


class Copier(torch.nn.Module):
    """Draws training pictures: the exact network of a dataset with one picture a class."""

    image_shape, num_classes = (3, 32, 32), 10

    def __init__(self, ds):
        super().__init__()
        first = [int(np.flatnonzero(np.asarray(ds.labels) == k)[0]) for k in range(10)]
        pictures = torch.stack([ds[i][0] for i in first])
        self.pictures = torch.nn.Parameter(pictures, requires_grad=False)

    def forward(self, x_t, t, y):
        return self.pictures[y]


def test_evaluate_reports_what_a_memorising_network_does(sets, capsys):
    d = DiffusionUtils(20, "linear", prediction="x_0")
    numbers = evaluate(d, Copier(sets[0]), *sets, n=60, steps=4)
    floor = numbers["floor"]
    assert floor["pairs"] == 10 and floor["std"]["frechet"] > 0
    shown = f"{floor['mean']['frechet']:.3f} ± {floor['std']['frechet']:.3f}"
    assert shown in capsys.readouterr().out
    assert numbers["samples"]["n"] == floor["mean"]["n"] == 60
    assert numbers["samples"]["accuracy"] > 0.85  # good pictures of the right class ...
    assert numbers["samples"]["recall"] < floor["mean"]["recall"] - 0.1  # ... but few kinds
    assert len(numbers["loss"]) == 11


def test_weights_that_do_not_say_where_their_images_are_ask_for_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").mkdir()  # another folder of that name
    save_weights("w.safetensors", DiffusionNet(32, width=8), DiffusionUtils(5), {"data": "album"})
    assert main(["evaluate", "--weights", "w.safetensors"]) == 2
    error = capsys.readouterr().err
    assert "--data" in error and error.count("\n") == 1


def test_wrong_arguments_are_named(sets):
    images, d = torch.zeros(4, 3, 32, 32), DiffusionUtils(5, prediction="x_0")

    def half(x, t):
        return x / 2

    calls = [
        (lambda: frechet_distance(torch.full((4, 2), torch.nan), images[0, 0]), "NaN"),
        (lambda: compare(images, torch.zeros(5, 3, 32, 32)), "fake .*4.*5"),
        (lambda: compare(images, images, torch.zeros(5)), "y .* 5"),
        (lambda: list(draw_samples(d, half, 0)), "n .* 0"),
        (lambda: list(draw_samples(d, half, 2, batch_size=0)), "batch_size .* 0"),
        (lambda: take(sets[1], 301), "300.* 301"),
        (lambda: evaluate(d, half, *sets, n=301), "300.* 301"),
        (lambda: evaluate(d, half, *sets, n=9, inception="w.pth"), "10.* 9"),
        (lambda: evaluate(d, half, *sets, n=0), "n .* 0"),
    ]
    for call, words in calls:
        with pytest.raises(ValueError, match=words):
            call()


def test_the_command_measures_the_shipped_weights(tmp_path, capsys):
    out = tmp_path / "new" / "numbers.json"
    assert main(["evaluate", "--n", "20", "--steps", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "noise floor" in printed and "test, 20 images: airplane 2" in printed
    numbers = json.loads(out.read_text())
    assert numbers["samples"]["n"] == numbers["loss_n"] == 20
