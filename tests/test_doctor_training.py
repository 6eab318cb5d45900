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
        (lambda x, t: trained()(x, (t / T).round().long()), "told T t for t"),
        (lambda x, t: x - trained("x_0")(x, t), "predicts x_t - x_0, not eps"),
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


def test_images_in_0_1_and_a_t_of_another_image_are_named():
    assert "lie in 0..1" in d.check_loss(trained(), (X_0 + 1) / 2, BAR).sentence
    found = d.check_neighbours(lambda x, t: trained()(x, t.flip(0)), (3, SIDE, SIDE), (1, T))
    assert "gets the t of another one" in found.sentence, str(found)


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
        (lambda x, t, e: TABLE[t, None].sqrt().float() * x + (1 - TABLE[t, None]).sqrt().float()
         * e, "along its height"),
        (lambda x, t, e: rows(TABLE.bfloat16().sqrt(), t) * x
         + rows((1 - TABLE.bfloat16()).sqrt(), t) * e, "the table is rounded"),
    ],
)  # fmt: skip
def test_every_wrong_noising_is_named(add_noise, said):
    found = d.check_noising(add_noise, TABLE)
    assert said in found.sentence and found.verdict == "broken", str(found)


def test_noising_in_place_is_worth_a_look():
    found = d.check_noising(
        lambda x, t, e: x.mul_(rows(TABLE.sqrt(), t)).add_(rows((1 - TABLE).sqrt(), t) * e), TABLE
    )
    assert found.verdict == "look" and "in place" in found.sentence


class Layers(nn.Module):
    """Two layers, the second of which can be used as people use it by mistake."""

    def __init__(self, bug):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.bug, self.kept = bug, [nn.Conv2d(16, 16, 1)]
        self.drop = nn.Dropout(0.5 if bug == "eval mode" else 0.0)

    def forward(self, x_t):
        h = self.drop(F.silu(self.first(x_t)))
        h = h.detach() if self.bug == "detached inside" else h
        h = h + self.kept[0](h) if self.bug == "list of layers" else h
        return self.second(h)


def batch_with(bug):
    """x_t and the target, eps, with one mistake."""
    generator = torch.Generator().manual_seed(0)
    x_0, (eps, other) = X_0[:8], torch.randn(2, 8, 3, 8, 8, generator=generator)
    if bug == "rand":
        eps = torch.rand(eps.shape, generator=generator)
    x_t = x_0.clone() if bug == "clean" else 0.6 * x_0 + 0.8 * eps
    targets = {
        "x_t": x_t, "one value": eps.mean((1, 2, 3), keepdim=True), "-eps": -eps,
        "same": eps[:1].expand_as(eps), "other eps": other, "0..255": 127.5 * (x_0 + 1),
    }  # fmt: skip
    return x_t, targets.get(bug, eps)


SETTINGS = {
    "rate 0": {"lr": 0.0}, "weight decay": {"weight_decay": 50.0}, "betas": {"betas": (0.99, 0.9)},
    "maximize": {"maximize": True},
}  # fmt: skip
BETWEEN = {
    "ReLU": F.relu, "tanh": torch.tanh, "clamp": lambda out: out.clamp(-0.1, 0.1),
    "detached": lambda out: out.detach().requires_grad_(),
}  # fmt: skip
LOSSES = {
    "first image": lambda out, goal: F.mse_loss(out[0], goal[0]),
    "mean over the batch": lambda out, goal: F.mse_loss(out.mean(0), goal.mean(0)),
    "mean over images": lambda out, goal: F.mse_loss(out.mean((1, 2, 3)), goal.mean((1, 2, 3))),
    "L1": F.l1_loss, "sum": lambda out, goal: F.mse_loss(out, goal, reduction="sum"),
    "no square": lambda out, goal: (out - goal).mean(),
    "minus": lambda out, goal: -F.mse_loss(out, goal),
    "broadcast": lambda out, goal: (out[:, None] - goal).square().mean(),
    "root": lambda out, goal: F.mse_loss(out, goal) + (0 * out).square().mean().sqrt(),
    "weighted": lambda out, goal: (
        torch.arange(1, 9)[:, None] * (out - goal).flatten(1) ** 2
    ).mean(),
}  # fmt: skip


