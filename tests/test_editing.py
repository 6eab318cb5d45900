"""Interpolation, redrawing, inpainting and inversion, with networks whose answers are known."""

import math

import pytest
import torch
from exact_networks import gaussian

from ddpm_helpers.diffusion import DiffusionUtils, picture_noise
from ddpm_helpers.diffusion.editing import ddim_invert, inpaint, sdedit, slerp

SHAPE = (1, 4, 4)
D = DiffusionUtils(40, "cosine", prediction="x_0")


perfect = gaussian(D)


def pictures(n=2, seed=0):
    shape, source = (n, *SHAPE), torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=source, dtype=torch.float64) * 1.6 - 0.8


def test_slerp_keeps_the_length_of_noise_and_both_ends():
    a, b = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    arc = slerp(a, b, torch.linspace(0, 1, 5))  # (5, 3, 64, 64)
    torch.testing.assert_close(arc[0], a)
    torch.testing.assert_close(arc[-1], b)
    assert arc.flatten(1).std(1).sub(1).abs().max() < 0.02
    assert ((a + b) / 2).std() < 0.75  # what a straight line does
    angle = torch.acos((a * b).sum() / a.norm() / b.norm())
    third = torch.acos((a * slerp(a, b, torch.tensor([1 / 3]))[0]).sum() / a.norm() ** 2)
    assert third.item() == pytest.approx(angle.item() / 3, abs=0.02)
    torch.testing.assert_close(slerp(a, a, torch.tensor([0.5]))[0], a)


