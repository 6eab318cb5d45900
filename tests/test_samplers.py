"""Samplers against oracles with known answers, and against diffusers step by step."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from against_diffusers import SHAPE, ddim_step, noise_source, pair, walk_beside
from exact_networks import answer, wavy
from torch import nn

from ddpm_helpers.diffusion import SAMPLERS, DiffusionUtils, Step, network_calls, picture_noise

WAYS = [
    ("ddpm", None), ("ddim", None), ("ddim", 0.5), ("ddim", 1.0), ("heun", None), ("dpm++", None),
]  # fmt: skip


def oracle(d: DiffusionUtils, picture: torch.Tensor):
    """The exact network of a dataset that holds one picture."""

    def model(x_t, t):
        return answer(d, picture.to(x_t).expand_as(x_t), x_t, t)

    return model


class Net(nn.Module):
    """A small convolution with labels; label -1 is "no label"."""

    image_shape, num_classes = SHAPE, 4

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.label = nn.Conv2d(3, 3, 3, padding=1), nn.Embedding(5, 3)
        self.calls = []

    def forward(self, x_t, t, y=None):
        self.calls.append((len(x_t), self.training, torch.is_grad_enabled()))
        y = torch.full_like(t, -1) if y is None else y
        return self.conv(x_t) + self.label(y + 1)[:, :, None, None]


def picture(seed=5):
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- oracles -----------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.parametrize(("sampler", "eta"), WAYS)
@pytest.mark.parametrize("steps", [None, 7, 1])
def test_a_dataset_of_one_picture_gives_back_that_picture(prediction, sampler, eta, steps):
    d = DiffusionUtils(50, "linear", prediction=prediction)
    x = d.sample(
        oracle(d, picture()), 2, sampler=sampler, eta=eta, steps=steps, seed=0, shape=SHAPE
    )
    torch.testing.assert_close(x, picture().expand(2, *SHAPE), rtol=1e-5, atol=1e-5)
    if prediction == "x_0":  # nothing is computed, so nothing is rounded: no noise in the last step
        assert torch.equal(x, picture().expand(2, *SHAPE))


@pytest.mark.parametrize(("sampler", "eta"), WAYS)
def test_on_the_way_x_t_is_distributed_as_q(sampler, eta):
    """With the exact network, x_t is N(sqrt(alpha_bar) x_0, 1 - alpha_bar) at every step."""
    d = DiffusionUtils(40, "cosine", prediction="x_0")
    start = torch.full((1, 1, 1, 1), 0.8)
    walk = d.sample_steps(
        oracle(d, start), 1, sampler=sampler, eta=eta, steps=20, seed=0, shape=(1, 200, 200)
    )
    for step in walk:
        bar = d.alpha_bar[step.t].item()
        assert step.x_t.mean().item() == pytest.approx(math.sqrt(bar) * 0.8, abs=0.02)
        assert step.x_t.var().item() == pytest.approx(1 - bar, abs=0.03)


# ---- diffusers ---------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [50, 10])
def test_ddpm_agrees_with_diffusers_at_every_step(prediction, clip, steps, monkeypatch):
    theirs, ours = pair(
        "DDPMScheduler", 50, prediction, clip_sample=clip, timestep_spacing="trailing"
    )
    theirs.set_timesteps(steps)
    noise = noise_source()
    x_T = noise()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: noise()
    )
    walk = list(ours.sample_steps(wavy, 2, x_T=x_T, seed=3, clip=clip, steps=steps))
    done = walk_beside(theirs, walk)
    # They add noise of variance 1e-20 at the end of a shortened walk, where ours is exact.
    torch.testing.assert_close(walk[-1].x_t, done.prev_sample, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [50, 10])
def test_ddim_agrees_with_diffusers_at_every_step(prediction, eta, steps):
    theirs, ours = pair(
        "DDIMScheduler", 50, prediction, clip_sample=True, timestep_spacing="trailing"
    )
    theirs.set_timesteps(steps)
    noise = noise_source()
    options = {"sampler": "ddim", "eta": eta, "x_T": noise(), "seed": 3}
    walk = list(ours.sample_steps(wavy, 2, steps=steps, **options))
    done = walk_beside(theirs, walk, ddim_step(theirs, eta, noise, last=50 // steps))
    torch.testing.assert_close(walk[-1].x_t, done.prev_sample, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("sampler", "calls"), [("ddpm", 10), ("ddim", 10), ("dpm++", 10), ("heun", 19)]
)
def test_the_number_of_network_calls_on_even_noise_levels(sampler, calls):
    d, seen = DiffusionUtils(100, "linear"), []

    def model(x_t, t):
        seen.append(int(t[0]))
        return x_t

    d.sample(model, 1, sampler=sampler, steps=10, seed=0, shape=SHAPE)
    assert len(seen) == calls == network_calls(d, 10, sampler)
    assert min(seen) == 10 and max(seen) == 100  # never at t = 0


# ---- what a walk yields ------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [None, 1, 7, 30])
def test_a_walk_goes_from_T_to_0_and_sample_returns_its_end(sampler, steps):
    d = DiffusionUtils(30)
    options = {"sampler": sampler, "steps": steps, "seed": 2, "shape": SHAPE}
    walk = list(d.sample_steps(wavy, 2, **options))
    ts = [step.t for step in walk]
    assert len(ts) == (steps or 30) + 1 and ts[0] == 30 and ts[-1] == 0
    assert all(s < t for t, s in pairwise(ts))
    assert all(isinstance(step, Step) and step.x_t.shape == (2, *SHAPE) for step in walk)
    assert torch.equal(walk[0].x_t, picture_noise(2, 2, SHAPE, torch.device("cpu"))())
    assert torch.equal(walk[-1].x_t, walk[-2].x_0_pred)  # the last step adds no noise
    assert torch.equal(d.sample(wavy, 2, **options), walk[-1].x_t)


@pytest.mark.parametrize("steps", [torch.tensor(5), np.array(5), np.int64(5)])
def test_a_number_of_steps_may_come_in_an_array(steps):
    walk = DiffusionUtils(30).sample_steps(wavy, 1, steps=steps, seed=0, shape=SHAPE)
    assert [step.t for step in walk] == [30, 24, 18, 12, 6, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")
def test_pictures_start_from_the_same_noise_on_every_device():
    net, d = Net(), DiffusionUtils(10)
    here, there = (picture_noise(3, 2, SHAPE, torch.device(kind)) for kind in ("cpu", "cuda"))
    assert all(torch.equal(here(), there().cpu()) for _ in range(3))
    start = next(d.sample_steps(net, 2, seed=3)).x_t
    assert torch.equal(start, next(d.sample_steps(net.cuda(), 2, seed=3)).x_t.cpu())


def test_the_network_sees_t_of_its_own_x_t():
    d, seen = DiffusionUtils(8), []

    def model(x_t, t):
        seen.append(t)
        return x_t

    d.sample(model, 3, seed=0, shape=SHAPE)
    assert [t.tolist() for t in seen] == [[t] * 3 for t in range(8, 0, -1)]
    assert seen[0].dtype == torch.int64


def test_clip_bounds_the_prediction_before_the_step():
    d = DiffusionUtils(20, prediction="x_0")
    far = {"seed": 0, "shape": SHAPE}
    clipped = list(d.sample_steps(lambda x, t: x * 0 + 3, 1, **far))
    assert all((step.x_0_pred == 1).all() for step in clipped)
    free = list(d.sample_steps(lambda x, t: x * 0 + 3, 1, clip=False, **far))
    assert (free[-1].x_t == 3).all()


# ---- the same picture --------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "eta"), WAYS)
def test_picture_i_is_the_same_whatever_the_batch(sampler, eta):
    d = DiffusionUtils(20)
    options = {"sampler": sampler, "eta": eta, "seed": 4, "shape": SHAPE}
    all16 = d.sample(wavy, 16, **options)
    for n in (1, 3):
        torch.testing.assert_close(d.sample(wavy, n, **options), all16[:n], rtol=1e-6, atol=1e-6)
    later = d.sample(wavy, 5, first=11, **options)
    torch.testing.assert_close(later, all16[11:], rtol=1e-6, atol=1e-6)
    assert torch.equal(all16, d.sample(wavy, 16, **options))  # twice: to the bit
    assert len({x.sum().item() for x in all16}) == 16  # and 16 different pictures
    assert not torch.equal(all16, d.sample(wavy, 16, **options | {"seed": 5}))


def test_noise_of_pictures_and_steps_is_independent():
    draw = picture_noise(0, 3, (4, 64, 64), torch.device("cpu"))
    flat = torch.cat([draw(), draw()]).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(6)
    assert correlation.abs().max() < 0.05
    assert abs(flat.mean().item()) < 0.02 and abs(flat.std().item() - 1) < 0.02


def test_without_a_seed_torch_decides():
    d, pictures = DiffusionUtils(5), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        pictures.append(d.sample(wavy, 1, shape=SHAPE))
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])


def test_x_T_replaces_the_start_and_leaves_the_noise_of_the_steps():
    d, net = DiffusionUtils(10), Net().double()
    walk = list(d.sample_steps(net, 2, seed=3))
    again = list(d.sample_steps(net, 2, seed=3, x_T=walk[0].x_t.float()))
    assert walk[0].x_t.dtype == torch.float64  # the network's precision
    assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(walk, again, strict=True))


# ---- classes and guidance ----------------------------------------------------------------


def test_guidance_mixes_both_predictions_in_one_call():
    d, net = DiffusionUtils(6, prediction="x_0"), Net()
    y, x_T = torch.tensor([2, 0]), torch.randn(2, *SHAPE)
    t = torch.full((2,), 6)
    with torch.no_grad():
        with_y, without = net(x_T, t, y), net(x_T, t)
    net.calls.clear()
    for w in (0.0, 1.0, 3.0):
        step = next(d.sample_steps(net, 2, y=y, guidance=w, x_T=x_T, clip=False, seed=0))
        torch.testing.assert_close(
            step.x_0_pred, (1 - w) * without + w * with_y, rtol=1e-5, atol=1e-5
        )
    assert [size for size, _, _ in net.calls] == [4, 2, 4]


def test_one_label_serves_all_and_changes_the_pictures():
    d, net = DiffusionUtils(6), Net()
    a, b = d.sample(net, 2, y=3, seed=0), d.sample(net, 2, y=[3, 3], seed=0)
    assert torch.equal(a, b) and not torch.equal(a, d.sample(net, 2, y=1, seed=0))
    assert torch.equal(d.sample(net, 2, y=-1, seed=0), d.sample(net, 2, seed=0))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_the_callers_and_gradients_are_off(training):
    net = Net().train(training)
    x = DiffusionUtils(4).sample(net, 1, seed=0)
    assert net.training is training and not x.requires_grad and torch.is_grad_enabled()
    assert net.calls == [(1, training, False)] * 4


# ---- bad input ---------------------------------------------------------------------------


def test_refuses_at_once():
    """Not even the first step is asked for."""
    d, net, guided = DiffusionUtils(10), Net(), {"y": 1, "guidance": 2.0}
    for options, words in (
        ({"n": 0}, "n must .* 0"),
        ({"sampler": "euler"}, r"sampler 'euler'.*ddpm, ddim, heun, dpm\+\+"),
        ({"steps": 11}, "steps must .* 1..10, got 11"),
        ({"steps": [5, 7]}, r"steps must decrease .* \[5, 7\]"),
        ({"steps": []}, r"steps must decrease .* \[\]"),
        ({"steps": [5, 0]}, "each of steps must .* 1..10, got 0"),
        ({"steps": torch.tensor(5.5)}, r"steps must .* tensor\(5.5"),
        ({"spacing": "even"}, "spacing 'even'.*trailing, leading"),
        ({"variance": "large"}, "variance 'large'.*posterior, beta"),
        ({"sampler": "ddim", "eta": 1.5}, "eta must .* 1.5"),
        ({"guidance_interval": (5, 11), **guided}, "guidance_interval.* 11"),
        ({"guidance_interval": (5, 2), **guided}, "guidance_interval.* 2"),
        ({"guidance": 3.0}, "guidance = 3.0 needs y"),
        ({"guidance": math.nan, "y": 1}, "guidance must .* nan"),
        ({"y": [0, 4]}, r"y must lie in 0..3 .* 0..4"),
        ({"seed": -1}, "seed must .* -1"),
        ({"first": -1}, "first must .* -1"),
        ({"x_T": torch.zeros(1, *SHAPE)}, r"x_T must be \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"),
        ({"shape": (4, 4)}, r"shape must .* \(4, 4\)"),
    ):
        with pytest.raises(ValueError, match=words):
            d.sample_steps(net, **{"n": 2} | options)
    for setting in ({"eta": 0.5}, {"variance": "beta", "sampler": "dpm++"}):
        with pytest.raises(TypeError, match=next(iter(setting))):
            d.sample_steps(net, 2, **setting)
    with pytest.raises(ValueError, match="shape"):
        d.sample(wavy, 2)
    net.num_classes = None
    with pytest.raises(ValueError, match="takes no labels"):
        d.sample(net, 2, y=[0, 1])
