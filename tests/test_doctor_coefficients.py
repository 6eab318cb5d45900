"""Causes that the coefficients of a sampler's steps show."""

import math

import pytest
import torch

from ddpm_helpers import doctor as d

BAR = (1 - torch.linspace(1e-3, 0.12, 200).double()).cumprod(0)
ROWS = list(range(199, -1, -8))


def ddim(
    own=BAR, *, told=None, rows=None, eta=0.0, noise=lambda sigma, eta: sigma,
    carried=True, weight=lambda a, b: 1.0,
):  # fmt: skip
    """DDIM on a table of its own, with a network that is told other t."""
    rows = rows or ROWS
    told = told or ROWS

    def sample(model, x):
        first = x
        ends = [float(own[row]) for row in rows[1:]] + [1.0]
        for t, row, b in zip(told, rows, ends, strict=True):
            a = float(own[row])
            eps = model(x, torch.full((len(x),), t))
            x = x if carried else first
            x_0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
            sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
            x = math.sqrt(b) * x_0 + weight(a, b) * math.sqrt(1 - b - sigma**2) * eps
            x = x + (noise(sigma, eta) * torch.randn_like(x) if b < 1 else 0)
        return x

    return sample


HALF = list(range(len(ROWS) - 1, -1, -1))  # the number of the step
ALPHAS = torch.cat([BAR[:1], BAR[1:] / BAR[:-1]])


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (ddim(eta=0.7), "it ends at x_0"),
        (ddim(told=[7 * k for k in HALF]), "those of other t than the network is given"),
        (ddim(BAR.sqrt()), "right for another table than the network's: sqrt(alpha_bar)"),
        (ddim((1 - (1 - ALPHAS).sqrt()).cumprod(0)), "sqrt(beta) for beta of this schedule"),
        (ddim(BAR**1.7), "the sampler has"),
        (ddim(eta=0.7, noise=lambda sigma, eta: eta), "lacks the factor sigma"),
        (ddim(eta=0.7, noise=lambda sigma, eta: 1.5 * sigma), "times as large"),
        (ddim(eta=0.7, noise=lambda sigma, eta: sigma**2), "is its square: the variance"),
        (ddim(eta=0.7, noise=lambda sigma, eta: sigma**0.5), "is its square root"),
        (ddim(eta=0.7, noise=lambda sigma, eta: 0.0), "no noise is added"),
        (ddim(carried=False), "starts from the first x_t"),
    ],
)
def test_tables_noise_and_x_t_of_ddim(sample, said):
    assert said in d.check_sampler(sample, BAR).sentence


def probability_flow(model, x, *, half=0.5, ahead=True, n=40):
    """Heun's steps in a continuous t."""
    bar = lambda t: math.exp(-0.05 * t - 5 * t * t)  # noqa: E731

    def slope(x, t):
        eps = model(x, torch.full((len(x),), t))
        return -0.5 * (0.05 + 10 * t) * (x - eps / math.sqrt(1 - bar(t)))

    grid = [(1 + (0.05 - 1) * i / n) ** 2 for i in range(n + 1)]
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        k_1 = slope(x, t)
        k_2 = slope(x + (s - t) * k_1 if ahead else x, s)
        x = x + half * (s - t) * (k_1 + k_2)
    return x


def test_steps_of_two_calls_in_a_continuous_t():
    bar = lambda t: math.exp(-0.05 * t - 5 * t * t)  # noqa: E731
    assert d.check_sampler(probability_flow, bar).verdict == "look"
    found = d.check_sampler(lambda m, x: probability_flow(m, x, half=1.0), bar)
    assert "2 outputs of a step sum to 2" in found.sentence
    found = d.check_sampler(lambda m, x: probability_flow(m, x, ahead=False), bar)
    assert "two calls get the same x_t" in found.sentence


