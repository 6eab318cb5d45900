"""Fast samplers: step by step against diffusers, and their order of convergence."""

import math

import numpy as np
import pytest
import torch
from against_diffusers import KIND, SHAPE, ddim_step, noise_source, pair, walk_beside
from exact_networks import gaussian, mixture, wavy

from ddpm_helpers.diffusion import PREDICTIONS, DiffusionUtils, network_calls

TIGHT = {"rtol": 0, "atol": 1e-9}
LOOSE = {"rtol": 0, "atol": 5e-6}  # their DPM solver computes in float32, whatever it is given


def in_float64(theirs):
    """Their noise levels again, without the rounding to float32 of `set_timesteps`."""
    bar = theirs.alphas_cumprod[theirs.timesteps.long().cpu()]
    theirs.sigmas = torch.cat([((1 - bar) / bar).sqrt(), torch.zeros(1, dtype=torch.float64)])


# ---- diffusers ---------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
@pytest.mark.parametrize("steps", [100, 20, 5, 2, 1])
def test_dpm_plus_plus_agrees_with_diffusers_at_every_step(prediction, steps):
    theirs, ours = pair(
        "DPMSolverMultistepScheduler", 100, prediction, timestep_spacing="trailing",
        algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero",
    )  # fmt: skip
    theirs.set_timesteps(steps)
    in_float64(theirs)
    options = {"sampler": "dpm++", "x_T": noise_source()(), "seed": 0, "clip": False}
    walk = list(ours.sample_steps(wavy, 2, steps=steps, **options))
    done = walk_beside(theirs, walk, atol=LOOSE["atol"])
    torch.testing.assert_close(walk[-1].x_t, done.prev_sample, **LOOSE)


def compare_heun(theirs, walk, ts, sigmas):
    """Walk theirs through the timesteps of ours, each but the first in two half steps."""
    z = walk[0].x_t * (1 + sigmas[0] ** 2).sqrt()  # their variable: x_t / sqrt(alpha_bar)
    for i, t in enumerate([ts[0], *(t for t in ts[1:] for _ in range(2))]):
        theirs._step_index = i  # it decides; a timestep is only its name
        if i % 2 == 0:
            there = walk[(i + 1) // 2].x_t * (1 + sigmas[i] ** 2).sqrt()
            torch.testing.assert_close(there, z, **TIGHT)
        x_t = theirs.scale_model_input(z, theirs.timesteps[i])
        z = theirs.step(wavy(x_t, torch.full((2,), t)), theirs.timesteps[i], z).prev_sample
    torch.testing.assert_close(walk[-1].x_t, z, **TIGHT)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [100, 20, 5, 1])
