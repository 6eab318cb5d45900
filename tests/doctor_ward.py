"""A healthy diffusion model in parts, and everything that people break in it.

`python tests/doctor_ward.py` prints which checks raise an alarm for which planted bug.

The data are sums of four fixed patterns, a class each being more frequent; for those the perfect
network is a formula (a projection), so nothing is trained and all parts are well at once.
"""

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import doctor_loops as loops  # noqa: E402

from ddpm_helpers import DiffusionNet, DiffusionUtils  # noqa: E402
from ddpm_helpers import doctor as d  # noqa: E402
from ddpm_helpers.doctor.run_checks import NEED_TRAINING  # noqa: E402

SIDE, T, NULL = 16, 200, -1
SHAPE = (3, SIDE, SIDE)
BAR = DiffusionUtils(T, "cosine").alpha_bar[1:]  # a stranger's table: t = 0..T-1
SHORT = DiffusionUtils(100, "cosine").alpha_bar[1:]  # for loops, which take their time
LINEAR = (1 - torch.linspace(2.5e-4, 0.05, 400).double()).cumprod(0)  # as 1000 from 1e-4 to 0.02


def patterns():
    """Four orthonormal images, (4, 3 * S * S), smooth, in different colours."""
    at = torch.linspace(-1, 1, SIDE)
    flat, x, y = torch.ones(SIDE, SIDE), at.expand(SIDE, -1), at[:, None].expand(-1, SIDE)
    maps = torch.stack([flat, x, y, x * y])  # (4, S, S)
    return F.normalize(maps.repeat(3, 1, 1, 1).permute(1, 0, 2, 3).flatten(1), dim=1)


BASIS = patterns()
SIZE = math.sqrt(BASIS.shape[1])
CENTRES = 0.35 * SIZE * torch.tensor([[1.0, 0.3, 0, 0], [-1.0, 0, 0.3, 0]])  # of two classes
SPREAD = 0.16 * SIZE


def images(n, seed=0):
    """n images of two classes in turn, (n, 3, S, S), and their labels."""
    y = torch.arange(n) % 2
    generator = torch.Generator().manual_seed(seed)
    c = CENTRES[y] + SPREAD * torch.randn(n, 4, generator=generator)
    return (c @ BASIS).reshape(n, *SHAPE).clamp(-1, 1), y


class Perfect:
    """The best network for these images; `bug` says what it lacks."""

    def __init__(self, bug=""):
        self.bug = bug

    def __call__(self, x_t, t, y=None):
        bar = BAR[t.long()].float()[:, None]  # (B, 1)
        if self.bug == "t of the first":
            bar = bar[:1].expand(len(x_t), 1)
        flat = x_t.flatten(1)
        c = flat @ BASIS.T  # (B, 4)
        if self.bug == "t ignored":  # tells the noise from x_t alone, as blind denoisers do
            rest = flat - c @ BASIS
            bar = 1 - (rest.square().mean(1, keepdim=True)).clamp(1e-4, 1 - 1e-6)
        y = torch.full((len(x_t),), NULL) if y is None else y
        if self.bug == "y ignored":
            y = torch.full_like(y, NULL)
        if self.bug == "labels turned":
            y = torch.where(y >= 0, 1 - y, y)
        if self.bug == "null is class 0":
            y = y.clamp(min=0)
        centre = torch.where((y >= 0)[:, None], CENTRES[y.clamp(min=0)], CENTRES.mean(0))
        # without a label, the two classes together are wide along the line between them
        apart = (CENTRES[0] - CENTRES[1]) / 2
        wide = SPREAD**2 + torch.where((y >= 0)[:, None], 0 * apart, apart.abs()) ** 2
        gain = bar.sqrt() * wide / (bar * wide + 1 - bar)
        guess = centre + gain * (c - bar.sqrt() * centre)
        if self.bug == "null untrained":
            wild = torch.tensor([[-4.0, 3.0, -3.0, 4.0]]) * SPREAD
            guess = torch.where((y >= 0)[:, None], guess, wild)
        x_0 = guess @ BASIS
        eps = (flat - bar.sqrt() * x_0) / (1 - bar).sqrt()
        if self.bug == "of the batch":
            eps = eps + 0.05 * flat.mean(0, keepdim=True)
        if self.bug == "untrained":
            eps = 1e-3 * (1 + bar) * (1 + 0.1 * y[:, None]) * flat
        if self.bug == "NaN at small t":
            eps = torch.where((bar > 0.95) & (bar < 0.99), torch.nan, eps)
        if self.bug == "backwards":
            eps = -eps
        return eps.reshape(x_t.shape).to(x_t)


