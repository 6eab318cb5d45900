"""The planted bugs of notebook 10: each is found, and says what it should."""

import json
from pathlib import Path

import pytest
import torch

from ddpm_helpers import DiffusionUtils, ImageDataset, load_pretrained
from ddpm_helpers import doctor as d
from ddpm_helpers.doctor import bugs

SAID = {
    "wrong kind": "treats the output as eps, but it is v",
    "last noise": "noise is added at the last step",
    "clipped mean": "is clipped to [-1, 1], after the mean",
    "direction": "of the wrong step",
    "one ahead": "off by one",
    "leading": "the walk begins at t =",
    "wraps": "alpha_bar[-1]",
    "in 0..1": "returns images in 0..1",
}


@pytest.fixture(scope="module")
def shipped():
    model, diffusion = load_pretrained("cartoons")
    ds = ImageDataset("cartoons", 32, split="test", limit=200)
    x_0, y = next(ds.batches(32, seed=0))
    return model, diffusion, x_0, y


@pytest.mark.parametrize("ddpm", [False, True])
@pytest.mark.parametrize("steps", [10, 25, 50])
def test_the_loop_without_a_bug_is_healthy(steps, ddpm):
    for kind in ("v", "eps"):
        utils = DiffusionUtils(500, "cosine", prediction=kind)
        sample = bugs.loop(utils, steps=steps, ddpm=ddpm)
        assert d.check_sampler(sample, utils.alpha_bar, prediction=kind).verdict == "ok"


@pytest.mark.parametrize("steps", [10, 25, 50])
@pytest.mark.parametrize("bug", SAID)
def test_the_bug_of_every_planted_loop_is_named(bug, steps):
    utils = DiffusionUtils(500, "cosine", prediction="v")
    sample = bugs.loop(utils, bug, steps=steps, ddpm=bug == "last noise")
    assert SAID[bug] in d.check_sampler(sample, utils.alpha_bar, prediction="v").sentence


def test_every_bug_is_tested_and_others_are_refused(shipped):
    assert set(SAID) | {""} == set(bugs.LOOPS)
    with pytest.raises(ValueError, match="unknown bug 'flu'; choose from wrong kind"):
        bugs.loop(shipped[1], "flu")
    with pytest.raises(ValueError, match="unknown bug 'flu'; choose from never loaded"):
        bugs.spoil(shipped[0], "flu")


def checks(net, diffusion, x_0, y):
    """The checks that a network can fail, on a network for cartoons."""
    x_t, _ = diffusion.add_noise(x_0[:8], torch.full((8,), 350))
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    last = torch.full((64,), diffusion.T)
    fp16 = {"dtype": torch.float16}
    return {
        "time": d.check_time(net, (3, 32, 32), (1, 500)),
        "labels": d.check_labels(net, x_t, 350, num_classes=10, null=-1),
        "null label": d.check_null(net, x_0, y, diffusion.alpha_bar, null=-1, prediction="v"),
        "checkerboard": d.check_checkerboard(lambda x: net(x, last), noise),
        "precision": d.check_precision(net, x_t[:2], 350, **fp16),
    }


def test_the_shipped_network_passes(shipped):
    assert {f.verdict for f in checks(*shipped).values()} == {"ok"}


@pytest.mark.parametrize(
    ("bug", "name"),
    [
        ("t ignored", "time"), ("y ignored", "labels"), ("null untrained", "null label"),
        ("kernel 3", "checkerboard"), ("overflow", "precision"),
    ],
)  # fmt: skip
def test_every_spoilt_network_is_found_by_its_own_check(shipped, bug, name):
    model, *rest = shipped
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = checks(bugs.spoil(model, bug), *rest)
    assert [k for k, f in found.items() if f.alarm] == [name]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_weights_averages_and_tints_are_found(shipped):
    model, diffusion, x_0, y = shipped
    fresh = bugs.spoil(model, "never loaded")
    assert "never loaded" in d.check_weights(model.state_dict(), fresh).sentence
    t, eps = torch.linspace(1, 500, 32).long(), torch.randn(x_0.shape)

    def loss(net):
        return diffusion.loss(net, x_0, t, eps, y).mean()

    slow = bugs.spoil(model, "slow average")
    found = d.check_average(loss, model, slow, steps=500, decay=0.999)
    assert "61% of it is still the initial weights" in found.sentence
    red = diffusion.sample(bugs.spoil(model, "tint"), 16, y=y[:16], sampler="ddim", steps=5, seed=0)
    assert "a tint" in d.check_samples(red, x_0).sentence


def programs():
    """The five programs of notebook 10's exercise, by number, and their table."""
    path = Path(__file__).parents[1] / "notebooks" / "10_debugging_diffusion.ipynb"
    cells = json.loads(path.read_text())["cells"]
    names = {"torch": torch, "DiffusionUtils": DiffusionUtils}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "def program_" in source:
            exec(source, names)
    return names


def test_the_doctor_names_the_mistakes_of_the_five_programs():
    names = programs()
    said = [d.check_sampler(names[f"program_{k}"], names["TABLE"]).sentence for k in (1, 2, 3)]
    assert "scaled by its variance" in said[0]
    assert "off by one" in said[1]
    assert "is clipped" in said[2]
    noising = d.check_noising(names["program_4"], names["TABLE"]).sentence
    assert "1 - alpha_bar: the square root" in noising
    torch.manual_seed(0)
    dropout = d.check_label_dropout(names["program_5"], num_classes=10, null=-1)
    assert "whole batches" in dropout.sentence