def test_heun_agrees_with_diffusers_at_every_step(prediction, clip, steps):
    theirs, ours = pair(
        "HeunDiscreteScheduler", 100, prediction, timestep_spacing="trailing", clip_sample=clip
    )
    theirs.set_timesteps(steps)
    ts = [100 * i // steps for i in range(steps, 0, -1)]
    sigma = (1 / ours.alpha_bar[ts] - 1).sqrt()  # theirs, without the rounding to float32
    twice = torch.cat([sigma[:1], sigma[1:].repeat_interleave(2), sigma.new_zeros(1)])
    torch.testing.assert_close(theirs.sigmas.double(), twice, rtol=1e-4, atol=1e-6)
    theirs.sigmas = twice
    walk = list(
        ours.sample_steps(
            wavy, 2, sampler="heun", x_T=noise_source()(), seed=0, steps=steps, clip=clip
        )
    )
    compare_heun(theirs, walk, ts, twice)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_heun_agrees_with_diffusers_on_the_cosine_schedule(prediction):
    """Own steps from below T, over which sigma falls at most fourfold."""
    import diffusers

    ours = DiffusionUtils(500, "cosine", prediction=prediction)
    theirs = diffusers.HeunDiscreteScheduler(
        500, trained_betas=ours.betas[1:].tolist(), prediction_type=KIND[prediction]
    )
    ts = [490, 470, 430, 350, 220, 110, 45, 20, 6]
    sigma = (1 / ours.alpha_bar[ts] - 1).sqrt()
    assert (sigma[:-1] / sigma[1:]).max() < 4 < sigma[0] / sigma[-1]
    theirs.set_timesteps(len(ts))
    theirs.sigmas = torch.cat([sigma[:1], sigma[1:].repeat_interleave(2), sigma.new_zeros(1)])
    x_T = noise_source()()
    options = {"sampler": "heun", "x_T": x_T, "steps": ts, "clip": False, "seed": 0}
    walk = list(ours.sample_steps(wavy, 2, **options))
    compare_heun(theirs, walk, ts, theirs.sigmas)


@pytest.mark.parametrize(("ratio", "plain"), [(3.9, False), (4.1, True)])
def test_heun_takes_a_plain_step_where_the_noise_level_falls_over_fourfold(ratio, plain):
    sigma = torch.tensor([0, 0.3, 0.3 * ratio], dtype=torch.float64)
    bar = 1 / (1 + sigma**2)
    d = DiffusionUtils(2, [0, *(1 - bar[1:] / bar[:-1]).tolist()], prediction="x_0")
    options = {"x_T": noise_source()(), "seed": 0, "clip": False}
    heun, ddim = (
        list(d.sample_steps(wavy, 2, sampler=name, **options)) for name in ("heun", "ddim")
    )
    assert torch.equal(heun[1].x_t, ddim[1].x_t) is plain
    assert network_calls(d, None, "heun") == (2 if plain else 3)


@pytest.mark.parametrize("steps", [50, 10])
def test_ddpm_with_variance_beta_agrees_with_diffusers_until_the_last_step(steps, monkeypatch):
    theirs, ours = pair(
        "DDPMScheduler", 50, "eps", timestep_spacing="trailing", variance_type="fixed_large"
    )
    theirs.set_timesteps(steps)
    noise = noise_source()
    x_T = noise()
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: noise()
    )
    walk = list(ours.sample_steps(wavy, 2, x_T=x_T, seed=3, steps=steps, variance="beta"))
    done = walk_beside(theirs, walk)
    # The result is the mean: they add noise here when steps were left out.
    torch.testing.assert_close(walk[-1].x_t, done.pred_original_sample, **TIGHT)


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("steps", [10, 7])
def test_ddim_with_leading_spacing_agrees_with_diffusers(eta, steps):
    theirs, ours = pair("DDIMScheduler", 50, "v", timestep_spacing="leading")
    theirs.set_timesteps(steps)
    noise = noise_source()
    options = {"sampler": "ddim", "eta": eta, "x_T": noise(), "seed": 3, "spacing": "leading"}
    walk = list(ours.sample_steps(wavy, 2, steps=steps, **options))
    assert walk[0].t == 50 // steps * (steps - 1) + 1 and walk[-2].t == 1
    done = walk_beside(theirs, walk, ddim_step(theirs, eta, noise, last=1))
    torch.testing.assert_close(walk[-1].x_t, done.prev_sample, **TIGHT)


def test_any_sub_sequence_is_walked_and_agrees_with_diffusers():
    """dpm++ over uneven steps: diffusers takes its own time steps as a list."""
    theirs, ours = pair(
        "DPMSolverMultistepScheduler", 100, "eps", algorithm_type="dpmsolver++",
        solver_order=2, final_sigmas_type="zero",
    )  # fmt: skip
    ts = [97, 60, 55, 21, 3]
    theirs.set_timesteps(timesteps=[t - 1 for t in ts])
    in_float64(theirs)
    options = {"sampler": "dpm++", "x_T": noise_source()(), "seed": 0, "clip": False}
    walk = list(ours.sample_steps(wavy, 2, steps=ts, **options))
    done = walk_beside(theirs, walk, atol=LOOSE["atol"])
    torch.testing.assert_close(walk[-1].x_t, done.prev_sample, **LOOSE)
    for given in (torch.tensor(ts), np.array(ts), tuple(ts)):
        again = list(ours.sample_steps(wavy, 2, steps=given, **options))
        assert torch.equal(again[-1].x_t, walk[-1].x_t)


# ---- order of convergence ----------------------------------------------------------------

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
CENTRES, SPREAD = torch.tensor([-0.6, 0.5], dtype=torch.float64), 0.3


def cumulated(d, t, x):
    bar = d.alpha_bar[t]
    mean, std = bar.sqrt() * CENTRES, (bar * SPREAD**2 + 1 - bar).sqrt()
    return (WEIGHTS * (1 + torch.erf((x[..., None] - mean) / std / math.sqrt(2))) / 2).sum(-1)


