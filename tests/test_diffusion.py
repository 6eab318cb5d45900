"""DiffusionUtils against closed forms, numeric Bayes, round trips and diffusers."""

import json
import math

import pytest
import torch
from exact_networks import randn

from ddpm_helpers.diffusion import PREDICTIONS, SCHEDULES, DiffusionUtils, beta_schedule

B, SHAPE = 6, (6, 3, 4, 5)


def utils(T=50, schedule="cosine", prediction="eps", **options):
    return DiffusionUtils(T, schedule, prediction=prediction, **options)


# ---- tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_have_T_plus_1_entries_and_exact_ends(name):
    d = DiffusionUtils(500, name, prediction="v")
    for table in (d.betas, d.alphas, d.alpha_bar):
        assert table.shape == (501,) and table.dtype == torch.float64
    assert d.betas[0] == 0 and d.alphas[0] == 1 and d.alpha_bar[0] == 1
    product = 1.0
    for t in range(1, 501):
        product *= 1 - d.betas[t].item()
        assert d.alpha_bar[t].item() == pytest.approx(product, rel=1e-12)


def test_defaults_are_those_of_the_contract():
    d = DiffusionUtils()
    assert (d.T, d.schedule, d.prediction) == (500, "cosine", "eps")


@pytest.mark.parametrize("schedule", ["sigmoid", [0, 0.1, 0.2, 0.5]])
def test_config_is_plain_and_builds_the_same_object_again(schedule):
    d = DiffusionUtils(3, schedule, prediction="v", rescale_zero_snr=True)
    again = DiffusionUtils(**json.loads(json.dumps(d.config)))
    assert torch.equal(d.alpha_bar, again.alpha_bar) and again.prediction == "v"


# ---- noising -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_add_noise_is_the_closed_form_at_every_step(name):
    d, x_0, eps = utils(50, name, "v"), randn(51, 1, 2, 2), randn(51, 1, 2, 2, seed=1)
    x_t, used = d.add_noise(x_0, torch.arange(51), eps)
    assert used is eps
    bar = 1.0
    for t in range(51):
        bar *= 1 - d.betas[t].item()
        torch.testing.assert_close(x_t[t], math.sqrt(bar) * x_0[t] + math.sqrt(1 - bar) * eps[t])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noising_is_exact_at_both_ends(dtype):
    x_0, eps = randn(*SHAPE, dtype=dtype), randn(*SHAPE, seed=1, dtype=dtype)
    for prediction in PREDICTIONS:
        x_t, _ = utils(prediction=prediction).add_noise(x_0, torch.zeros(B).long(), eps)
        assert torch.equal(x_t, x_0) and x_t.dtype == dtype
    d = utils(prediction="v", rescale_zero_snr=True)
    x_T, _ = d.add_noise(x_0, torch.full((B,), d.T), eps)
    assert torch.equal(x_T, eps)


def test_noise_is_drawn_where_none_is_given():
    torch.manual_seed(0)
    x_t, eps = utils().add_noise(torch.zeros(8, 3, 32, 32), torch.full((8,), 50))
    assert eps.mean().abs() < 0.02 and abs(eps.std().item() - 1) < 0.02
    torch.testing.assert_close(x_t, eps, rtol=1e-3, atol=1e-5)