def step_with(bug=""):
    """An update on one batch, as people write it, with one mistake."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, strange = Layers(bug), Layers(bug)
    average = copy.deepcopy(net)
    x_t, eps = batch_with(bug)
    copies = dict.fromkeys(("copy", "copy, output 0"), strange)
    trained = (copies | {"last layer": net.second}).get(bug, net)
    if bug == "copy, output 0":
        for p in net.second.parameters():
            nn.init.zeros_(p)
    if bug == "frozen":
        net.requires_grad_(False)
        net.second.bias.requires_grad_(True)
    net.train(bug != "eval mode")
    settings = {"lr": 5e-3, **SETTINGS.get(bug, {})}

    def new_optimizer():
        if bug == "gradients clipped too much":
            return torch.optim.SGD(trained.parameters(), 0.1)
        return torch.optim.AdamW(trained.parameters(), **settings)

    optimizer = new_optimizer()
    warm_up = bug in ("half each update", "rate 0 at first")
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: k // 1000 if bug == "rate 0 at first" else 0.3**k if warm_up else 1
    )

    def step():
        nonlocal optimizer
        if bug == "new optimiser":
            optimizer = new_optimizer()
        if bug != "no zero_grad":
            optimizer.zero_grad()
        called = copy.deepcopy(net) if bug == "deepcopy" else net
        with torch.set_grad_enabled(bug != "no_grad"):
            out = called(x_t + torch.randn_like(x_t) if bug == "x_t redrawn" else x_t)
        out = BETWEEN.get(bug, lambda out: out)(out)
        goal = torch.randn_like(eps) if bug == "eps redrawn" else eps
        goal = eps.neg_() if bug == "in place" else net(x_t) if bug == "own output" else goal
        loss = LOSSES.get(bug, lambda out, goal: (out - goal).square().mean())(out, goal)
        if bug != "no backward":
            loss.backward()
        if bug == "late zero_grad":
            optimizer.zero_grad()
        if "clipped" in bug:
            nn.utils.clip_grad_norm_(net.parameters(), 1e-5 if "too much" in bug else 0.1)
        if bug != "no step":
            optimizer.step()
        if bug == "average over the network":
            with torch.no_grad():
                for slow, p in zip(average.parameters(), net.parameters(), strict=True):
                    p.copy_(slow.lerp_(p, 0.01))
        schedule.step()
        return loss.item()

    return step


@pytest.mark.parametrize("style", ["", "L1", "sum", "gradients clipped", "weighted"])
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
        ("detached", "no gradient reaches the network's output: the loss is cut off"),
        ("no backward", "backward() is never called"),
        ("no_grad", "no gradient reaches the loss"),
        ("detached inside", "2 of the network's 4 tensors get no gradient: first.weight"),
        ("list of layers", "missing in net.parameters(), so they never learn: Conv2d"),
        ("ReLU", "a ReLU comes between"),
        ("clamp", "a clamp comes between"),
        ("tanh", "a tanh comes between"),
        ("no square", "the differences are not squared"),
        ("minus", "the wrong sign"),
        ("broadcast", "the shapes of output and target are broadcast"),
        ("root", "the first such number is in a gradient"),
        ("in place", "changes its sign from call to call"),
        ("rand", "noise from rand, not randn"),
        ("-eps", "the target is -eps"),
        ("other eps", "not the noise that is in x_t"),
        ("clean", "x_t lies in -1..1"),
        ("0..255", "the target goes up to 2"),
        ("deepcopy", "uses another network object"),
        ("new optimiser", "makes a new optimiser"),
        ("average over the network", "99% of the update is undone"),
        ("gradients clipped too much", "it is clipped too much"),
        ("half each update", "the learning rate falls from 0.005"),
        ("rate 0 at first", "the learning rate is 0"),
        ("weight decay", "weight decay removes 25%"),
        ("betas", "in the wrong order"),
        ("maximize", "maximises"),
        ("eval mode", "in eval mode"),
        ("copy", "holds none of the network's parameters"),
        ("copy, output 0", "holds none of the network's parameters"),
        ("last layer", "holds 2 of the network's 4 tensors"),
        ("frozen", "3 of the network's 4 tensors are frozen: first.weight"),
        ("rate 0", "the learning rate is 0"),
    ],
)
def test_what_goes_wrong_in_an_update_is_named(bug, said):
    found = d.check_overfit(step_with(bug), calls=20, fall=0.2)
    assert said in found.sentence and found.alarm, str(found)