def exact_flow(d, x_T, t):
    """The flow keeps the order of the pixels, so it carries quantiles at T to quantiles at t."""
    low, high = torch.full_like(x_T, -5), torch.full_like(x_T, 5)
    wanted = cumulated(d, d.T, x_T)
    for _ in range(60):
        middle = (low + high) / 2
        below = cumulated(d, t, middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low


@pytest.mark.parametrize(
    ("sampler", "least", "most"), [("ddim", 0.85, 1.2), ("heun", 1.8, 2.3), ("dpm++", 1.8, 2.3)]
)
def test_samplers_converge_to_the_exact_flow_at_their_order(sampler, least, most):
    """Error against the number of steps, on logarithmic axes: a line of slope -1 or -2."""
    log_snr = torch.linspace(3, -3, 801, dtype=torch.float64)  # even steps in the solvers' variable
    bar = torch.cat([torch.ones(1), torch.sigmoid(2 * log_snr)])
    betas = torch.cat([torch.zeros(1), 1 - bar[1:] / bar[:-1]])
    d = DiffusionUtils(801, betas, prediction="x_0")
    x_T = torch.linspace(-2, 2, 33, dtype=torch.float64).reshape(1, 1, 1, -1)
    options = {"sampler": sampler, "x_T": x_T, "clip": False, "seed": 0}
    model = mixture(d, CENTRES.tolist(), SPREAD, WEIGHTS.tolist())
    counts, errors = [20, 40, 80, 160], []
    for k in counts:
        ts = list(range(801, 0, -800 // k))  # to t = 1; the step to 0 is first order for all
        walk = list(d.sample_steps(model, 1, steps=ts, **options))
        assert walk[-2].t == 1 and len(walk) == k + 2
        error = walk[-2].x_t - exact_flow(d, x_T, 1)
        errors.append(error.square().mean().sqrt().item())
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert least < slope < most, (slope, errors)
    assert errors[-1] < {"ddim": 1e-2, "heun": 2e-4, "dpm++": 2e-4}[sampler]


# ---- the variance of ddpm, guidance in an interval ---------------------------------------


def test_the_two_variances_bound_the_spread_of_gaussian_data_from_both_sides():
    """Ho et al. 2020, section 3.2: one is too small, the other too large, for data in between."""
    d = DiffusionUtils(200, "cosine", prediction="x_0")
    model = gaussian(d, spread=0.5)
    options = {"steps": 10, "clip": False, "seed": 0, "shape": (1, 150, 150)}
    small = d.sample(model, 1, variance="posterior", **options).std().item()
    large = d.sample(model, 1, variance="beta", **options).std().item()
    assert small < 0.49 and large > small + 0.02
    assert torch.equal(
        d.sample(model, 1, **options), d.sample(model, 1, variance="posterior", **options)
    )


def test_guidance_works_inside_its_interval_alone():
    d, asked = DiffusionUtils(10, prediction="x_0"), []

    def model(x_t, t, y):
        asked.append((int(t[0]), len(x_t)))
        return x_t * 0 + y.to(x_t).reshape(-1, 1, 1, 1) * 0.1

    options = {"y": 2, "guidance": 3.0, "seed": 0, "shape": SHAPE, "clip": False}
    walk = list(d.sample_steps(model, 1, guidance_interval=(3, 7), **options))
    assert asked == [(t, 2 if 3 <= t <= 7 else 1) for t in range(10, 0, -1)]
    for step in walk[:-1]:
        inside = 3 <= step.t <= 7  # with y: 0.2; without: -0.1; -0.1 + 3 * 0.3 = 0.8
        assert step.x_0_pred.mean().item() == pytest.approx(0.8 if inside else 0.2, abs=1e-6)


# ---- weights of the loss -----------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weighs_every_target_as_min_snr_on_x_0(prediction):
    """Whatever is predicted, the weighted error is min(SNR, gamma) times the error in x_0."""
    d = DiffusionUtils(50, "cosine", prediction=prediction)
    t = torch.arange(1, 51)
    x_0 = torch.rand(50, *SHAPE, dtype=torch.float64) * 2 - 1
    eps = torch.randn(50, *SHAPE, dtype=torch.float64)
    x_t, _ = d.add_noise(x_0, t, eps)
    output = torch.randn(50, *SHAPE, dtype=torch.float64)
    error = (d.predict_x_0(output, x_t, t) - x_0).square().flatten(1).mean(1)
    snr = d.alpha_bar[1:] / (1 - d.alpha_bar[1:])
    loss = d.loss(lambda x, t: output, x_0, t, eps, min_snr_gamma=5.0)
    torch.testing.assert_close(loss, snr.clamp(max=5) * error, rtol=1e-8, atol=0)


def test_min_snr_is_finite_at_both_ends_and_refuses():
    d = DiffusionUtils(50, "cosine", prediction="v", rescale_zero_snr=True)
    x_0, eps, t = torch.zeros(3, *SHAPE), torch.ones(3, *SHAPE), torch.tensor([0, 25, 50])
    loss = d.loss(lambda x, t: x, x_0, t, eps, min_snr_gamma=5.0)
    assert torch.isfinite(loss).all() and loss[0] == 0 and loss[2] == 0  # v carries no x_0 at T
    for gamma in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"min_snr_gamma .* {gamma}"):
            d.loss(lambda x, t: x, x_0, t, eps, min_snr_gamma=gamma)
