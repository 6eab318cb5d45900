"""Schedules against their papers' formulas, written here a second time with plain floats."""

import math

import pytest
import torch

from ddpm_helpers.diffusion import SCHEDULES, beta_schedule, rescale_zero_terminal_snr

STEPS = (1, 2, 10, 50, 500, 1000, 4000)
START, END = 1e-4, 0.02


def formula(name: str, t: int, T: int) -> float:
    """beta_t for t in 1..T, as the papers give it."""
    if name in ("cosine", "shifted_cosine"):

        def f(u):
            return math.cos((u / T + 0.008) / 1.008 * math.pi / 2) ** 2

        def bar(u):  # simple diffusion adds 2 log(32 / 64) to log SNR
            if name == "cosine" or u == 0:
                return f(u) / f(0)
            log_snr = math.log(f(u) / (f(0) - f(u))) + 2 * math.log(32 / 64)
            return 1 / (1 + math.exp(-log_snr))

        return min(1 - bar(t) / bar(t - 1), 0.999)
    if name == "flow":
        before, after = ((T - t + 1) / (t - 1)) if t > 1 else math.inf, (T - t) / t  # (1 - s) / s
        return 1 - (after**2 / (1 + after**2)) * (1 + 1 / before**2)
    u = (t - 1) / (T - 1) if T > 1 else 0.0
    if name == "linear":
        return START + (END - START) * u
    if name == "quadratic":
        return (START**0.5 + (END**0.5 - START**0.5) * u) ** 2
    if name == "exponential":
        return START * (END / START) ** u
    return START + (END - START) / (1 + math.exp(-(-6 + 12 * u)))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", STEPS)
def test_every_table_is_its_formula_and_a_schedule(name, T):
    betas = beta_schedule(name, T)
    assert betas.dtype == torch.float64 and betas.shape == (T + 1,)
    assert betas[0] == 0
    # The cosine's 1 - f/f loses digits where it is small, in either implementation.
    expected = torch.tensor([formula(name, t, T) for t in range(1, T + 1)], dtype=torch.float64)
    torch.testing.assert_close(betas[1:], expected, rtol=1e-9, atol=1e-14)
    assert (betas[1:] > 0).all() and (betas[:-1] <= 0.999).all()
    assert betas[-1] == 1 if name == "flow" else betas[-1] <= 0.999
    alpha_bar = (1 - betas).cumprod(0)
    assert alpha_bar[0] == 1 and (alpha_bar[-1] == 0) == (name == "flow")
    assert (alpha_bar.diff() < 0).all()


def test_published_facts_about_what_is_left_at_the_end():
    left = {(n, T): (1 - beta_schedule(n, T)).prod().item() for n in SCHEDULES for T in (500, 1000)}
    assert left["linear", 500] == pytest.approx(6.4e-3, rel=0.02)
    assert left["linear", 1000] == pytest.approx(4.04e-5, rel=0.01)
    assert left["linear", 1000] ** -0.5 == pytest.approx(157, rel=0.01)
    assert left["cosine", 1000] ** -0.5 == pytest.approx(20_290, rel=0.001)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("linear", "linear"),
        ("cosine", "squaredcos_cap_v2"),
        ("quadratic", "scaled_linear"),
        ("sigmoid", "sigmoid"),
    ],
)
def test_agrees_with_diffusers(name, theirs):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(500, beta_start=START, beta_end=END, beta_schedule=theirs)
    torch.testing.assert_close(
        beta_schedule(name, 500)[1:].float(), scheduler.betas, rtol=2e-5, atol=2e-7
    )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [2, 50, 1000])
def test_zero_terminal_snr_leaves_nothing_and_keeps_the_start(name, T):
    old = beta_schedule(name, T)
    betas = rescale_zero_terminal_snr(old)
    alpha_bar = (1 - betas).cumprod(0)
    assert alpha_bar[T] == 0 and betas[T] == 1 and betas[0] == 0
    assert betas[1] == old[1]
    # Between them sqrt(alpha_bar) is a straight-line function of what it was.
    before, after = (1 - old).cumprod(0)[1:].sqrt(), alpha_bar[1:].sqrt()
    line = before[0] * (before - before[-1]) / (before[0] - before[-1])
    torch.testing.assert_close(after, line, rtol=1e-9, atol=1e-12)
    assert (alpha_bar.diff() < 0).all()


def test_zero_terminal_snr_agrees_with_diffusers():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(1000, rescale_betas_zero_snr=True)
    ours = rescale_zero_terminal_snr(beta_schedule("linear", 1000))
    torch.testing.assert_close(ours[1:].float(), scheduler.betas, rtol=1e-3, atol=2e-6)


def test_refuses_wrong_arguments():
    for T in (0, -1, 2.5, "10", True, None):
        with pytest.raises(ValueError, match=f"timesteps .* {T!r}"):
            beta_schedule("linear", T)
    for name in ("lineal", "", None, 3):
        with pytest.raises(ValueError, match=f"schedule {name!r}.*linear, cosine"):
            beta_schedule(name, 10)
    with pytest.raises(ValueError, match="T = 1"):
        rescale_zero_terminal_snr(beta_schedule("linear", 1))