def network(seed=0):
    """A small real network whose zeros are gone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DiffusionNet(16, width=8).eval()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.02 * torch.randn_like(p))
    return net


class WithBatchNorm(nn.Module):
    """A network whose first layer keeps averages of other data."""

    def __init__(self, net):
        super().__init__()
        self.norm, self.net = nn.BatchNorm2d(3), net
        self.norm.running_var.fill_(9.0)

    def forward(self, x_t, t):
        return self.net(self.norm(x_t), t)


class Table(nn.Module):
    """A network that keeps its schedule as a buffer."""

    def __init__(self, net, table):
        super().__init__()
        self.net = net
        self.register_buffer("alpha_bar", table)


def overflowing(net, factor=3e6):
    """The same function in float32, but what lies between two layers exceeds float16."""
    net = copy.deepcopy(net)
    block = net.encoder.stages[0].block1
    with torch.no_grad():
        block.conv1.weight.mul_(factor)  # the norm behind it takes the factor out again
        block.conv1.bias.mul_(factor)
    return net


def damaged(net):
    net = copy.deepcopy(net)
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = math.nan
    return net


def decoder(kernel):
    """Two transposed convolutions of all-equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = [nn.ConvTranspose2d(8, 8, kernel, 2, 1, kernel % 2) for _ in range(2)]
    for layer in layers:
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def one_batch_step(lr=1e-2, detached=False, frozen=False, sign=1):
    """An optimiser step on one batch, as a stranger writes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1)
    net = nn.Sequential(*layers)
    x, _ = images(4)
    other = copy.deepcopy(net)
    optimizer = torch.optim.SGD((other if frozen else net).parameters(), lr)

    def step():
        out = net(x)
        loss = sign * (out - 0.6 * x).square().mean()
        if not detached:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss

    return step


def losses(kind=""):
    """A history of 400 steps, with the scatter that is usual."""
    generator = torch.Generator().manual_seed(0)
    k = torch.arange(400.0)
    smooth = 0.1 + 0.9 * torch.exp(-k / 40)
    if kind == "rises":
        smooth = torch.where(k > 200, smooth + 0.8 * (k - 200) / 200, smooth)
    if kind == "stays":
        smooth = torch.full_like(k, 1.0)
    values = smooth * torch.exp(0.3 * torch.randn(400, generator=generator))
    if kind == "NaN":
        values[300:] = math.nan
    return values.tolist()


def drop_labels(kind=""):
    """Label dropout of one in ten."""
    generator = torch.Generator().manual_seed(0)

    def drop(y):
        if kind == "batch":
            return torch.full_like(y, NULL) if torch.rand((), generator=generator) < 0.1 else y
        if kind == "never":
            return y
        if kind == "first rows":
            return torch.cat([torch.full_like(y[:6], NULL), y[6:]])
        if kind == "other way":
            return torch.where(torch.rand(len(y), generator=generator) > 0.1, NULL, y)
        if kind == "class 0":
            return torch.where(torch.rand(len(y), generator=generator) < 0.1, 0, y)
        return torch.where(torch.rand(len(y), generator=generator) < 0.1, NULL, y)

    return drop


def mixed(kind=""):
    """Classifier-free guidance in one batch of both halves."""
    net = Perfect()

    def guided(x_t, t, y, w):
        none = torch.full_like(y, NULL)
        both = torch.cat([y, none]) if kind != "rows" else torch.stack([y, none], 1).flatten()
        out = net(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
        with_y, without = out.chunk(2)
        if kind == "swapped":
            with_y, without = without, with_y
        if kind == "no w":
            w = 2.0
        if kind == "swapped, from 0":
            return (1 + w) * without - w * with_y
        if kind == "twice":
            return (1 - w) * without + w * w * with_y
        if kind == "Ho & Salimans":
            return with_y + w * (with_y - without)
        return without + w * (with_y - without)

    return guided


def averages(kind=""):
    """Raw and averaged networks, their loss, and steps and decay of the average."""
    raw = Table(network(0), BAR.float().clone())
    average = copy.deepcopy(raw)
    with torch.no_grad():
        for p in average.parameters():
            p.add_(1e-4)
        if kind == "table":
            average.alpha_bar.mul_(0.9)
    if kind == "not kept apart":
        average = raw
    value = {id(raw): 0.10, id(average): 0.10 if kind == "not kept apart" else 0.09}
    if kind in ("slow", "never updated"):
        value[id(average)] = 0.6
    if kind == "rate":
        value[id(raw)] = 0.5
    steps, decay = (100, 0.999) if kind == "slow" else (10_000, 0.999)
    return (lambda net: value[id(net)]), raw, average, steps, decay


def shifted(x, kind):
    """Samples with one fault that needs no network to see."""
    if kind == "checkerboard":
        board = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2
        return x + 0.1 * (2.0 * board - 1)
    if kind == "tint":
        return x + torch.tensor([0.3, 0.0, -0.1])[:, None, None]
    if kind == "grain":
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        return (x + 0.2 * noise).clamp(-1, 1)
    return {
        "garish": (4 * x).clamp(-1, 1), "0..1": (x + 1) / 2, "bright": (x + 0.4).clamp(-1, 1),
        "black": x * math.nan, "grey": 0.3 * x, "beyond": 2.5 * x, "same": x[:1].expand_as(x),
    }[kind]  # fmt: skip


def ours(T=100, schedule="cosine", kind="eps", **options):
    utils = DiffusionUtils(T, schedule, prediction=kind)
    return d.from_ours(None, utils, **options)


REAL, LABELS = images(64, seed=1)
DRAWN, _ = images(64, seed=2)
MANY, _ = images(800, seed=3)


def x_t_of(x_0, t=140):
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(5))
    return BAR[t].sqrt().float() * x_0 + (1 - BAR[t]).sqrt().float() * eps


def noised(kind=""):
    def add_noise(x_0, t, eps):
        if kind == "t + 1":
            t = (t + 1).clamp(max=T - 1)
        bar = BAR[t].float()[:, None, None, None]
        if kind == "first t":
            bar = bar[:1]
        if kind == "no root":
            return bar.sqrt() * x_0 + (1 - bar) * eps
        return bar.sqrt() * x_0 + (1 - bar).sqrt() * eps

    return add_noise


def min_snr(kind=""):
    """Weights of eps' squared error: min(SNR, 5) / SNR."""
    snr = BAR / (1 - BAR)
    if kind == "max":
        return snr.clamp(min=5) / snr
    if kind == "twice":
        return snr.clamp(max=5) / snr**2
    return snr.clamp(max=5) / snr


