"""The tool that measures what more training bought, and draws it."""

import json

import pytest
import torch
from PIL import Image

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.data.cartoons import CLASSES
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import load_pretrained, save_weights
from tools import ladder

pytestmark = pytest.mark.slow  # it draws and measures at each rung


def test_the_ladder_draws_the_same_noise_from_every_rung_and_measures_it(tmp_path):
    sets = [ImageDataset("cartoons", 32, split=name, limit=300) for name in ("train", "test")]
    d = DiffusionUtils(10, prediction="v")
    for epoch in (1, 10):
        torch.manual_seed(epoch)
        net = DiffusionNet(32, width=8, num_classes=10)
        torch.nn.init.normal_(net.gate.weight, std=0.02 * epoch)
        path = tmp_path / f"weights_epoch_{epoch:04d}.safetensors"
        save_weights(path, net, d, {"steps": epoch * 3, "classes": list(CLASSES)})
    said = []
    numbers, pictures = ladder.climb(tmp_path, *sets, n=20, steps=3, say=said.append)
    assert [row["epoch"] for row in numbers["rungs"]] == [1, 10] and len(said) == 2
    assert [row["steps"] for row in numbers["rungs"]] == [3, 30]
    assert numbers["n"] == 20 and pictures.shape == (20, 3, 32, 32)
    model, _ = load_pretrained(path)
    options = {"sampler": "dpm++", "steps": 3, "seed": 0}
    again = d.sample(model, 10, y=torch.arange(10), **options)
    torch.testing.assert_close(pictures[10:], again, atol=1e-4, rtol=0)
    assert numbers["rungs"][0]["frechet"] > numbers["noise_floor"]["frechet"]
    with pytest.raises(FileNotFoundError, match="train with keep_weights"):
        ladder.rungs(tmp_path / "elsewhere")


def test_the_ladder_is_a_command_too(tmp_path, capsys, monkeypatch):
    d, net = DiffusionUtils(4), DiffusionNet(32, width=8, num_classes=10)
    about = {"steps": 1, "classes": list(CLASSES)}
    save_weights(tmp_path / "weights_epoch_0001.safetensors", net, d, about)
    floor = {"noise_floor": {"frechet": 1.0}, "noise_floor_std": {"frechet": 0.1}}
    found = floor | {"rungs": [{"epoch": 1, "frechet": 2.0}]}, torch.zeros(10, 3, 32, 32)
    monkeypatch.setattr(ladder, "climb", lambda *args, **options: found)
    files = ["--picture", str(tmp_path / "l.png"), "--numbers", str(tmp_path / "l.json")]
    assert ladder.main([str(tmp_path), *files]) == 0
    assert Image.open(tmp_path / "l.png").width > 300
    assert json.loads((tmp_path / "l.json").read_text())["rungs"][0]["epoch"] == 1
    assert ladder.main([str(tmp_path / "none")]) == 2
    assert "ladder: error: no weights_epoch_" in capsys.readouterr().err