# ---- predictions -------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_targets_round_trip_to_x_0_and_eps(prediction, name):
    if prediction == "eps" and name == "flow":
        pytest.skip("refused: see test_refuses_settings")
    d = utils(40, name, prediction)
    t = torch.arange(1, 40)  # both ends have tests of their own
    x_0, eps = randn(39, 2, 3, 3), randn(39, 2, 3, 3, seed=1)
    x_t, _ = d.add_noise(x_0, t, eps)
    output = d.target(x_0, eps, t)
    torch.testing.assert_close(d.predict_x_0(output, x_t, t), x_0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(d.predict_eps(output, x_t, t), eps, rtol=1e-8, atol=1e-8)
    output = randn(39, 2, 3, 3, seed=2)  # any output is that of some x_0 and eps, which make x_t
    halves = d.predict_x_0(output, x_t, t), d.predict_eps(output, x_t, t)
    torch.testing.assert_close(d.target(*halves, t), output, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(d.add_noise(halves[0], t, halves[1])[0], x_t, rtol=1e-8, atol=1e-8)


def test_v_is_the_derivative_along_the_circle():
    """x_t = cos(phi) x_0 + sin(phi) eps, and v = dx_t / dphi (Salimans & Ho, appendix D)."""
    d, x_0, eps = utils(prediction="v"), randn(1, 1, 2, 2), randn(1, 1, 2, 2, seed=1)
    phi, h = math.acos(math.sqrt(d.alpha_bar[20])), 1e-6

    def x(angle):
        return math.cos(angle) * x_0 + math.sin(angle) * eps

    slope = (x(phi + h) - x(phi - h)) / (2 * h)
    torch.testing.assert_close(d.target(x_0, eps, torch.tensor([20])), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_at_0_the_picture_is_known_whatever_the_network_says(prediction):
    d, x, anything = utils(prediction=prediction), randn(*SHAPE), randn(*SHAPE, seed=1)
    t = torch.zeros(B).long()
    answer = d.predict_x_0(anything, x, t)
    assert torch.equal(answer, anything if prediction == "x_0" else x)
    if prediction == "x_0":
        with pytest.raises(ValueError, match=r"t must lie in 1..50, got 0..0"):
            d.predict_eps(anything, x, t)
    elif prediction == "flow":
        assert torch.equal(d.predict_eps(anything, x, t), x + anything)
    else:
        assert torch.equal(d.predict_eps(anything, x, t), anything)


@pytest.mark.parametrize("prediction", ["x_0", "v", "flow"])
def test_at_T_without_signal_nothing_is_divided_by_zero(prediction):
    d = utils(prediction=prediction, rescale_zero_snr=True)
    x_0, eps, t = randn(*SHAPE), randn(*SHAPE, seed=1), torch.full((B,), d.T)
    x_t, _ = d.add_noise(x_0, t, eps)
    output = d.target(x_0, eps, t)
    torch.testing.assert_close(d.predict_x_0(output, x_t, t), x_0, rtol=0, atol=1e-12)
    assert torch.equal(d.predict_eps(output, x_t, t), eps)


# ---- posterior ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize(("t", "s"), [(2, 1), (25, 24), (50, 49), (30, 12)])
def test_posterior_is_bayes_rule_on_a_grid(name, t, s):
    """q(x_s | x_t, x_0) is q(x_s | x_0) q(x_t | x_s), normalised; here by brute force."""
    d, x_0, x_t = utils(50, name), 0.6, -0.4
    bar = (1 - beta_schedule(name, 50)).cumprod(0)
    keep = bar[t] / bar[s]
    u = torch.linspace(-8, 8, 2_000_001, dtype=torch.float64)
    log = -((u - bar[s].sqrt() * x_0) ** 2) / (2 * (1 - bar[s]))
    log -= (x_t - keep.sqrt() * u) ** 2 / (2 * (1 - keep))
    p = (log - log.max()).exp()
    p /= p.sum()
    mean = (p * u).sum()
    variance = (p * (u - mean) ** 2).sum()
    a, b = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (x_0, x_t))
    got = d.posterior(a, b, torch.tensor([t]), torch.tensor([s]))
    torch.testing.assert_close(got[0].squeeze(), mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(got[1].squeeze(), variance, rtol=1e-6, atol=0)
    if s == t - 1:
        same = d.posterior(a, b, torch.tensor([t]))
        assert torch.equal(same[0], got[0]) and torch.equal(same[1], got[1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_at_1_is_the_clean_picture_exactly(name):
    x_0, x_t = randn(*SHAPE), randn(*SHAPE, seed=1)
    mean, variance = utils(500, name, "v").posterior(x_0, x_t, torch.ones(B).long())
    assert torch.equal(mean, x_0) and (variance == 0).all() and variance.shape == (B, 1, 1, 1)


def test_posterior_without_signal_at_T_forgets_x_T():
    d = utils(prediction="v", rescale_zero_snr=True)
    x_0, t = randn(*SHAPE), torch.full((B,), d.T)
    mean, variance = d.posterior(x_0, randn(*SHAPE, seed=1), t)
    torch.testing.assert_close(mean, d.alpha_bar[-2].sqrt() * x_0)
    torch.testing.assert_close(variance, (1 - d.alpha_bar[-2]).expand(B, 1, 1, 1))


# ---- loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loss_is_zero_for_the_right_answer_and_known_for_a_wrong_one(prediction):
    d, x_0, eps = utils(prediction=prediction), randn(*SHAPE), randn(*SHAPE, seed=1)
    t = torch.tensor([0, 1, 10, 25, 49, 50])
    right = d.target(x_0, eps, t)
    assert torch.equal(d.loss(lambda x, t: right, x_0, t, eps), torch.zeros(B).double())
    off = torch.arange(B).double().reshape(-1, 1, 1, 1)
    losses = d.loss(lambda x, t: right + off, x_0, t, eps)
    torch.testing.assert_close(losses, torch.arange(B).double() ** 2)


def test_a_network_that_outputs_zero_has_the_loss_of_its_target():
    d = utils(500, prediction="eps")
    generator = torch.Generator().manual_seed(0)
    loss = d.training_loss(lambda x, t: x * 0, torch.zeros(64, 3, 16, 16), generator=generator)
    assert loss.shape == () and abs(loss.item() - 1) < 0.03


def test_training_draws_every_t_from_1_to_T_equally_and_repeats_by_its_generator():
    d, seen = utils(5), []

    def model(x, t, y=None):
        seen.append(t)
        return x

    x_0 = torch.zeros(5000, 1, 1, 1)
    losses = [
        d.training_loss(model, x_0, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    ]
    assert torch.equal(losses[0], losses[1]) and torch.equal(seen[0], seen[1])
    counts = torch.bincount(seen[0], minlength=6)
    assert counts[0] == 0 and len(counts) == 6
    assert ((counts[1:] - 1000).abs() < 150).all()  # five standard deviations


def test_labels_reach_the_network_and_gradients_its_weights():
    w = torch.ones(1, requires_grad=True)
    y = torch.tensor([3, 1, 2, 0, 0, -1])

    def model(x, t, labels):
        assert torch.equal(labels, y)
        return w * x

    utils().training_loss(model, randn(*SHAPE), y).backward()
    assert w.grad is not None and w.grad.abs() > 0


# ---- bad input ---------------------------------------------------------------------------

x = torch.zeros(2, 3, 4, 4)
BAD_T = [
    (torch.tensor([0, 51]), "t must lie in 0..50, got 0..51"),
    (torch.tensor([-1, 3]), "t must lie in 0..50, got -1..3"),
    (torch.tensor([1]), r"t must be \(2,\).* got \(1,\)"),
    (torch.tensor(3), r"t must be \(2,\).* got \(\)"),
    (torch.tensor([1.0, 2.0]), "t must be .* got torch.float32"),
    (3, "t must be .* got int"),
]


def test_every_method_refuses_a_wrong_t():
    d = utils(prediction="v")
    for call in (
        lambda t: d.add_noise(x, t),
        lambda t: d.target(x, x, t),
        lambda t: d.predict_x_0(x, x, t),
        lambda t: d.predict_eps(x, x, t),
        lambda t: d.loss(lambda x, t: x, x, t, x),
    ):
        for t, words in BAD_T:
            with pytest.raises(ValueError, match=words):
                call(t)
    with pytest.raises(ValueError, match="t must lie in 1..50, got 0..1"):
        d.posterior(x, x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"s must be below t.*\[5, 5\].*\[4, 5\]"):
        d.posterior(x, x, torch.tensor([5, 5]), torch.tensor([4, 5]))


def test_shapes_that_differ_are_named():
    d, t, other = utils(), torch.tensor([1, 2]), torch.zeros(2, 1, 4, 4)
    for call in (
        lambda: d.add_noise(x, t, other),
        lambda: d.predict_x_0(other, x, t),
        lambda: d.predict_eps(other, x, t),
        lambda: d.posterior(other, x, t),
        lambda: d.loss(lambda x, t: other, x, t, x),
    ):
        with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\); got \(2, 1, 4, 4\)"):
            call()
    with pytest.raises(ValueError, match=r"got torch.float32 \(3, "):
        d.training_loss(lambda x, t: x, x[0])
    with pytest.raises(ValueError, match=r"got torch.uint8"):
        d.add_noise(x.to(torch.uint8), t)


def test_refuses_settings():
    for arguments, options, words in (
        ((0,), {}, "timesteps .* 0"),
        ((10, "cos"), {}, "schedule 'cos'.*linear, cosine"),
        ((10,), {"prediction": "x0"}, "prediction 'x0'.*eps, x_0, v, flow"),
        ((10, [0, 0.1]), {}, "T = 10 .* 2"),
        ((2, [0.1, 0.1, 0.2]), {}, r"betas\[0\] .* 0.1"),
        ((2, [0, -0.5, 0.2]), {}, r"betas\[1\] .* -0.5"),
        ((2, [0, 1, 0.2]), {}, r"betas\[1\] .* 1.0"),
        ((2, [0, 0.1, math.nan]), {}, r"betas\[2\] .* nan"),
        ((2, [[0, 0.1, 0.2]]), {}, r"betas .* \(1, 3\)"),
        ((10,), {"rescale_zero_snr": True}, "prediction x_0, v or flow"),
        ((10, "flow"), {}, "prediction x_0, v or flow"),
    ):
        with pytest.raises(ValueError, match=words):
            DiffusionUtils(*arguments, **options)
