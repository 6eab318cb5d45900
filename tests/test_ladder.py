"""The tool that measures what more training bought, and draws it."""

import pytest
import torch

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
    numbers, pictures = ladder.climb(tmp_path, *sets, n=20, steps=3)
    assert [row["epoch"] for row in numbers["rungs"]] == [1, 10]
    assert [row["steps"] for row in numbers["rungs"]] == [3, 30]
    assert numbers["n"] == 20 and pictures.shape == (20, 3, 32, 32)
    model, _ = load_pretrained(path)
    options = {"sampler": "dpm++", "steps": 3, "seed": 0}
    again = d.sample(model, 10, y=torch.arange(10), **options)
    torch.testing.assert_close(pictures[10:], again, atol=1e-4, rtol=0)
    assert numbers["rungs"][0]["frechet"] > numbers["noise_floor"]["frechet"]
    with pytest.raises(FileNotFoundError, match="train with keep_weights"):
        ladder.rungs(tmp_path / "elsewhere")