def test_factors_of_v_and_of_flow():
    def of_v(model, x):
        for t, s in zip(ROWS, [*ROWS[1:], None], strict=True):
            q, p = BAR[t].sqrt(), (1 - BAR[t]).sqrt()
            v = model(x, torch.full((len(x),), t)).double()
            x_0, eps = q * x - p * v, q * x + p * v
            x = x_0 if s is None else BAR[s].sqrt() * x_0 + (1 - BAR[s]).sqrt() * eps
        return x.float()

    assert "exchanged with" in d.check_sampler(of_v, BAR, prediction="v").sentence

    def of_flow(model, x, n=40):
        for k in range(n, 0, -1):
            t, s = k / n, (k - 1) / n
            out = model(x, torch.full((len(x),), t))
            x = (1 - s) * (x - (1 - t) * out) + s * (x + (1 - t) * out)
        return x

    found = d.from_flow(of_flow, noise_at=1).check_sampler()
    assert "1 - t stands where t belongs" in found.sentence


def test_a_missing_output_of_the_step_before():
    """DPM-Solver++(2M) with (1 + 1 / (2 r)) x_0, without - 1 / (2 r) x_0 of the step before."""

    def sample(model, x):
        h = None
        for t, s in zip(ROWS, [*ROWS[1:], None], strict=True):
            q, p = float(BAR[t].sqrt()), float((1 - BAR[t]).sqrt())
            x_0 = (x - p * model(x, torch.full((len(x),), t))) / q
            if s is None:
                return x_0
            r, l = float(BAR[s].sqrt()), float((1 - BAR[s]).sqrt())  # noqa: E741
            before, h = h, math.log(r / l) - math.log(q / p)
            x = l / p * x - r * math.expm1(-h) * (1 + h / (2 * before) if before else 1) * x_0

    assert "(1 + 1 / (2 r)) times the right one" in d.check_sampler(sample, BAR).sentence


def test_an_expression_that_is_there_too_often():
    sigmas = [50 * 0.0002 ** (k / 59) for k in range(60)]

    def sample(model, x):
        """Reverse diffusion of the VE SDE, with the root of sigma_t^2 - sigma_s^2."""
        x = sigmas[0] * x
        for t, s in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
            score = model(x, torch.full((len(x),), t))
            mean = x + math.sqrt(t**2 - s**2) * score
            x = mean + s / t * math.sqrt(t**2 - s**2) * torch.randn_like(x)
        return mean

    found = d.from_sigma(sample, prediction="score").check_sampler()
    assert "divided by sqrt(sigma_t^2 - sigma_s^2) once too often" in found.sentence


def test_fresh_noise_alone_is_no_division_by_0():
    def sample(model, x):
        for t, s in zip(ROWS, [*ROWS[1:], None], strict=True):
            x_0 = 1.3 * (x - (1 - BAR[t]).sqrt().float() * model(x, torch.full((len(x),), t)))
            if s is None:
                return x_0
            x = BAR[s].sqrt().float() * x_0 + (1 - BAR[s]).sqrt().float() * torch.randn_like(x)

    assert d.check_sampler(sample, BAR).verdict == "broken"


def test_a_corrector_that_moves_against_the_score():
    def sample(model, x, sign):
        for t, s in zip(ROWS, [*ROWS[1:], None], strict=True):
            p = float((1 - BAR[t]).sqrt())
            step = 0.02 * p**2
            x = x - sign * step * model(x, torch.full((len(x),), t)) / p
            x = x + math.sqrt(2 * step) * torch.randn_like(x)
            eps = model(x, torch.full((len(x),), t))
            x_0 = (x - p * eps) / float(BAR[t].sqrt())
            x = x_0 if s is None else float(BAR[s].sqrt()) * x_0 + float((1 - BAR[s]).sqrt()) * eps
        return x

    assert d.check_sampler(lambda m, x: sample(m, x, 1), BAR).verdict != "broken"
    found = d.check_sampler(lambda m, x: sample(m, x, -1), BAR)
    assert "a corrector moves against the score" in found.sentence


def test_an_output_that_does_not_matter():
    def sample(model, x):
        for t, s in zip(ROWS, [*ROWS[1:], None], strict=True):
            model(x, torch.full((len(x),), t))
            x = x * float(BAR[s] / BAR[t]) ** 0.5 if s is not None else x
        return x

    assert "no step depends on the network's output" in d.check_sampler(sample, BAR).sentence
