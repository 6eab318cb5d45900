"""Flow matching: the straight path, its predictions, its times and samplers, in closed form."""

import math

import pytest
import torch
from exact_networks import gaussian, mixture, randn, wavy

from ddpm_helpers import DiffusionUtils, doctor
from ddpm_helpers.diffusion import SCHEDULES, beta_schedule, draw_steps, network_calls
from ddpm_helpers.diffusion.editing import ddim_invert, inpaint, sdedit, slerp
from ddpm_helpers.diffusion.likelihood import bits_per_dim

SHAPE = (2, 3, 3)


def flow(T=50, schedule="flow"):
    return DiffusionUtils(T, schedule, prediction="flow")


# ---- the path ----------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 7, 500])
def test_x_t_is_the_straight_path_up_to_one_number_a_step(T):
    d, x_0, eps, t = (
        flow(T),
        randn(T + 1, *SHAPE),
        randn(T + 1, *SHAPE, seed=1),
        torch.arange(T + 1),
    )
    s = (t.double() / T).reshape(-1, 1, 1, 1)
    path = (1 - s) * x_0 + s * eps
    x_t, _ = d.add_noise(x_0, t, eps)
    torch.testing.assert_close(x_t * ((1 - s) ** 2 + s**2).sqrt(), path, rtol=0, atol=1e-10)
    assert torch.equal(x_t[0], x_0[0]) and torch.equal(x_t[-1], eps[-1])


# ---- sampling ----------------------------------------------------------------------------


def velocity(d, z, s):
    """A network that is shown z of the straight path and its time s."""
    n = math.hypot(1 - s, s)
    return torch.tanh(z / n * 0.7 + round(s * d.T) * 0.01)


def solve(d, z, steps, order):
    """Euler (1) or Heun (2) for dz/ds = u from s = 1 to 0; Heun's last step is Euler's."""
    for k in range(steps, 0, -1):
        s, r = k / steps, (k - 1) / steps
        u = velocity(d, z, s)
        ahead = z + (r - s) * u
        if order == 2 and r > 0:
            ahead = z + (r - s) * (u + velocity(d, ahead, r)) / 2
        z = ahead
    return z


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 2)])
@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_the_solvers_of_flow_matching_are_ddim_and_heun(sampler, order, steps):
    d, x_T = flow(100), randn(4, *SHAPE)
    x = d.sample(wavy, 4, sampler=sampler, steps=steps, x_T=x_T, clip=False)
    torch.testing.assert_close(x, solve(d, x_T, steps, order), rtol=0, atol=1e-10)
    assert network_calls(d, steps, sampler) == (steps if order == 1 else 2 * steps - 1)


def test_heun_in_sigma_and_heun_in_s_are_different_methods():
    """The same table under no name takes its means in sigma: close, and not the same."""
    d, x_T = flow(100), randn(4, *SHAPE)
    unnamed = DiffusionUtils(100, beta_schedule("flow", 100), prediction="flow")
    named, other = (
        e.sample(wavy, 4, sampler="heun", steps=10, x_T=x_T, clip=False) for e in (d, unnamed)
    )
    assert 1e-4 < (named - other).abs().max() < 0.2


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpm++"])
def test_every_sampler_draws_a_mixture_from_its_perfect_velocity(sampler):
    """Two narrow clouds at -0.6 and 0.6, two thirds and one third: shares and spread come out."""
    d = flow(200)
    model = mixture(d, [-0.6, 0.6], 0.1, [2 / 3, 1 / 3])
    x = d.sample(model, 2000, sampler=sampler, seed=0, shape=(1, 1, 1), clip=False).flatten()
    right = x[x > 0]
    assert abs(len(right) / 2000 - 1 / 3) < 0.04  # four standard deviations
    assert abs(right.mean() - 0.6) < 0.02 and abs(right.std() - 0.1) < 0.02


def test_our_path_is_that_of_the_reference_library():
    """flow_matching counts from noise to data: its time is 1 - s."""
    path = pytest.importorskip("flow_matching.path")
    x_0, eps, s = randn(3, *SHAPE), randn(3, *SHAPE, seed=1), torch.tensor([0.1, 0.5, 0.8])
    theirs = path.CondOTProbPath().sample(x_0=eps, x_1=x_0, t=1 - s.double())
    d, t = flow(10), (s * 10).round().long()
    a, b = (w.sqrt().reshape(-1, 1, 1, 1) for w in (d.alpha_bar[t], 1 - d.alpha_bar[t]))
    x_t, _ = d.add_noise(x_0, t, eps)
    torch.testing.assert_close(x_t / (a + b), theirs.x_t, rtol=0, atol=1e-7)
    torch.testing.assert_close(d.target(x_0, eps, t), -theirs.dx_t)


# ---- everything else on the straight path ------------------------------------------------