@dataclass(frozen=True)
class Record:
    """The parts of a diffusion model, one bug at a time."""

    data: Any = field(default_factory=lambda: REAL)
    schedule: Any = field(default_factory=lambda: BAR)
    prediction: str = "eps"
    noising: Any = field(default_factory=noised)
    state: Any = field(default_factory=lambda: network().state_dict())
    loop: Any = field(default_factory=lambda: (loops.ddpm(SHORT), SHORT, "eps"))
    module: Any = field(default_factory=network)  # for what needs an nn.Module
    half: Any = field(default_factory=network)
    autocast: bool = True
    step: Any = field(default_factory=one_batch_step)
    model: Any = field(default_factory=Perfect)  # model(x_t, t, y)
    history: Any = field(default_factory=losses)
    drop: Any = field(default_factory=drop_labels)
    average: Any = field(default_factory=averages)
    weights: Any = field(default_factory=min_snr)
    guided: Any = field(default_factory=mixed)
    decode: Any = field(default_factory=lambda: decoder(4))
    samples: Any = field(default_factory=lambda: DRAWN)

    def checks(self) -> dict[str, Callable[[], d.Finding]]:
        loop, table, kind = self.loop
        x_t, y = x_t_of(REAL[:8]), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
        ends, labels = (0, T - 1), {"num_classes": 2, "null": NULL}
        return {
            "data": lambda: d.check_data(self.data),
            "schedule": lambda: d.check_schedule(self.schedule, prediction=self.prediction),
            "noising": lambda: d.check_noising(self.noising, BAR),
            "weights": lambda: d.check_weights(self.state, network()),
            "sampler": lambda: d.check_sampler(loop, table, prediction=kind),
            "precision": lambda: d.check_precision(
                self.half, x_t, 140, dtype=torch.bfloat16 if self.autocast else torch.float16,
                autocast=self.autocast, model=half_model(self.autocast),
            ),
            "overfit": lambda: d.check_overfit(self.step, calls=60),
            "repeats": lambda: d.check_repeats(self.model, SHAPE, 100),
            "output": lambda: d.check_output(self.model, SHAPE, 100),
            "loss": lambda: d.check_loss(self.model, REAL, BAR, y=LABELS),
            "history": lambda: d.check_history(self.history),
            "time": lambda: d.check_time(self.model, SHAPE, ends),
            "neighbours": lambda: d.check_neighbours(self.model, SHAPE, ends),
            "modes": lambda: d.check_modes(self.module, SHAPE, 100),
            "labels": lambda: d.check_labels(self.model, x_t, 140, **labels),
            "null label": lambda: d.check_null(self.model, REAL, LABELS, BAR, null=NULL),
            "label dropout": lambda: d.check_label_dropout(self.drop, **labels),
            "average": lambda: d.check_average(
                *self.average[:3], steps=self.average[3], decay=self.average[4]
            ),
            "loss weights": lambda: d.check_loss_weights(self.weights, BAR),
            # on a network of its own: one that ignores y leaves nothing to guide
            "guidance": lambda: d.check_guidance(self.guided, Perfect(), x_t, 140, y, null=NULL),
            "checkerboard": lambda: d.check_checkerboard(self.decode, torch.ones(1, 8, 8, 8)),
            "samples": lambda: d.check_samples(self.samples, REAL),
        }  # fmt: skip


