"""The doctor on samplers in other people's styles: no false alarm, and planted bugs by name."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doctor_styles import HEALTHY, PLANTED, case, hear, linear, named
from torch import nn

from ddpm_helpers.doctor import check_sampler, from_flow, oracle

SAMPLE = 9  # every ninth entry of the tables is in `make test`
DOCS = Path(__file__).parents[1] / "docs" / "doctor.md"


def few(entries):
    """All entries, most of them slow."""
    return [
        pytest.param(*entry, marks=() if i % SAMPLE == 0 else pytest.mark.slow)
        for i, entry in enumerate(entries)
    ]


@pytest.mark.parametrize(("style", "options"), few(HEALTHY))
def test_a_healthy_sampler_is_never_called_broken(style, options):
    heard = hear(case(style, options))
    assert heard[0][0] in ("ok", "look"), heard


def test_the_tables_are_as_large_as_they_should_be():
    assert len(HEALTHY) >= 60 and len(PLANTED) >= 120


@pytest.mark.parametrize(("style", "options", "bug", "words"), few(PLANTED))
def test_a_planted_bug_is_never_ok(style, options, bug, words):
    heard = hear(case(style, options, bug))
    assert heard[0][0] in ("broken", "look"), heard


@pytest.mark.slow
def test_three_of_four_planted_bugs_are_named():
    heard = [(entry, hear(case(*entry[:3]))) for entry in PLANTED]
    unnamed = [f"{entry}: {found}" for entry, found in heard if not named(found, entry[3])]
    assert len(unnamed) <= len(PLANTED) / 4, "\n".join(unnamed)


class Diffusion:
    """A class that holds its network and draws its own noise."""

    def __init__(self):
        self.alphas_cumprod, self.model = linear(50), None

    def p_sample_loop(self, shape):
        loop = case("ddim", {"table": lambda: self.alphas_cumprod, "steps": 10}).sample
        return loop(self.model, torch.randn(shape))


def stand_ins():
    """What the page assumes that its reader has."""
    bar = torch.linspace(0.9999**0.5, 0.01, 40).double() ** 2

    def ddim(model, x, t_of=lambda x, t: torch.full((len(x),), t)):
        steps = [39, 30, 20, 10, 0]
        for t, s in zip(steps, [*steps[1:], None], strict=True):
            to = 1.0 if s is None else float(bar[s])
            eps = model(x, t_of(x, t))
            eps = eps[:, : x.shape[1]]  # the first of two outputs
            x_0 = (x - float(1 - bar[t]) ** 0.5 * eps) / float(bar[t]) ** 0.5
            x = to**0.5 * x_0 + (1 - to) ** 0.5 * eps
        return x

    def euler(model, x, sigmas):
        for s, to in zip(sigmas[:-1], sigmas[1:], strict=True):
            x = x + (x - model(x, s.expand(len(x)))) / s * (to - s)
        return x

    def edm(net, latents):
        sigmas = torch.tensor([80.0, 20.0, 5.0, 1.0, 0.1, 0.0])
        return euler(net.eval(), latents * sigmas[0], net.round_sigma(sigmas))

    def flow(up, scale=1.0, order="xt", shape=(-1,)):
        def sample(model, x):
            for i in range(8):
                t = i / 8 if up else 1 - i / 8
                told = torch.full((len(x),), scale * t).reshape(shape)
                x = x + (1 if up else -1) / 8 * (
                    model(x, told) if order == "xt" else model(told, x)
                )
            return x

        return sample

    return {
        "alpha_bar": bar, "p_sample_loop": ddim, "diffusion": Diffusion(), "math": math,
        "SimpleNamespace": SimpleNamespace,
        "diffusers_loop": lambda unet, x: ddim(lambda x, t: unet(x, t).sample, x),
        "dit_loop": lambda net, x: ddim(
            lambda x, t: net.forward_with_cfg(x, t, torch.zeros(len(x)).long(), 4.0), x),
        "torch": torch, "learned_variance_loop": ddim, "guided_loop": ddim,
        "loop_in_0_1": lambda model, x: case("ddim", {"table": lambda: bar, "steps": 10}).sample(
            _Fractions(model), x),
        "score_sde_sample": case("continuous", {"steps": 60}).sample,
        "sigmas": torch.tensor([20.0, 5.0, 1.0, 0.1, 0.0]), "sample_euler": euler,
        "edm_sampler": edm, "odeint_up": flow(True, order="tx"), "euler_999": flow(True, 999.0),
        "euler_down": flow(False), "simulate": flow(True, shape=(-1, 1, 1, 1)),
        "to_uint8_numpy": lambda x: ((x + 1) * 127.5).round().clamp(0, 255).byte()
        .permute(0, 2, 3, 1).numpy(),
        "q_sample": lambda x, t, eps: bar[t].sqrt()[:, None, None, None].float() * x
        + (1 - bar[t]).sqrt()[:, None, None, None].float() * eps,
        "t": torch.arange(16),
        "net": nn.Conv2d(3, 3, 3, padding=1), "x_0": torch.rand(16, 3, 16, 16) * 1.8 - 0.9,
    }  # fmt: skip


class _Fractions(nn.Module):
    """Passes t / 1000, as a loop does whose t lies in 0..1."""

    def __init__(self, model):
        super().__init__()
        self.model, self.anchor = model, nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        return self.model(x, t / 1000)


def test_every_recipe_of_the_page_runs_and_finds_its_healthy_loop_healthy(capsys):
    names = stand_ins()
    names["net"].forward = lambda x, t, conv=names["net"]: conv._conv_forward(
        x * (1 + t[:, None, None, None] / 40), conv.weight, conv.bias
    )
    names["optimizer"] = torch.optim.Adam(names["net"].parameters(), 1e-2)
    names["eps"] = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    names["x_t"] = names["q_sample"](names["x_0"], 2 * names["t"], names["eps"])
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    for block in blocks:
        assert len([line for line in block.splitlines() if line.strip()]) <= 10, block
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    said = [line for line in printed if " sampler " in line]
    assert any(line.startswith("ok     noising") for line in printed)
    assert any(line.startswith("ok     overfit") for line in printed)
    assert len(said) >= 14 and {line.split()[0] for line in said} <= {"ok", "look"}, said
    assert sum(line.startswith("ok") for line in said) >= len(said) - 1, said


def test_a_long_examination_says_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(oracle, "PATIENCE", 0.0)
    hear(case("ddim", {"steps": 10}))
    err = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"check_sampler: 1 network calls in 0 s", err[0])


def test_a_look_hides_no_broken():
    """Images in 0..1, a table without a 1 before its first row, and t off by one."""
    found = hear(case("ddim", {"result": "0..1"}, "t + 1"))
    assert [verdict for verdict, _ in found] == ["broken", "look"]
    assert "off by one" in found[0][1] and "0..1" in found[1][1]
    found = hear(case("plms", {"end": "first entry"}, "history out of order"))
    assert "earlier outputs" in found[0][1] and "before the first step" in found[1][1]


@pytest.mark.parametrize("swapped", [False, True])
def test_with_one_class_for_all_the_null_label_tells_the_branches_apart(swapped):
    """Label 3 for all images and 0 for none: alone, neither says which of them means none."""

    healthy = case("ddim", {})
    loop = healthy.sample

    class Guided(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.anchor = model, nn.Parameter(torch.zeros(1))

        def forward(self, x, t):
            with_y, none = (
                self.model(x, t, torch.full((len(x),), k)) for k in ((0, 3) if swapped else (3, 0))
            )
            return none + 2 * (with_y - none)

    found = check_sampler(lambda model, x: loop(Guided(model), x), healthy.alpha_bar, null=0)
    assert found.verdict == ("broken" if swapped else "ok")
    assert ("are swapped" in found.sentence) == swapped
    alone = check_sampler(lambda model, x: loop(Guided(model), x), healthy.alpha_bar)
    assert alone.verdict == "ok"


def test_a_flow_whose_t_never_advances_is_named():
    def midpoint(model, x, n=20):
        for _ in range(n):  # t += 1 / n is missing
            middle = x + model(x, torch.zeros(len(x))) / n / 2
            x = x + model(middle, torch.full((len(x),), 0.5 / n)) / n
        return x

    found = from_flow(midpoint, noise_at=0).check_sampler()
    assert found.verdict == "broken" and "t does not change from step to step" in found.sentence