def test_sdedit_starts_from_the_noised_pictures():
    x, seen = pictures(), []

    def model(x_t, t):
        seen.append((int(t[0]), x_t.clone()))
        return perfect(x_t, t)

    sdedit(D, model, x, 12, seed=3, sampler="ddim", steps=4)
    assert [t for t, _ in seen] == [12, 9, 6, 3]
    eps = picture_noise(3, 2, SHAPE, torch.device("cpu"))()
    want, _ = D.add_noise(x.float(), torch.tensor([12, 12]), eps)
    torch.testing.assert_close(seen[0][1].float(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("steps", "ts"), [([11, 5], [11, 5]), (2, [12, 6])])
def test_sdedit_noises_to_the_timestep_where_it_begins(steps, ts):
    seen = []

    def model(x_t, t):
        seen.append((int(t[0]), x_t))
        return x_t * 0

    x = torch.full((1, 1, 100, 100), 0.9)
    sdedit(D, model, x, 12, seed=0, steps=steps)
    assert [t for t, _ in seen] == ts
    bar = D.alpha_bar[ts[0]].item()
    assert seen[0][1].mean().item() == pytest.approx(0.9 * math.sqrt(bar), abs=0.02)
    assert seen[0][1].var().item() == pytest.approx(1 - bar, rel=0.1)


def test_sdedit_of_a_later_batch_draws_the_same_pictures():
    x = pictures(5)
    together = sdedit(D, perfect, x, 12, seed=3)
    torch.testing.assert_close(sdedit(D, perfect, x[3:], 12, seed=3, first=3), together[3:])


@pytest.mark.parametrize("seed", [3, 4])
def test_the_noise_of_sdedits_steps_depends_on_the_seed(seed):
    """With x_0 = 0 for an answer, what is left of the second x_t is the noise of one step."""
    seen = []

    def model(x_t, t):
        seen.append(x_t)
        return x_t * 0

    sdedit(D, model, pictures(), 40, seed=seed, sampler="ddpm", steps=2)
    t, s = torch.full((2,), 40), torch.full((2,), 20)
    mean, variance = D.posterior(seen[0] * 0, seen[0], t, s)
    noise = picture_noise(seed, 2, SHAPE, torch.device("cpu"))
    noise()  # the start
    torch.testing.assert_close((seen[1] - mean) / variance.sqrt(), noise(), rtol=0, atol=1e-4)


def test_inpaint_keeps_the_known_and_never_looks_under_the_mask():
    x, hidden = pictures(), torch.zeros(4, 4, dtype=torch.bool)
    hidden[:, 2:] = True
    a = inpaint(D, perfect, x, hidden, seed=0, repeats=2)
    torch.testing.assert_close(a[..., :2], x.to(a)[..., :2])
    other = torch.where(hidden, torch.full_like(x, 7.0), x)
    assert torch.equal(a, inpaint(D, perfect, other, hidden, seed=0, repeats=2))
    assert (a - x)[..., 2:].abs().max() > 0.1


@pytest.mark.parametrize("repeats", [1, 3])
def test_what_inpaint_knows_is_noised_as_much_as_its_step_says(repeats):
    """At every step the network sees the known half as q(x_t | x_0), after going back too."""
    seen = []

    def model(x_t, t):
        seen.append((int(t[0]), x_t[..., :100].clone()))
        return perfect(x_t, t)

    hidden = torch.zeros(200, 200)
    hidden[:, 100:] = 1
    x = torch.full((1, 1, 200, 200), 0.8)
    drawn = inpaint(D, model, x, hidden, steps=10, repeats=repeats, seed=0)
    assert sorted({t for t, _ in seen}) == list(range(4, 41, 4))
    for t, known in seen:
        bar = D.alpha_bar[t].item()
        assert known.mean().item() == pytest.approx(0.8 * math.sqrt(bar), abs=0.02)
        assert known.var().item() == pytest.approx(1 - bar, rel=0.06)
    assert torch.equal(drawn[..., :100], x[..., :100])


def test_a_mask_may_be_an_array_or_a_list():
    x, hidden = pictures(), torch.eye(4)
    want = inpaint(D, perfect, x, hidden, steps=4, seed=0)
    for mask in (hidden.numpy(), hidden.numpy().astype(bool), hidden.int().tolist()):
        assert torch.equal(inpaint(D, perfect, x, mask, steps=4, seed=0), want)


@pytest.mark.parametrize(("repeats", "calls"), [(1, 10), (3, 28)])
def test_inpaint_takes_each_step_but_the_last_several_times(repeats, calls):
    seen = []

    def model(x_t, t):
        seen.append(int(t[0]))
        return perfect(x_t, t)

    inpaint(D, model, pictures(), torch.ones(4, 4), steps=10, repeats=repeats, seed=0)
    assert len(seen) == calls and seen[-1] == 4 and seen.count(40) == repeats


def test_inpainting_everything_draws_from_the_data():
    x = torch.zeros(1, 1, 100, 100)
    for repeats in (1, 3):
        drawn = inpaint(D, perfect, x, torch.ones(100, 100), seed=0, repeats=repeats, clip=False)
        assert drawn.std().item() == pytest.approx(0.5, rel=0.15)  # 40 steps, the smaller variance


def test_inpaint_fills_in_what_fits_the_known_half():
    """Two pixels that are equal in the data: the known one decides the other."""

    def model(x_t, t):  # x_0 = (u, u), u = +-0.8: the sign by a vote of both pixels
        bar = D.alpha_bar[t].to(x_t).reshape(-1, 1, 1, 1)
        vote = 0.8 * bar.sqrt() / (1 - bar) * x_t.sum(-1, keepdim=True)
        return (0.8 * torch.tanh(vote)).expand_as(x_t)

    x = torch.full((40, 1, 1, 2), -0.8)
    x[:20] = 0.8
    hidden = torch.tensor([[False, True]])
    drawn = inpaint(D, model, x, hidden, seed=0, repeats=5)
    assert (drawn[..., 1].sign() == x[..., 1].sign()).double().mean() > 0.9


def test_inversion_is_the_exact_flow_and_sampling_brings_the_picture_back():
    """For x_0 ~ N(0, s^2) the flow is linear: x_T = x_0 sqrt(s^2 bar + 1 - bar) / s."""
    d, x = DiffusionUtils(400, "linear", prediction="x_0"), pictures()
    model = gaussian(d)
    z = ddim_invert(d, model, x, repeats=4)
    bar = d.alpha_bar[-1].item()
    torch.testing.assert_close(
        z.double(), x * math.sqrt(0.25 * bar + 1 - bar) / 0.5, rtol=0.02, atol=1e-3
    )
    again = d.sample(model, 2, x_T=z, sampler="ddim", clip=False, seed=0)
    torch.testing.assert_close(again.double(), x, rtol=0, atol=1e-4)
    rough = ddim_invert(d, model, x, repeats=1, steps=10)
    close = ddim_invert(d, model, x, repeats=4, steps=10)
    options = {"sampler": "ddim", "steps": 10, "clip": False, "seed": 0}
    errors = [(d.sample(model, 2, x_T=z, **options) - x).abs().max() for z in (rough, close)]
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_inversion_brings_the_picture_back_in_ten_steps(schedule):
    """On the cosine schedule sigma falls from thousands to 10 in the first of them."""
    d, x = DiffusionUtils(500, schedule, prediction="x_0"), pictures()
    model = gaussian(d)
    z = ddim_invert(d, model, x, steps=10, repeats=10)
    again = d.sample(model, 2, x_T=z, sampler="ddim", steps=10, clip=False, seed=0)
    torch.testing.assert_close(again.double(), x, rtol=0, atol=1e-5)


def test_inversion_clips_on_request_alone():
    """Data N(1.3, 0.5^2): where little is to be seen, the network's answer lies outside of 1."""
    x, model = pictures(), gaussian(D, mean=1.3)
    options = {"sampler": "ddim", "seed": 0}
    z = ddim_invert(D, model, x, repeats=20)
    again = D.sample(model, 2, x_T=z, clip=False, **options)
    torch.testing.assert_close(again.double(), x, rtol=0, atol=1e-3)
    clipped = ddim_invert(D, model, x, repeats=20, clip=True)
    assert (clipped - z).abs().max() > 0.01


def test_refuses_wrong_arguments():
    x = pictures()
    for call, words in (
        (lambda: sdedit(D, perfect, x, 0), "t must .* 1..40, got 0"),
        (lambda: sdedit(D, perfect, x, 41), "t must .* 1..40, got 41"),
        (lambda: sdedit(D, perfect, x, 9, steps=10), "steps must .* 1..9, got 10"),
        (lambda: sdedit(D, perfect, x[0], 9), r"images must .* \(1, 4, 4\)"),
        (lambda: inpaint(D, perfect, x, torch.ones(4, 4), repeats=0), "repeats must .* 0"),
        (lambda: ddim_invert(D, perfect, x, steps=41), "steps must .* 1..40, got 41"),
        (lambda: ddim_invert(D, perfect, x.byte()), "images must .*uint8"),
        (lambda: slerp(x[0], x[0, :, :2], torch.ones(1)), r"a must .* \(1, 4, 4\)"),
        (lambda: slerp(x[0], -x[0], torch.ones(1)), "from a to b.* -1.0000"),
        (lambda: slerp(x[0], x[0] * 0, torch.ones(1)), "from a to b.* nan"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(RuntimeError, match="expand"):
        inpaint(D, perfect, x, torch.ones(5, 4))