def half_model(autocast):
    """Our network embeds t in float32; a stranger's `half()` network takes it over in half."""
    if autocast:
        return None

    def make(net):
        dtype = next(net.parameters()).dtype
        net.time.mlp.register_forward_pre_hook(lambda module, args: (args[0].to(dtype),))
        return net

    return make


@dataclass(frozen=True)
class Bug:
    """One planted bug.

    Attributes:
        number: of the fifteen failures that people report.
        name: what is wrong.
        check: the one that must find it.
        phrase: part of what it must say.
        changes: fields of `Record`, made when needed.
    """

    number: int
    name: str
    check: str
    phrase: str
    changes: Callable[[], dict[str, Any]]


def looped(number, name, phrase, make, table=SHORT, kind="eps"):
    return Bug(number, name, "sampler", phrase, lambda: {"loop": (make(table), table, kind)})


def ddpm(bug):
    return lambda bar: loops.ddpm(bar, bug)


def through_x_0(bug):
    return lambda bar: loops.ancestral(bar, bug)


def ddim(bug, **options):
    return lambda bar: loops.ddim(bar, bug, **options)


def part(number, name, check, phrase, **makers):
    """A bug in one part; each maker is called without arguments."""
    return Bug(number, name, check, phrase, lambda: {k: make() for k, make in makers.items()})