def test_editing_and_the_likelihood_bound_work_without_signal_at_T():
    d = flow(40)
    model = gaussian(d, 0.3, 0.4)
    x_0 = (0.3 + 0.4 * randn(2, *SHAPE)).clamp(-0.9, 0.9)
    noise = ddim_invert(d, model, x_0, repeats=20)
    back = d.sample(model, 2, sampler="ddim", x_T=noise, clip=False)
    torch.testing.assert_close(back, x_0.float(), rtol=0, atol=1e-4)
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[0] = True
    filled = inpaint(d, model, x_0, mask, steps=10, seed=0)
    assert torch.equal(filled[..., 1:, :], x_0[..., 1:, :].float()) and torch.isfinite(filled).all()
    assert torch.isfinite(sdedit(d, model, x_0, 40, steps=5, seed=0)).all()
    assert torch.isfinite(slerp(noise[0], noise[1], torch.tensor([0.5]))).all()
    bits = bits_per_dim(d, model, x_0)
    assert (bits.prior == 0).all() and torch.isfinite(bits.total).all()


# ---- which t a batch sees ----------------------------------------------------------------


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("T", [1, 10, 500])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_stratified_takes_one_t_from_each_part_in_random_order(n, T):
    t = draw_steps(n, torch.ones(T + 1), "stratified", seeded())
    assert t.dtype == torch.int64 and t.shape == (n,)
    share = t.sort().values.double() / T  # t is share * T, rounded up
    k = torch.arange(n)
    assert (share > k / n - 1e-9).all() and (share <= (k + 1) / n + 1 / T).all()
    if n == 64 and T == 500:
        assert not torch.equal(t, t.sort().values)
    with pytest.raises(ValueError, match="t_sampling 'lognormal'.*log_normal"):
        draw_steps(n, torch.ones(T + 1), "lognormal")


def many_steps(alpha_bar, t_sampling):
    batches = [draw_steps(100, alpha_bar, t_sampling, seeded(k)) for k in range(200)]
    return torch.cat(batches).double()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_normal_has_the_quantiles_of_its_formula_on_every_schedule(schedule):
    bar = DiffusionUtils(500, schedule, prediction="v").alpha_bar
    t = many_steps(bar, "log_normal").long()
    for share, z in ((0.5, 0.0), (0.8413, 1.0), (0.1587, -1.0), (0.97725, 2.0)):
        level = math.exp(-0.6 + 1.5 * z)  # sigma / alpha
        expected = (bar > 1 / (1 + level**2)).sum().item()  # the steps with less noise, 0 included
        assert abs(t.double().quantile(share).item() - min(expected, 500)) < 4
    assert t.min() >= 1 and t.max() <= 500


def test_logit_normal_has_the_quantiles_of_its_formula():
    t = many_steps(torch.ones(501), "logit_normal")
    for share, z in ((0.5, 0.0), (0.8413, 1.0), (0.1587, -1.0), (0.97725, 2.0)):
        expected = 500 / (1 + math.exp(-z))
        assert abs(t.quantile(share).item() - expected) < 4
    assert t.min() >= 1 and t.max() <= 500


# ---- the rest of the package -------------------------------------------------------------


def test_the_doctor_finds_a_perfect_flow_healthy_and_names_a_wrong_reading():
    d = flow(100)
    for sampler in ("ddpm", "ddim", "heun", "dpm++"):

        def draw(model, x_T, sampler=sampler):
            return d.sample(model, len(x_T), x_T=x_T, sampler=sampler, seed=0)

        found = doctor.check_sampler(draw, d.alpha_bar, prediction="flow")
        assert found.verdict == "ok", (sampler, found.sentence)
    wrong = DiffusionUtils(100, "flow", prediction="v")

    def misread(model, x_T):
        return wrong.sample(model, len(x_T), x_T=x_T, sampler="ddim", seed=0)

    sentence = doctor.check_sampler(misread, d.alpha_bar, prediction="flow").sentence
    assert "treats the output as v, but it is flow" in sentence


def test_the_doctor_weighs_the_loss_and_the_guess_of_a_flow():
    """The best guess of a pixel from itself scores 1, and min-SNR weights are healthy."""
    d, x_0 = flow(500), 0.5 * randn(64, 3, 16, 16)
    guess = gaussian(d, mean=0.0, spread=0.5)
    found = doctor.check_loss(guess, x_0, d.alpha_bar, prediction="flow")
    assert all(abs(ratio - 1) < 0.05 for ratio in found.numbers.values())
    t, zeros = torch.arange(501), torch.zeros(501, *SHAPE)
    off_by_1 = d.loss(lambda x, t: torch.ones_like(x), zeros, t, zeros, min_snr_gamma=5.0)
    weights = off_by_1.double()
    assert doctor.check_loss_weights(weights, d.alpha_bar, prediction="flow").verdict == "ok"


def test_diffusers_is_refused_in_one_line():
    pytest.importorskip("diffusers")
    from ddpm_helpers.export.diffusers_net import make_scheduler

    with pytest.raises(ValueError, match="'flow'.* eps, x_0, v"):
        make_scheduler(DiffusionUtils(10, prediction="flow"))
