"""The clinic: each mistake, made on purpose, is told from the noise floor."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_helpers.cli import main
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.evaluation import (
    clinic,
    clinic_table,
    compare,
    features_and_classes,
    load_classifier,
    noise_floor,
    take,
)
from ddpm_helpers.evaluation.clinic import SPOILS, halve, jpeg
from ddpm_helpers.evaluation.comparison import features_of_rows
from ddpm_helpers.evaluation.sets import rows_like


@pytest.fixture(scope="module")
def sets():
    return [ImageDataset("cartoons", 32, split=name, limit=1000) for name in ("train", "test")]


def test_the_clinic_knows_harm_from_noise(sets):
    found = clinic(*sets, n=100, pairs=3)
    floor, by_cause = found[0], {one.cause: one for one in found}
    assert floor.error == (0, 0) and len(floor.distances) == 3
    harmful = ["range [0, 1] instead of [-1, 1]", "channels in the order BGR",
               "classes by chance in one set"]  # fmt: skip
    assert all(by_cause[name].error[0] > 3 * floor.std for name in harmful)
    harmless = ["saved as JPEG, quality 95", "bytes cut off instead of rounded"]
    assert all(abs(by_cause[name].error[0]) < floor.mean for name in harmless)
    qualities = [by_cause[f"saved as JPEG, quality {q}"].mean for q in (95, 75, 50)]
    assert qualities == sorted(qualities)
    few = by_cause["only 25 images for 64 features"]
    assert few.sizes == (25, 25) and few.mean > 2 * floor.mean
    assert by_cause["half of the images in both sets"].mean < floor.mean
    assert by_cause["unequal sizes"].sizes == (100, 25)
    antialias, _, nearest = (one for one in found if one.cause.startswith("half size"))
    assert nearest.mean > 2 * antialias.mean
    text = clinic_table(found)
    assert all(one.cause in text for one in found) and f"{floor.mean:.3f} ± {floor.std:.3f}" in text


def test_the_floor_is_that_of_plain_comparisons(sets):
    train, test = sets
    y = take(test, 60)[1]
    floor = noise_floor(train, test, y, pairs=4, seed=3)
    rng = np.random.default_rng(3)
    rows = {ds.split: [rows_like(ds, y, rng) for _ in range(4)] for ds in (test, train)}

    def images(ds, k):
        return torch.stack([ds[int(i)][0] for i in rows[ds.split][k]])

    pairs = [compare(images(test, k), images(train, k), y) for k in range(4)]
    for name in ("frechet", "kernel", "precision", "recall", "accuracy"):
        values = [getattr(pair, name) for pair in pairs]
        assert getattr(floor.mean, name) == pytest.approx(np.mean(values), rel=1e-3, abs=1e-3)
        assert getattr(floor.std, name) == pytest.approx(np.std(values, ddof=1), rel=1e-2, abs=1e-3)
    assert (floor.pairs, floor.mean.n) == (4, 60)
    fixed = noise_floor(train, test, y, reference=take(test, 60)[0], pairs=2)
    other = torch.stack([train[int(i)][0] for i in rows_like(train, y, np.random.default_rng(0))])
    one = compare(take(test, 60)[0], other, y).frechet
    two = 2 * fixed.mean.frechet - one  # the other of the two pairs
    assert fixed.std.frechet == pytest.approx(abs(one - two) / 2**0.5, rel=1e-2)


def test_every_mistake_is_what_it_says():
    levels = torch.arange(256.0).reshape(1, 1, 16, 16) / 127.5 - 1
    assert torch.equal(SPOILS["range [0, 1] instead of [-1, 1]"](levels), (levels + 1) / 2)
    lost = (levels - SPOILS["bytes cut off instead of rounded"](levels)) * 127.5
    assert 0 <= lost.min() and lost.max() < 1.01 and 0.4 < lost.mean() < 0.6
    assert (jpeg(levels, 95) - levels).abs().max() < (jpeg(levels, 50) - levels).abs().max() < 0.5
    three = torch.stack([levels[0, 0], levels[0, 0].flip(0), levels[0, 0].T])[None]
    assert (jpeg(three.expand(2, -1, -1, -1), 95) - three).abs().mean() < 0.1
    checks = torch.tensor([1.0, -1.0]).repeat(8)[None, None, :, None].expand(1, 1, 16, 16)
    assert halve(checks, "antialias").abs().mean() < 0.3 and (halve(checks, "nearest") == 1).all()


@pytest.mark.parametrize("kind", ["classes", "album", "grey"])
def test_the_clinic_works_on_folders(tmp_path, kind):
    rng = np.random.default_rng(0)
    for split, n in (("train", 90), ("test", 60)):
        for name in ("a", "b") if kind == "classes" else ("",):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                shape = (16, 16) if kind == "grey" else (16, 16, 3)
                Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{i:03}.png")
    source, channels = str(tmp_path / "pictures"), 1 if kind == "grey" else 3
    train, test = (ImageDataset(source, 16, split=s, channels=channels) for s in ("train", "test"))
    found = clinic(train, test, pairs=2)
    assert all(np.isfinite(one.distances).all() for one in found)
    causes = " ".join(one.cause for one in found)
    assert ("classes by chance" in causes) == (kind == "classes")
    assert found[0].sizes == (120, 120) if kind == "classes" else (60, 60)


def test_the_command_prints_the_clinic(tmp_path, capsys):
    out = tmp_path / "c.json"
    assert main(["evaluate", "--clinic", "--n", "40", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "noise floor" in printed
    first = json.loads(out.read_text())["findings"][0]
    assert first["sizes"] == [40, 40] and len(first["distances"]) == 5


def test_features_of_a_row_do_not_depend_on_the_other_rows(sets):
    classifier = load_classifier()
    rows = np.array([[5, 1], [1, 7]])
    features, named = features_of_rows(sets[0], rows, classifier)
    x = torch.stack([sets[0][i][0] for i in (5, 1, 1, 7)])
    want, classes = features_and_classes(classifier, x)
    torch.testing.assert_close(features.flatten(0, 1), want, rtol=1e-4, atol=1e-4)
    assert torch.equal(named.flatten(), classes)
