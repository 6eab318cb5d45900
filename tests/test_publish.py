"""The tool that turns a training into shipped weights."""

import pytest
import torch

from ddpm_helpers import cli
from ddpm_helpers.pretrained import available_weights, load_pretrained, shipped
from tools import publish

pytestmark = pytest.mark.slow  # it trains and measures


def test_publishing_a_run_ships_it_under_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shipped, "HERE", tmp_path)
    monkeypatch.setattr(shipped, "MANIFEST", tmp_path / "manifest.json")
    shipped.MANIFEST.write_text("{}")
    monkeypatch.setattr(publish.held_out_loss, "__defaults__", (100,))
    tiny = "--image-size 16 --width 8 --timesteps 10 --limit 16 --batch-size 8 --warmup-steps 1"
    run = ["train", "--preset", "ci", "--data", "cartoons", "--out", str(tmp_path / "run")]
    assert cli.main([*run, *tiny.split()]) == 0
    name = ["mine", "--n", "20"]
    words = ["--machine", "a test", "--note", "small"]
    publish.main([*name, "--run", str(tmp_path / "run"), *words])
    model, _ = load_pretrained("mine")
    trained, _ = load_pretrained(tmp_path / "run")
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([1, 10])
    torch.testing.assert_close(model(x, t), trained(x, t), rtol=0.02, atol=0.02)
    entry = available_weights()["mine"]
    assert entry["images_seen"] == 16 and entry["steps"] == 2
    assert (entry["machine"], entry["note"], entry["data"]) == ("a test", "small", "cartoons")
    metrics = entry["metrics"]
    assert 0 < metrics["held_out_loss"] < 5 and metrics["n"] == 20 and metrics["steps"] == 10
    assert metrics["frechet"] > metrics["frechet_of_real"] and metrics["accuracy_of_real"] > 0.5
    publish.main([*name, "--guidance", "2"])  # measured anew, nothing else changes
    again = available_weights()["mine"]
    assert again["metrics"]["guidance"] == 2 and again["sha256"] == entry["sha256"]
    distilled = ["train", "--preset", "ci", "--distill", "mine", "--out", str(tmp_path / "fast")]
    assert cli.main([*distilled, *"--limit 16 --batch-size 8".split()]) == 0
    publish.main(["fast", "--n", "20", "--run", str(tmp_path / "fast")])
    metrics = available_weights()["fast"]["metrics"]
    assert (metrics["sampler"], metrics["steps"]) == ("ddpm", [10, 7])
    assert "held_out_loss" not in metrics