def renamed(prefix):
    return lambda: {prefix + name: value for name, value in network().state_dict().items()}


BUGS = [
    # 1 pure noise from a trained network
    looped(1, "v taken for eps, ddpm", "treats the output as eps", ddpm(""), kind="v"),
    looped(1, "v taken for eps, ddim", "treats the output as eps", ddim("", steps=50), kind="v"),
    looped(1, "eps taken for x_0", "treats the output as x_0", through_x_0("eps taken for x_0")),
    looped(1, "weight of eps without root", "eps is divided by 1 - alpha_bar: the square root",
           ddpm("k without root")),
    looped(1, "sqrt(beta) as weight of eps", "eps is multiplied by sqrt(beta_t): a square root",
           ddpm("k of beta's root")),
    looped(1, "1 / alpha", "divides by alpha_t", ddpm("c without root")),
    looped(1, "1 / sqrt(alpha_bar)", "alpha_bar stands where alpha_t belongs",
           ddpm("c of alpha_bar")),
    looped(1, "x_0 with 1 - alpha_bar", "computed with 1 - alpha_bar",
           through_x_0("x_0 without root")),
    looped(1, "posterior weights swapped", "posterior's mean", through_x_0("weights swapped")),
    looped(1, "steps upwards, ddpm", "the steps go up", ddpm("upwards")),
    looped(1, "steps upwards, ddim", "the steps go up", ddim("upwards")),
    looped(1, "one t for all steps", "at every step", ddpm("one t")),
    looped(1, "alpha_bar[-1], ddim", "alpha_bar[-1]", ddim("alpha_bar[-1]")),
    looped(1, "alpha_bar[-1], ddpm", "alpha_bar[-1]", through_x_0("alpha_bar[-1]")),
    part(1, "weights never loaded", "weights", "never loaded",
         state=lambda: network(7).state_dict()),
    # 2 a film of grain
    looped(2, "noise at the last step, eps form", "noise is added at the last step",
           ddpm("noise at the end")),
    looped(2, "noise at the last step, x_0 form", "noise is added at the last step",
           through_x_0("noise through and through")),
    looped(2, "alpha_bar before the first step", "alpha_bar before the first step",
           ddim("first entry")),
    part(2, "grain on samples", "samples", "noise", samples=lambda: shifted(DRAWN, "grain")),
    # 3 garish
    looped(3, "mean clipped", "is clipped to [-1, 1], after the mean", ddpm("mean clipped")),
    looped(3, "x_{t-1} clipped", "is clipped to [-1, 1], after the mean", ddpm("x clipped")),
    looped(3, "mean clipped, linear", "is clipped to [-1, 1], after the mean",
           ddpm("mean clipped"), LINEAR),
    looped(3, "x_0 not clipped, cosine", "x_0 is not clipped", ddim("", steps=50, clip=False),
           DiffusionUtils(500, "cosine").alpha_bar[1:]),
    part(3, "samples at the limits", "samples", "garish",
         samples=lambda: shifted(DRAWN, "garish")),
    part(3, "samples beyond 1", "samples", "not clipped", samples=lambda: shifted(DRAWN, "beyond")),
    # 4 washed out or too dark
    part(4, "data in 0..1", "data", "expects -1..1", data=lambda: (REAL + 1) / 2),
    part(4, "data in 0..255", "data", "grey levels",
         data=lambda: ((REAL + 1) * 127.5).to(torch.uint8)),
    part(4, "ImageNet's mean and std", "data", "beyond -1..1", data=lambda: REAL * 2.2),
    part(4, "half of the range", "data", "only part of -1..1",
         data=lambda: 0.28 * REAL - 0.69),
    part(4, "channels last", "data", "channels last", data=lambda: REAL.permute(0, 2, 3, 1)),
    looped(4, "x_0 clipped to 0..1", "clipped to 0..1", through_x_0("x_0 in 0..1")),
    looped(4, "images returned in 0..1", "returns images in 0..1", ddpm("0..1")),
    part(4, "samples in 0..1", "samples", "no value lies below 0",
         samples=lambda: shifted(DRAWN, "0..1")),
    # 5 grey or blurred
    part(5, "linear made for 1000, T = 250", "schedule", "of the image is left at T",
         schedule=lambda: DiffusionUtils(250, "linear").alpha_bar),
    part(5, "the same, T = 100, a stranger's table", "schedule", "of the image is left at T",
         schedule=lambda: (1 - torch.linspace(1e-4, 0.02, 100)).cumprod(0)),
    part(5, "alphas for alpha_bar", "schedule", "looks like alphas",
         schedule=lambda: 1 - torch.linspace(1e-4, 0.02, 1000)),
    part(5, "betas for alpha_bar", "schedule", "looks like betas",
         schedule=lambda: torch.linspace(1e-4, 0.02, 1000)),
    *(part(5, f"{form} for alpha_bar", "schedule", f"looks like {form}",
           schedule=lambda table=table: table)
      for form, table in {
          "alphas": 1 - torch.linspace(1e-3, 0.2, 100), "1 - alpha_bar": 1 - LINEAR.float(),
          "cumprod(betas)": torch.linspace(1e-3, 0.2, 100).cumprod(0),
          "sqrt(alpha_bar)": LINEAR.float() ** 0.5, "alpha_bar in reverse": LINEAR.flip(0),
          "alpha_bar with sqrt(beta)":
          (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000)).cumprod(0),
      }.items()),
    part(5, "zero SNR with eps", "schedule", "nothing is left at T",
         schedule=lambda: DiffusionUtils(T, "cosine", prediction="v",
                                         rescale_zero_snr=True).alpha_bar),
    # 6 no very dark or bright images
    looped(6, "leading steps, linear", "the walk begins at t =", ddim("leading"), LINEAR),
    looped(6, "leading steps, cosine", "the walk begins at t =", ddim("leading")),
    looped(6, "too little noise at the start", "starts from noise", ddpm("start")),
    part(6, "samples all of one brightness", "samples", "brightness varies",
         samples=lambda: shifted(DRAWN, "grey")),
    part(6, "samples too bright", "samples", "off the data",
         samples=lambda: shifted(DRAWN, "bright")),
    # 7 DDPM good, DDIM bad
    looped(7, "t + 1, ddim", "off by one", ddim("t + 1")),
    looped(7, "t - 1, ddim", "off by one", ddim("t - 1")),
    looped(7, "t + 1, ddpm, linear", "off by one", ddpm("t + 1"), LINEAR),
    looped(7, "t - 1, ddpm", "off by one", ddpm("t - 1")),
    looped(7, "direction of the wrong step", "of the wrong step", ddim("direction of t")),
    looped(7, "direction without root", "1 - alpha_bar: the square root",
           ddim("direction without root")),
    looped(7, "image of the wrong step", "of the wrong step", ddim("image of t")),
    looped(7, "image without root", "scaled by alpha_bar: the square root",
           ddim("image without root")),
    looped(7, "eta in one place", "used in one of two places", ddim("eta in one place", eta=1.0)),
    looped(7, "eta without noise", "adds none", ddim("eta without noise", eta=1.0)),
    looped(7, "ddpm without noise", "adds none", ddpm("no noise")),
    looped(7, "variance for sigma, eps form", "scaled by its variance", ddpm("variance as sigma")),
    looped(7, "variance for sigma, x_0 form", "scaled by its variance",
           through_x_0("variance as sigma")),
    looped(7, "the same noise at each step", "every step adds the same noise", ddpm("same noise")),
    looped(7, "generator seeded in the loop", "every step adds the same noise", ddpm("re-seeded")),
    looped(7, "one noise for the batch", "same noise", ddpm("shared noise")),
    looped(7, "second order with the wrong sign", "earlier outputs",
           lambda bar: loops.second_order(bar, "sign")),
    # 8 raw against averaged weights
    part(8, "decay too long", "average", "is still the initial weights",
         average=lambda: averages("slow")),
    part(8, "never updated", "average", "never updated",
         average=lambda: averages("never updated")),
    part(8, "tables averaged", "average", "was averaged too", average=lambda: averages("table")),
    part(8, "not kept apart", "average", "equals the raw",
         average=lambda: averages("not kept apart")),
    part(8, "raw weights jump", "average", "rate may be too high",
         average=lambda: averages("rate")),
    # 9 "my loss is stuck"
    part(9, "untrained", "loss", "nearly 0 at every t", model=lambda: Perfect("untrained")),
    part(9, "target with the wrong sign", "loss", "predicts -eps, not eps",
         model=lambda: Perfect("backwards")),
    part(9, "loss rises", "history", "rose again", history=lambda: losses("rises")),
    part(9, "loss stays", "history", "stays at", history=lambda: losses("stays")),
    part(9, "no backward", "overfit", "no gradient reaches",
         step=lambda: one_batch_step(detached=True)),
    part(9, "optimiser of another network", "overfit", "holds none of the network's",
         step=lambda: one_batch_step(frozen=True)),
    part(9, "minus sign", "overfit", "the wrong sign", step=lambda: one_batch_step(sign=-1)),
    part(9, "rate far too high", "overfit", "learning rate", step=lambda: one_batch_step(lr=1e3)),
    # 10 NaN, black
    part(10, "overflow under half()", "precision", "an overflow",
         half=lambda: overflowing(network()), autocast=lambda: False),
    part(10, "NaN in the weights", "precision", "in float32 already",
         half=lambda: damaged(network())),
    part(10, "NaN in the history", "history", "NaN", history=lambda: losses("NaN")),
    part(10, "NaN at small t", "loss", "NaN", model=lambda: Perfect("NaN at small t")),
    part(10, "black samples", "samples", "NaN", samples=lambda: shifted(DRAWN, "black")),
    # 11 guidance
    part(11, "y ignored", "labels", "y is not used", model=lambda: Perfect("y ignored")),
    part(11, "no row for null", "labels", "guidance does nothing",
         model=lambda: Perfect("null is class 0")),
    part(11, "null never trained", "null label", "never trained",
         model=lambda: Perfect("null untrained")),
    part(11, "dropout of whole batches", "label dropout", "whole batches",
         drop=lambda: drop_labels("batch")),
    part(11, "dropout of the same rows", "label dropout", "the same rows",
         drop=lambda: drop_labels("first rows")),
    part(11, "dropout the other way round", "label dropout", "not 10%",
         drop=lambda: drop_labels("other way")),
    part(11, "dropout to class 0", "label dropout", "another class",
         drop=lambda: drop_labels("class 0")),
    part(11, "no dropout", "label dropout", "ever hidden", drop=lambda: drop_labels("never")),
    part(11, "branches swapped", "guidance", "swapped", guided=lambda: mixed("swapped")),
    part(11, "branches swapped, w from 0", "guidance", "swapped",
         guided=lambda: mixed("swapped, from 0")),
    part(11, "labels on the wrong rows", "guidance", "wrong rows", guided=lambda: mixed("rows")),
    part(11, "w unused", "guidance", "w changes nothing", guided=lambda: mixed("no w")),
    part(11, "w twice", "guidance", "not linear in w", guided=lambda: mixed("twice")),
    # 12 the same at every t; fails in eval mode
    part(12, "t ignored", "time", "t is not used", model=lambda: Perfect("t ignored")),
    part(12, "t on the wrong axis", "neighbours", "other images of the batch",
         model=lambda: Perfect("t of the first")),
    part(12, "statistics of the batch", "neighbours", "other images of the batch",
         model=lambda: Perfect("of the batch")),
    part(12, "BatchNorm", "modes", "BatchNorm", module=lambda: WithBatchNorm(network())),
    # 13 checkerboard, tint
    part(13, "kernel 3 at stride 2", "checkerboard", "a pattern", decode=lambda: decoder(3)),
    part(13, "kernel 5 at stride 2", "checkerboard", "a pattern",
         decode=lambda: nn.Sequential(nn.ConvTranspose2d(8, 3, 5, 2, 2, 1))),
    part(13, "checkerboard on samples", "samples", "a checkerboard",
         samples=lambda: shifted(DRAWN, "checkerboard")),
    part(13, "tint", "samples", "a tint", samples=lambda: shifted(DRAWN, "tint")),
    # 15 a trick makes it worse, or a checkpoint does not load
    part(15, "max for min", "loss weights", "wrong side", weights=lambda: min_snr("max")),
    part(15, "divided by SNR twice", "loss weights", "most noise",
         weights=lambda: min_snr("twice")),
    part(15, "module. in the names", "weights", "'module.'", state=renamed("module.")),
    part(15, "_orig_mod. in the names", "weights", "'_orig_mod.'", state=renamed("_orig_mod.")),
    # before all: the training's own noising
    part(1, "noising without root", "noising", "square root is missing",
         noising=lambda: noised("no root")),
    part(1, "noising with the first t", "noising", "t of the first",
         noising=lambda: noised("first t")),
    part(7, "noising off by one", "noising", "off by one", noising=lambda: noised("t + 1")),
]  # fmt: skip


