"""The doctor on data, tables, loss weights and networks: healthy, and each with one mistake."""

import math

import pytest
import torch
from torch import nn

from ddpm_helpers import DiffusionUtils
from ddpm_helpers import doctor as d

IMAGES = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
SHAPE = (3, 8, 8)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ((IMAGES + 1) / 2, "expects -1..1"),
        ((IMAGES + 1) / 2 / 255, "divided by 255 twice"),
        ((IMAGES + 1) / 255 - 1, "divided by 255 twice"),
        (IMAGES + 1, "2 * x without - 1"),
        (2 * IMAGES - 1, "2 * x - 1 was applied twice"),
        ((IMAGES + 1) * 127.5, "whole grey levels"),
        (255 * IMAGES + 254, "2 * x - 1 of whole grey levels"),
        (127.5 * IMAGES, "not divided by 127.5"),
        (IMAGES / 2, "not divided by 0.5"),
        (0 * IMAGES - 1, "flat"),
    ],
)
def test_a_wrong_range_of_images_is_named(batch, said):
    found = d.check_data(batch)
    assert said in found.sentence and found.verdict == "broken", str(found)


def test_dark_pale_and_latent_images_are_not_broken():
    assert d.check_data(IMAGES).verdict == "ok"
    assert d.check_data(0.4 * IMAGES - 0.5).verdict == "look"
    assert d.check_data(torch.randn(16, 4, 8, 8)).verdict == "ok"


LINEAR = torch.linspace(1e-4, 0.02, 1000).double()
BAR = (1 - LINEAR).cumprod(0)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (1 - LINEAR.cumsum(0), "1 - cumsum(betas)"),
        ((1 - LINEAR.flip(0)).cumprod(0), "betas in reverse order"),
        (BAR.half(), "half precision"),
        (BAR.bfloat16(), "half precision"),
        (torch.cos(torch.linspace(0.01, math.pi / 2 - 1e-9, 300).double()) ** 2, "not clipped"),
        ((1 - 10 * LINEAR).cumprod(0), "nothing of the image is left at 6"),
        (BAR - 0.5, "values do not, first that of t = 2"),
        (torch.cos(torch.arange(1000).double() // 500 * 1.5) ** 2, "does not change at"),
        ((2 - torch.linspace(0.02, 1.99, 50)) / 2 % 0.9, "it rises at"),
        (torch.linspace(0.001, 0.999, 77), "rises from 0.001 to 0.999"),
    ],
)
def test_a_wrong_table_is_named(table, said):
    found = d.check_schedule(table)
    assert said in found.sentence and found.alarm, str(found)


@pytest.mark.parametrize("T", [100, 1000])
@pytest.mark.parametrize("name", ["cosine", "shifted_cosine"])
def test_usual_tables_are_healthy_in_float32_too(name, T):
    bar = DiffusionUtils(T, name).alpha_bar
    for table in (bar, bar[1:], bar.float(), bar[1:].float()):
        assert d.check_schedule(table).verdict == "ok", str(d.check_schedule(table))


SNR = BAR / (1 - BAR)
MIN = SNR.clamp(max=5)


@pytest.mark.parametrize(
    ("weights", "kind", "said"),
    [
        (MIN, "eps", "min(SNR, 5), which is not for eps"),
        (MIN, "v", "min(SNR, 5), which is not for v"),
        (MIN / SNR, "v", "min(SNR, 5) / SNR, which is not for v"),
        (MIN / (SNR + 1), "x_0", "min(SNR, 5) / (SNR + 1), which is not for x_0"),
        ((1 / SNR).clamp(max=5) * SNR, "eps", "SNR is upside down"),
        (SNR.clamp(min=5) / SNR, "eps", "clamped from the wrong side"),
        (SNR, "eps", "has already"),
    ],
)
def test_a_wrong_loss_weight_is_named(weights, kind, said):
    found = d.check_loss_weights(weights, BAR, prediction=kind)
    assert said in found.sentence and found.verdict == "broken", str(found)


def test_usual_loss_weights_are_healthy():
    for weights, kind in (
        (MIN / SNR, "eps"), (MIN / (SNR + 1), "v"), (MIN, "x_0"), (1 / (1 + SNR), "eps"),
        (SNR, "x_0"), (torch.ones_like(SNR), "v"), (7 * MIN / SNR, "eps"),
    ):  # fmt: skip
        found = d.check_loss_weights(weights, BAR, prediction=kind)
        assert found.verdict == "ok", str(found)


def test_the_truncated_snr_of_progressive_distillation_is_worth_a_look():
    found = d.check_loss_weights(SNR.clamp(min=1), BAR, prediction="x_0")
    assert found.verdict == "look" and "truncated SNR" in found.sentence


class Net(nn.Module):
    """A network with the usual embedding of t, or with one mistake."""

    def __init__(self, bug=""):
        super().__init__()
        self.bug = bug
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.mlp = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 16))

    def forward(self, x, t):
        powers = math.log(10000) * torch.arange(32) / 32
        rates = torch.exp(powers if self.bug == "rising" else -powers)
        rates = torch.full((32,), 0.01) if self.bug == "one rate" else rates
        angles = t[:, None] / (1e6 if self.bug == "divided" else 1.0) * rates
        embedded = self.mlp(torch.cat([angles.sin(), angles.cos()], 1))
        out = self.last(nn.functional.silu(self.first(x) + embedded[:, :, None, None]))
        ends = {"tanh": torch.tanh, "relu": torch.relu, "clip": lambda x: x.clamp(-1, 1)}
        return ends.get(self.bug, lambda x: x)(out)


@pytest.mark.parametrize(
    ("bug", "said"),
    [("one rate", "the output repeats every 6"), ("rising", "differ as much"),
     ("divided", "t has almost no effect")],
)  # fmt: skip
def test_an_embedding_of_t_that_tells_little_is_looked_at(bug, said):
    found = d.check_time(Net(bug), SHAPE, (1, 1000))
    assert said in found.sentence and found.verdict == "look", str(found)
    assert d.check_time(Net(), SHAPE, (1, 1000)).verdict == "ok"


@pytest.mark.parametrize(
    ("bug", "said"), [("tanh", "lie in -1..1"), ("clip", "lie in"), ("relu", "below 0")]
)
def test_a_bounded_output_is_named_and_x_0_may_be_bounded(bug, said):
    found = d.check_output(Net(bug), SHAPE, 500)
    assert said in found.sentence and found.verdict == "broken", str(found)
    assert d.check_output(Net(), SHAPE, 500).verdict == "ok"
    if bug != "relu":
        assert d.check_output(Net(bug), SHAPE, 500, prediction="x_0").verdict == "ok"


def test_an_output_of_zeros_has_no_bound():
    assert d.check_output(lambda x, t: 0 * x, SHAPE, 500).verdict == "ok"
