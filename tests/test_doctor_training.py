"""The doctor on training: what a network was trained for, every wrong x_t, every lost update."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddpm_helpers import DiffusionUtils
from ddpm_helpers import doctor as d
from ddpm_helpers.diffusion import IdealDenoiser

T, SIDE = 200, 8
Y = torch.arange(36) % 3
GENERATOR = torch.Generator().manual_seed(0)
X_0 = (0.8 * torch.rand(36, 3, 1, 1, generator=GENERATOR) - 0.4).expand(-1, -1, SIDE, SIDE).clone()
X_0 += torch.linspace(-0.5, 0.5, SIDE) * (Y - 1)[:, None, None, None]
X_0 += 0.1 * torch.randn(X_0.shape, generator=GENERATOR)
UTILS = {kind: DiffusionUtils(T, "cosine", prediction=kind) for kind in ("eps", "x_0", "v", "flow")}
BAR = UTILS["eps"].alpha_bar


def trained(kind="eps", images=X_0, schedule="cosine", t=lambda t: t, labels=None):
    """A network that was trained to perfection on these images."""
    ideal = IdealDenoiser(DiffusionUtils(T, schedule, prediction=kind), images, labels)
    return lambda x_t, steps, *y: ideal(x_t, t(steps).clamp(1, T), *y).float()


def weakly(x_t, t):
    """The best that uses one pixel at a time, as a network that was hardly trained."""
    bar = BAR[t].float()[:, None, None, None]
    spread = float(X_0.var())
    return (1 - bar).sqrt() / (bar * spread + 1 - bar) * x_t * 1.02


@pytest.mark.parametrize("kind", UTILS)
@pytest.mark.parametrize("schedule", ["cosine", "sigmoid"])
def test_a_perfect_network_of_any_kind_is_healthy(kind, schedule):
    bar = DiffusionUtils(T, schedule).alpha_bar
    net = trained(kind, schedule=schedule)
    found = d.check_loss(net, X_0, bar, prediction=kind)
    assert found.verdict == "ok", str(found)


def test_a_perfect_network_is_healthy_where_x_t_tells_nothing():
    linear = (1 - torch.linspace(1e-3, 0.2, T).double()).cumprod(0)  # no image left from 0.7 T on
    utils = DiffusionUtils(T, torch.cat([torch.zeros(1), torch.linspace(1e-3, 0.2, T)]).double())
    ideal = IdealDenoiser(utils, X_0)
    found = d.check_loss(lambda x, t: ideal(x, t + 1).float(), X_0, linear)
    assert found.verdict == "ok" and found.numbers["loss_at_T*0.9"] > 0.9


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (trained("x_0"), "predicts x_0, not eps"),
        (trained("v"), "predicts v, not eps"),
        (trained("flow"), "predicts flow, not eps"),
        (lambda x, t: -trained()(x, t), "predicts -eps, not eps"),
        (trained(images=(X_0 + 1) / 2), "trained on images in 0..1"),
        (trained(images=2 * X_0 - 1), "2 * x - 1 twice"),
        (trained(schedule="sigmoid"), "another one: sigmoid"),
        (trained(t=lambda t: T + 1 - t), "told T - t for t"),
        (trained(t=lambda t: t - 5), "told t + 5 for t"),
        (lambda x, t: x, "the output is x_t itself"),
        (lambda x, t: 1e-3 * x, "nearly 0 at every t"),
        (lambda x, t: torch.where(t[:, None, None, None] < 30, trained()(x, t), -x),
         "trained at small t alone"),
    ],
)  # fmt: skip
def test_what_a_network_was_trained_for_is_named(net, said):
    found = d.check_loss(net, X_0, BAR)
    assert said in found.sentence, str(found)
    assert found.alarm and found.repair


def test_the_network_that_knows_labels_shows_that_they_are_off_by_one():
    def net(x, t, y):
        return trained(labels=Y)(x, t, y)

    assert d.check_loss(net, X_0, BAR, y=Y).verdict == "ok"
    assert "off by one" in d.check_loss(net, X_0, BAR, y=(Y + 1) % 3).sentence


def test_a_network_that_is_hardly_trained_or_new_is_told_so_and_not_that_it_is_wrong():
    assert d.check_loss(lambda x, t: 0 * x, X_0, BAR).verdict == "look"
    found = d.check_loss(lambda x, t: 0.5 * (weakly(x, t) + trained()(x, t)), X_0, BAR)
    assert found.verdict == "ok", str(found)
    assert "never better than the guess" in d.check_loss(weakly, X_0, BAR).sentence


def rows(table, t):
    return table[t].float()[:, None, None, None]


TABLE = BAR[1:]  # a stranger's: t = 0..T-1
BETAS = 1 - TABLE / torch.cat([torch.ones(1), TABLE[:-1]])
OTHER = DiffusionUtils(T, "sigmoid").alpha_bar[1:]


@pytest.mark.parametrize(
    ("add_noise", "said"),
    [
        (lambda x, t, e: rows(TABLE, t) * x + rows((1 - TABLE).sqrt(), t) * e,
         "scaled by alpha_bar: the square root is missing"),
        (lambda x, t, e: rows((1 - BETAS).sqrt(), t) * x + rows(BETAS.sqrt(), t) * e,
         "the product is missing"),
        (lambda x, t, e: rows(TABLE.sqrt(), t) * x + rows(BETAS.sqrt(), t) * e,
         "sqrt(beta_t), not sqrt(1 - alpha_bar)"),
        (lambda x, t, e: rows(TABLE.sqrt(), t) * x + rows(1 - TABLE.sqrt(), t) * e,
         "scaled by 1 - sqrt(alpha_bar)"),
        (lambda x, t, e: rows(TABLE.sqrt(), t - 1) * x + rows((1 - TABLE).sqrt(), t - 1) * e,
         "the table's previous row"),
        (lambda x, t, e: TABLE[t].sqrt().float() * x + (1 - TABLE[t]).sqrt().float() * e,
         "lacks the shape (B, 1, 1, 1)"),
        (lambda x, t, e: rows(TABLE.sqrt(), t) * x + rows((1 - TABLE).sqrt(), t) * e.normal_(),
         "noise of its own"),
        (lambda x, t, e: rows(TABLE.sqrt(), t) * (x + 1) / 2 + rows((1 - TABLE).sqrt(), t) * e,
         "in 0..1"),
        (lambda x, t, e: rows(TABLE.sqrt(), t) * x + 0.5 * rows((1 - TABLE).sqrt(), t) * e,
         "the noise 0.500 times as it should be"),
        (lambda x, t, e: rows(OTHER.sqrt(), t) * x + rows((1 - OTHER).sqrt(), t) * e,
         "another one: sigmoid"),
        (lambda x, t, e: (rows(TABLE.sqrt(), t) * x + rows((1 - TABLE).sqrt(), t) * e).clamp(-1, 1),
         "clipped to -1..1"),
        (lambda x, t, e: rows(TABLE.sqrt(), t) * x - rows((1 - TABLE).sqrt(), t) * e,
         "the noise is subtracted"),
        (lambda x, t, e: math.sqrt(0.3) * x + math.sqrt(0.7) * e, "the image is scaled by 0.548"),
    ],
)  # fmt: skip
def test_every_wrong_noising_is_named(add_noise, said):
    found = d.check_noising(add_noise, TABLE)
    assert said in found.sentence and found.verdict == "broken", str(found)


def step_with(bug=""):
    """An update on one batch, as people write it, with one mistake."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1)]
        net, x_t, eps = nn.Sequential(*layers), torch.randn(8, 3, 8, 8), torch.randn(8, 3, 8, 8)
    eps = 0.1 * eps + 0.9 * x_t.roll(1, 3)
    trained = copy.deepcopy(net) if bug == "copy" else net[2] if bug == "last layer" else net
    if bug == "frozen":
        net[:2].requires_grad_(False)
        net[2].weight.requires_grad_(False)
    optimizer = torch.optim.Adam(trained.parameters(), 0.0 if bug == "rate 0" else 5e-3)
    targets = {
        "x_t": x_t, "one value": eps.mean((1, 2, 3), keepdim=True),
        "same": eps[:1].expand_as(eps),
    }  # fmt: skip

    def step():
        if bug != "no zero_grad":
            optimizer.zero_grad()
        out = net(x_t + torch.randn_like(x_t) if bug == "x_t redrawn" else x_t)
        if bug == "detached":
            out = out.detach().requires_grad_()
        goal = torch.randn_like(eps) if bug == "eps redrawn" else targets.get(bug, eps)
        if bug == "own output":
            goal = net(x_t)
        loss = (out - goal).square().mean()
        loss = {
            "first image": lambda: F.mse_loss(out[0], eps[0]),
            "mean over the batch": lambda: F.mse_loss(out.mean(0), eps.mean(0)),
            "mean over images": lambda: F.mse_loss(out.mean((1, 2, 3)), eps.mean((1, 2, 3))),
            "L1": lambda: F.l1_loss(out, eps), "sum": lambda: F.mse_loss(out, eps, reduction="sum"),
        }.get(bug, lambda: loss)()  # fmt: skip
        loss.backward()
        if bug == "late zero_grad":
            optimizer.zero_grad()
        if bug == "gradients clipped":
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        if bug != "no step":
            optimizer.step()
        return loss.item()

    return step


