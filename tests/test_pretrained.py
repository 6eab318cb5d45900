"""Weights: what is saved comes back, and what does not fit is refused in one line."""

import hashlib
import json

import pytest
import torch

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import (
    available_weights,
    load_pretrained,
    save_weights,
    shipped,
    shipped_ladder,
    weights,
)


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = DiffusionNet(16, width=8, num_classes=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # no layer at 0, where nothing could be lost
    return model


def output(model):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 16, 16, generator=generator)
    with torch.no_grad():
        return model(x, torch.tensor([1, 5, 10]), torch.tensor([0, 2, -1]))


def test_saved_weights_are_loaded_with_their_schedule_and_classes(net, tmp_path):
    diffusion = DiffusionUtils(10, "linear", prediction="v", rescale_zero_snr=True)
    path = save_weights(tmp_path / "w.safetensors", net, diffusion, {"classes": ["a", "b", "c"]})
    model, same = load_pretrained(path)
    assert torch.equal(output(model), output(net))
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.classes == ("a", "b", "c") and model.image_shape == (3, 16, 16)
    assert same.prediction == "v" and torch.equal(same.alpha_bar, diffusion.alpha_bar)


def test_half_precision_halves_the_file_and_hardly_moves_the_output(net, tmp_path):
    diffusion = DiffusionUtils(10)
    full = save_weights(tmp_path / "full.safetensors", net, diffusion)
    half = save_weights(tmp_path / "half.safetensors", net, diffusion, dtype=torch.float16)
    assert half.stat().st_size < 0.55 * full.stat().st_size
    model, _ = load_pretrained(half)
    assert next(model.parameters()).dtype == torch.float32
    torch.testing.assert_close(output(model), output(net), rtol=0.02, atol=0.02)


def test_weights_are_float32_and_draw_the_same_whatever_torchs_default_is(net, tmp_path):
    path = save_weights(tmp_path / "w.safetensors", net, DiffusionUtils(10))

    def drawn():
        model, diffusion = load_pretrained(path)
        assert next(model.parameters()).dtype == torch.float32
        return diffusion.sample(model, 2, y=[0, 1], guidance=2.0, seed=2**70)

    expected = drawn()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(drawn(), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.inference_mode():
        assert torch.equal(drawn(), expected)


def test_a_config_beside_weights_counts_only_as_part_of_a_run(net, tmp_path):
    path = save_weights(tmp_path / "weights.safetensors", net, DiffusionUtils(10), {"data": "mine"})
    (tmp_path / "config.toml").write_text('[data]\nsource = "/photos"\nfit = "pad"\n')
    assert weights.data_of_weights(path) == {"channels": 3}
    other = {"source": "other", "root": "/r", "channels": 3}
    assert weights.data_of_weights(path, "other", "/r") == other
    (tmp_path / "history.jsonl").touch()
    run = {"source": "/photos", "fit": "pad", "channels": 3}
    assert weights.data_of_weights(path) == weights.data_of_weights(tmp_path) == run
    named = save_weights(tmp_path / "a" / ".." / "c", net, DiffusionUtils(10), {"data": "cifar10"})
    (tmp_path / "history.jsonl").unlink()
    assert weights.data_of_weights(named)["source"] == "cifar10"


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(FileNotFoundError, match="catroons.*cartoons, "):
        load_pretrained("catroons")


def test_shipped_weights_are_checked_against_the_manifest(net, tmp_path, monkeypatch):
    path = save_weights(tmp_path / "w.safetensors", net, DiffusionUtils(10))
    entry = {"file": "w.safetensors", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"mine": entry}))
    monkeypatch.setattr(shipped, "HERE", tmp_path)
    monkeypatch.setattr(shipped, "MANIFEST", tmp_path / "manifest.json")
    assert torch.equal(output(load_pretrained("mine")[0]), output(net))
    flipped = bytearray(path.read_bytes())
    flipped[-1] ^= 1
    path.write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match="w.safetensors has been modified: sha256"):
        load_pretrained("mine")


@pytest.mark.parametrize("name", available_weights())
def test_each_shipped_file_is_intact_small_and_described(name):
    entry = available_weights()[name]
    model, diffusion = load_pretrained(name)
    files = [shipped.HERE / one["file"] for one in available_weights().values()]
    assert sum(file.stat().st_size for file in files) < 40e6
    facts = {"sha256", "data", "config", "steps", "images_seen", "minutes", "machine", "metrics"}
    assert facts <= set(entry)
    assert entry["config"]["image_size"] == model.image_shape[-1]
    assert entry["config"]["timesteps"] == diffusion.T
    assert len(model.classes) == model.num_classes


@pytest.mark.parametrize(
    ("name", "epochs"), [("cartoons", [1, 2, 5, 10, 20]), ("cifar10-64", [8, 10, 15, 20])]
)
def test_along_the_shipped_ladders_the_loss_falls(name, epochs):
    found = shipped_ladder(name)
    assert [rung["epoch"] for rung in found["rungs"]] == epochs
    losses = [rung["loss"] for rung in found["rungs"]]
    assert losses == sorted(losses, reverse=True)
    assert found["rungs"][-1]["frechet"] > found["noise_floor"]["frechet"] > 0
