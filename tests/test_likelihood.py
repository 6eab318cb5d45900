"""The variational bound against closed forms and torch's own divergences."""

import math

import pytest
import torch
from exact_networks import gaussian
from torch.distributions import Normal, kl_divergence

from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.diffusion.likelihood import bits_per_dim

GREY = torch.arange(256.0, dtype=torch.float64) / 127.5 - 1


def pictures(n=3, size=20):
    levels = torch.randint(256, (n, 1, size, size), generator=torch.Generator().manual_seed(0))
    return GREY[levels]


def test_prior_and_terms_are_torchs_divergences():
    d, x_0 = DiffusionUtils(30, "linear", prediction="x_0"), pictures()
    bits = bits_per_dim(d, lambda x, t: x * 0 + 0.3, x_0)
    assert bits.ts == list(range(1, 31)) and bits.terms.shape == (3, 30)
    bar = d.alpha_bar
    at_T = Normal(bar[-1].sqrt() * x_0, (1 - bar[-1]).sqrt().expand_as(x_0))
    prior = kl_divergence(at_T, Normal(0.0, 1.0)).flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(bits.prior, prior)
    for t in (2, 17, 30):  # the part of the mean that holds x_t is in both
        beta = 1 - bar[t] / bar[t - 1]
        weight = bar[t - 1].sqrt() * beta / (1 - bar[t])
        sigma = (beta * (1 - bar[t - 1]) / (1 - bar[t])).sqrt()
        true, guess = Normal(weight * x_0, sigma), Normal(torch.full_like(x_0, 0.3) * weight, sigma)
        want = kl_divergence(true, guess).flatten(1).mean(1) / math.log(2)
        torch.testing.assert_close(bits.terms[:, t - 1], want)
    torch.testing.assert_close(bits.total, bits.prior + bits.terms.sum(1))


def test_a_network_that_knows_the_picture_pays_for_the_decoder_alone():
    d, x_0 = DiffusionUtils(30, "linear", prediction="x_0"), pictures()
    bits = bits_per_dim(d, lambda x, t: x_0, x_0)
    assert bits.terms[:, 1:].abs().max() == 0
    _, variance = d.posterior(x_0[:1], x_0[:1], torch.tensor([2]))
    inside = Normal(0.0, variance.sqrt().item()).cdf(torch.tensor(1 / 255, dtype=torch.float64))
    middle = -math.log2(2 * inside.item() - 1)  # all levels but the two ends, whose mass is larger
    assert bits.terms[:, 0].mean().item() == pytest.approx(middle, rel=0.02)


def test_the_decoder_is_a_distribution_over_the_grey_levels():
    from ddpm_helpers.diffusion.likelihood import _log_mass

    for mean, sigma in ((0.0, 0.3), (0.99, 0.01), (-1.4, 0.2)):
        mass = _log_mass(GREY, torch.tensor(mean).double(), torch.tensor(sigma).double()).exp()
        assert mass.sum().item() == pytest.approx(1, abs=1e-9)


def test_the_exact_network_of_gaussian_data_pays_what_its_spread_says():
    """x_0 ~ N(0, s^2), rounded: each term in closed form, and the sum above the entropy."""
    s, d = 0.25, DiffusionUtils(1000, "linear", prediction="x_0")
    noise = s * torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    x_0 = ((noise.clamp(-1, 1) + 1) * 127.5).round().double() / 127.5 - 1
    model = gaussian(d, spread=s)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * s**2) + math.log2(127.5)
    bits = bits_per_dim(d, model, x_0)
    total = bits.total.item()
    assert entropy < total < entropy + 1  # the smaller variance is not the best one
    bar, before = d.alpha_bar[2:], d.alpha_bar[1:-1]
    spread = s**2 * (1 - bar) / (s**2 * bar + 1 - bar)  # of x_0, when x_t is known
    weight = before.sqrt() * (1 - bar / before) / (1 - bar)
    variance = (1 - before) / (1 - bar) * (1 - bar / before)
    want = weight**2 * spread / (2 * variance) / math.log(2)
    assert bits.terms[0, 1:].sum().item() == pytest.approx(want.sum().item(), rel=0.01)
    torch.testing.assert_close(bits.terms[0, 1:], want, rtol=0.1, atol=0)
    few = bits_per_dim(d, model, x_0, ts=[*range(1, 30), *range(30, 1001, 30)]).total.item()
    assert few == pytest.approx(total, rel=0.02)


def test_with_zero_terminal_snr_the_prior_term_is_0():
    d = DiffusionUtils(30, "cosine", prediction="x_0", rescale_zero_snr=True)
    bits = bits_per_dim(d, lambda x, t: x * 0, pictures())
    assert bits.prior.abs().max() == 0 and torch.isfinite(bits.terms).all()


def test_refuses_wrong_arguments():
    d, x = DiffusionUtils(30), pictures()
    for given, words in (
        ({"ts": [0]}, "ts must .* 1..30, got 0"),
        ({"ts": [2.5]}, "ts must .* 2.5"),
        ({"y": [0, 1]}, r"y must be \(3,\).* \(2,\)"),
        ({"x_0": x.byte()}, "x_0 must .*uint8"),
    ):
        with pytest.raises(ValueError, match=words):
            bits_per_dim(d, lambda x, t, y=None: x, **({"x_0": x} | given))
    with pytest.raises(ValueError, match="t must lie in 1..1"):
        bits_per_dim(DiffusionUtils(1), lambda x, t: x, x)
