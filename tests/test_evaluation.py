"""Distances between sets against other formulas, the classifier, and `ddpm evaluate`."""

import json
import math
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm_helpers.cli import main
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.data.cartoons import CLASSES
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.evaluation import (
    compare,
    draw_samples,
    evaluate,
    frechet_distance,
    kernel_distance,
    load_classifier,
    loss_per_step,
    precision_recall,
    report,
    take,
)
from ddpm_helpers.evaluation.classifier import SHIPPED, classifier_for
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import save_weights
from tools.train_classifier import accuracy, train_classifier


@pytest.fixture(scope="module")
def sets():
    return ImageDataset("cartoons", 32, limit=300), ImageDataset(
        "cartoons", 32, split="test", limit=300
    )


# ---- the classifier ----------------------------------------------------------------------


def test_the_shipped_classifiers_are_small_and_know_their_classes(sets):
    assert sum(path.stat().st_size for path in SHIPPED.values()) < 1_000_000
    classifier = classifier_for(sets[1])
    assert classifier.classes == CLASSES and classifier.accuracy > 0.95
    assert accuracy(classifier, sets[1]) > classifier.accuracy - 0.03
    assert accuracy(classifier, sets[1], batch_size=7) == accuracy(classifier, sets[1])
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
        torch.cat([x for x, _ in draw_samples(d, lambda x, t: x / 2, 7, batch_size=b, **options)])
        for b in (2, 7)
    )
    torch.testing.assert_close(few, many)


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


def test_evaluate_reports_what_a_memorising_network_does(sets):
    said = []
    d = DiffusionUtils(20, "linear", prediction="x_0")
    numbers = evaluate(d, Copier(sets[0]), *sets, n=60, steps=4, pairs=3, say=said.append)
    floor = numbers["floor"]
    assert floor["pairs"] == 3 and floor["std"]["frechet"] > 0
    assert f"{floor['mean']['frechet']:.3f} ± {floor['std']['frechet']:.3f}" in said[-1]
    assert numbers["samples"]["n"] == floor["mean"]["n"] == 60
    assert numbers["samples"]["accuracy"] > 0.85  # good pictures of the right class ...
    assert numbers["samples"]["recall"] < floor["mean"]["recall"] - 0.1  # ... but few kinds
    assert len(numbers["loss"]) == 11


def test_what_was_measured_is_kept_when_a_later_part_fails(sets, tmp_path, monkeypatch, capsys):
    weights = save_weights(
        tmp_path / "w.safetensors", DiffusionNet(32, width=8, num_classes=10), DiffusionUtils(5)
    )
    monkeypatch.setattr(report, "check_inception", lambda *a: None)

    def fails(*arguments):
        raise OSError("no room")

    monkeypatch.setattr(report, "inception_scores", fails)
    out = tmp_path / "numbers.json"
    words = ["evaluate", "--weights", str(weights), "--n", "10", "--steps", "1"]
    words += ["--out", str(out), "--inception", "w.pth"]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert "no room" in captured.err and "noise floor" in captured.out
    numbers = json.loads(out.read_text())
    assert len(numbers["loss"]) == 5 and numbers["samples"]["n"] == numbers["loss_n"] == 10
    assert numbers["floor"]["mean"]["frechet"] > 0


@pytest.fixture
def asked(monkeypatch):
    """ImageDataset answers with the arguments that it was given."""

    def asked(image_size, **options):
        raise ValueError(f"asked for {options}")

    monkeypatch.setattr("ddpm_helpers.data.ImageDataset", asked)