PARTS = {  # the parts that each check looks at; it says the same as long as they are the same
    "data": "data", "schedule": "schedule prediction", "noising": "noising", "weights": "state",
    "sampler": "loop", "precision": "half autocast", "repeats": "model",
    "output": "model",
    "overfit": "step", "loss": "model",
    "history": "history", "time": "model", "neighbours": "model", "modes": "module",
    "labels": "model", "null label": "model", "label dropout": "drop", "average": "average",
    "loss weights": "weights", "guidance": "guided", "checkerboard": "decode",
    "samples": "samples",
}  # fmt: skip
HEALTHY: dict[str, d.Finding] = {}


def findings(bug=None):
    """What each check says of a healthy model, or of one with a bug."""
    if not HEALTHY:
        HEALTHY.update({name: check() for name, check in Record().checks().items()})
    if bug is None:
        return HEALTHY
    changed, checks = bug.changes(), replace(Record(), **bug.changes()).checks()
    found = {
        name: checks[name]() if changed.keys() & set(parts.split()) else HEALTHY[name]
        for name, parts in PARTS.items()
    }
    if found["loss"].alarm:  # as `run_checks` does
        found |= {name: HEALTHY[name] for name in NEED_TRAINING if name in found}
    return found


def table():
    """Lines of the confusion table: planted bugs by the checks that raise an alarm."""
    names = list(Record().checks())
    yield " " * 46 + " ".join(f"{name[:4]:4}" for name in names)
    for bug in BUGS:
        found = {name: finding for name, finding in findings(bug).items() if finding.alarm}
        said = bug.check in found and bug.phrase in found[bug.check].sentence
        marks = [
            "  X " if n in found and n == bug.check else "  ! " if n in found else "  . "
            for n in names
        ]
        yield f"{bug.number:2} {bug.name:40} {'' if said else '?':2}" + " ".join(marks)


if __name__ == "__main__":
    if len(sys.argv) > 1:  # the whole sentences
        for bug in BUGS:
            for finding in findings(bug).values():
                if finding.alarm:
                    print(f"{bug.number:2} {bug.name:36} {finding}")
    else:
        print("\n".join(table()))