@pytest.mark.parametrize("style", ["", "L1", "sum", "gradients clipped"])
def test_a_healthy_update_is_healthy_whatever_its_style(style):
    found = d.check_overfit(step_with(style), calls=100, fall=0.9)
    assert found.verdict == "ok", str(found)


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ("eps redrawn", "the target changes from call to call, but x_t does not"),
        ("x_t redrawn", "another x_t in each call"),
        ("x_t", "the network's own input"),
        ("one value", "one value for each image"),
        ("same", "the same for all images"),
        ("own output", "the output is compared with itself"),
        ("first image", "7 of 8 images have no gradient"),
        ("mean over the batch", "means over the batch are compared"),
        ("mean over images", "means over images are compared"),
        ("no zero_grad", "zero_grad is missing"),
        ("late zero_grad", "the gradients are gone"),
        ("no step", "no optimiser makes a step"),
        ("detached", "no gradient reaches"),
        ("copy", "holds none of the network's parameters"),
        ("last layer", "holds 2 of the network's 4 tensors"),
        ("frozen", "3 of the network's 4 tensors are frozen"),
        ("rate 0", "the learning rate is 0"),
    ],
)
def test_what_goes_wrong_in_an_update_is_named(bug, said):
    found = d.check_overfit(step_with(bug), calls=20, fall=0.2)
    assert said in found.sentence and found.alarm, str(found)