def test_weights_away_from_their_run_ask_for_their_folder(tmp_path, monkeypatch, asked, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").mkdir()  # another folder of that name
    net = DiffusionNet(32, width=8)
    for data, told, answer in [
        ("album", [], "was trained on 'album': name its folder with --data"),
        ("album", ["--data", "here"], "'source': 'here'"),
        ("cifar10", [], "'source': 'cifar10'"),
    ]:
        path = save_weights(tmp_path / "w.safetensors", net, DiffusionUtils(5), {"data": data})
        assert main(["evaluate", "--weights", str(path), *told]) == 2
        error = capsys.readouterr().err
        assert answer in error and error.count("\n") == 1


def test_a_run_records_how_its_data_are_opened(tmp_path, asked, capsys):
    about = {"data": "album"}
    net = DiffusionNet(32, width=8)
    save_weights(tmp_path / "weights.safetensors", net, DiffusionUtils(5), about)
    (tmp_path / "config.toml").write_text('[data]\nsource = "an/album"\nfit = "pad"\n')
    (tmp_path / "history.jsonl").write_text("")
    for weights in (tmp_path, tmp_path / "weights.safetensors"):
        assert main(["evaluate", "--weights", str(weights)]) == 2
        assert "'source': 'an/album', 'fit': 'pad', 'channels': 3" in capsys.readouterr().err
    assert main(["evaluate", "--weights", str(tmp_path), "--data", "cartoons"]) == 2
    assert "'source': 'cartoons', 'channels': 3" in capsys.readouterr().err
    (tmp_path / "history.jsonl").unlink()  # no run: config.toml is another program's
    (tmp_path / "config.toml").write_text('[data]\npath = "prompts.csv"\n')
    assert main(["evaluate", "--weights", str(tmp_path)]) == 2
    assert "name its folder with --data" in capsys.readouterr().err


def test_impossible_options_are_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ddpm_helpers.pretrained.load_pretrained", None)
    calls = [
        (["--out", str(tmp_path / "no" / "x.json")], "no folder"),
        (["--out", str(tmp_path)], "is a folder"),
    ]
    for words, answer in calls:
        assert main(["evaluate", *words]) == 2
        error = capsys.readouterr().err
        assert answer in error and error.count("\n") == 1


def test_refuses_in_one_line(sets):
    x = torch.zeros(4, 2)
    p, few = torch.zeros(4, 3, 32, 32), torch.zeros(3, 3, 32, 32)
    half, missing = (lambda x, t: x / 2), "weights.pth"
    d = DiffusionUtils(5, prediction="x_0")
    calls = [
        (lambda: frechet_distance(x, x[:1]), "at least 2 each"),
        (lambda: kernel_distance(x, torch.zeros(4, 3)), r"features must be \(n, d\)"),
        (lambda: frechet_distance(x, x * math.nan), "NaN or infinite"),
        (lambda: precision_recall(x, x, k=4), "k must lie in 1..3, got 4"),
        (lambda: compare(p, torch.zeros(5, 3, 32, 32)), "one size"),
        (lambda: compare(p, torch.zeros(4, 3, 16, 16)), "one size and shape"),
        (lambda: compare(p, p.long()), "float or uint8; got torch.int64"),
        (lambda: compare(p[0], p[0]), r"\(n, C, S, S\), float or uint8; got torch.float32"),
        (lambda: compare(few, few), "at least 4 images, got 3"),
        (lambda: compare(p, p, torch.zeros(5)), r"y must be \(4,\), .* got \(5,\)"),
        (lambda: list(draw_samples(d, half, 0)), "n must be .* at least 1, got 0"),
        (lambda: list(draw_samples(d, half, 2, batch_size=0)), "batch_size must be .* got 0"),
        (lambda: list(draw_samples(d, half, 2, y=torch.zeros(3))), r"y must be \(2,\)"),
        (lambda: take(sets[1], 301), "in 1..300, got 301"),
        (lambda: take(sets[1], 2.5), "in 1..300, got 2.5"),
        (lambda: evaluate(d, half, *sets, n=301), "in 5..300, got 301"),
        (lambda: evaluate(d, half, *sets, n=9, inception=missing), "at least 10 .* got 9"),
        (lambda: load_classifier().features(torch.zeros(1, 2, 32, 32)), "takes images"),
        (lambda: loss_per_step(d, lambda x, t: x, sets[1], [1], n=0), "in 1..300, got 0"),
        (lambda: evaluate(d, half, *sets, n=0), "n must be .* in 5..300, got 0"),
    ]
    for call, words in calls:
        with pytest.raises(ValueError, match=words) as refused:
            call()
        assert "\n" not in str(refused.value)
    with pytest.raises(FileNotFoundError, match="no classifier at"):
        load_classifier("nowhere.safetensors")


def test_a_damaged_or_foreign_classifier_is_one_line(tmp_path):
    raw = SHIPPED["cartoons"].read_bytes()
    path = tmp_path / "c.safetensors"
    about = {"classes": list(CLASSES), "accuracy": 1.0}
    tensors = load_file(SHIPPED["cartoons"])

    def stored(tensors, words):
        save_file(tensors, path, metadata={"classifier": words})

    damages = [
        lambda: path.write_bytes(raw[:-9]),
        lambda: path.write_bytes(b"no safetensors"),
        lambda: save_file(tensors, path),
        lambda: stored(tensors, "{"),
        lambda: stored(tensors, "[]"),
        lambda: stored(tensors, json.dumps(about | {"classes": ["one"]})),
        lambda: stored({"head.bias": torch.zeros(10)}, json.dumps(about)),
    ]
    for damage in damages:
        damage()
        with pytest.raises(ValueError, match="is not a classifier of this") as refused:
            load_classifier(path)
        assert "\n" not in str(refused.value)


def test_the_command_measures_the_shipped_weights(tmp_path, capsys):
    out = tmp_path / "numbers.json"
    assert main(["evaluate", "--n", "20", "--steps", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "noise floor" in printed and "test, 20 images: airplane 2" in printed
    assert json.loads(out.read_text())["samples"]["n"] == 20
    assert main(["evaluate", "--n", "0"]) == 2
    assert "5..10000, got 0" in capsys.readouterr().err
