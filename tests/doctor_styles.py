"""Samplers in the styles of other people's code: healthy, and with planted bugs.

`STYLES` is the table: a name -> a function of (bug, options) that returns a `Case`. `HEALTHY` lists
the options under which each style must raise no false "broken"; `PLANTED` lists (style, options,
bug, words), of which the finding must contain one. `python tests/doctor_styles.py` prints the
confusion table. To score a sampler that is not in the table, call `hear(Case(sample, alpha_bar))`.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from ddpm_helpers import DiffusionUtils  # noqa: E402
from ddpm_helpers import doctor as d  # noqa: E402


@dataclass(frozen=True)
class Case:
    """A sampler, and what the doctor is told about it: arguments of `check_sampler`, or a patient
    of `from_sigma` or `from_flow`, which needs no alpha_bar."""

    sample: Any
    alpha_bar: Any = None
    options: dict[str, Any] = field(default_factory=dict)


def hear(case: Case) -> list[tuple[str, str]]:
    """What the doctor finds in a sampler: (verdict, sentence), the worst first."""
    try:
        if isinstance(case.sample, d.Patient):
            found = case.sample.check_sampler_all(**case.options)
        else:
            found = d.check_sampler_all(case.sample, case.alpha_bar, **case.options)
    except ValueError as error:
        return [("refused", str(error))]
    return [(finding.verdict, finding.sentence) for finding in found]


def cosine(T=40):
    return DiffusionUtils(T, "cosine").alpha_bar[1:]


def linear(T=1000):
    return (1 - torch.linspace(1e-4, 0.02, T).double()).cumprod(0)


def full(x, t, **options):
    return torch.full((len(x),), t, device=x.device, **options)


# ---- whole walks of DDPM, t = 0..T-1 ------------------------------------------------------


def ddpm(bug="", table=cosine, variance="posterior", start="given", **sizes):
    """Ho et al., algorithm 2."""
    bar = table(**sizes)
    T = len(bar)
    told_of = {
        "t + 1": lambda t: t + 1, "t - 1": lambda t: t - 1, "t in uint8": lambda t: t % 256,
        "t in bfloat16": lambda t: float(torch.tensor(float(t)).bfloat16()),
        "t from the other end": lambda t: T - 1 - t,
    }.get(bug, lambda t: t)  # fmt: skip
    used = bar
    alphas = torch.cat([bar[:1], bar[1:] / bar[:-1]])
    if bug == "betas reversed":
        used = alphas.flip(0).cumprod(0)
    if bug == "table in float16":
        used = bar.half().double().clamp(max=0.9999)  # or torch divides by 0
    if bug == "product in bfloat16":
        used = alphas.bfloat16().double().cumprod(0).clamp(max=0.9999)
    if bug == "another schedule":
        used = linear(T) if table is cosine else cosine(T)
    before = torch.cat([torch.ones(1), used[:-1]]).double()
    alpha = torch.cat([used[:1], used[1:] / used[:-1]])
    beta = 1 - alpha

    def sample(model, x):
        if start == "own":
            x = torch.randn_like(x)
        if bug == "start of torch.rand":
            x = torch.rand_like(x)
        if bug == "start times 1.3":
            x = 1.3 * x
        last = 1 if bug == "stops at t = 1" else 0
        for t in range(T - 1, last - 1, -1):
            k = max(t - 1, 0) if bug == "coefficients of max(t - 1, 0)" else t
            eps = model(x, full(x, told_of(t)))
            a, b, left = float(alpha[k]), float(beta[k]), float(1 - used[k])
            if bug == "beta of t - 1":
                b = float(beta[max(k - 1, 0)])
            if bug == "alpha and beta of t + 1":
                a, b = float(alpha[min(k + 1, T - 1)]), float(beta[min(k + 1, T - 1)])
            if bug == "sqrt(1 - alpha_bar) of t - 1":
                left = float(1 - used[max(k - 1, 0)])
            if bug == "alpha for alpha_bar":
                left = 1 - a
            weight = b / math.sqrt(left)
            weight = b if bug == "no sqrt(1 - alpha_bar)" else weight
            if bug == "sign of eps":
                weight = -weight
            old, x = x, (x - weight * eps) / math.sqrt(a)
            if bug == "1 / alpha":
                x = x / math.sqrt(a)
            if bug == "twice as large":
                x = 2 * x
            sigma2 = b if variance == "beta" else b * float(1 - before[k]) / float(1 - used[k])
            sigma = math.sqrt(max(0.0, sigma2))
            sigma = sigma2 if bug == "variance for sigma" else sigma
            sigma = 1.5 * sigma if bug == "noise times 1.5" else sigma
            z = torch.randn_like(x)
            if bug == "noise of torch.rand":
                z = torch.rand_like(x)
            if bug == "one number an image":
                z = torch.randn(len(x), 1, 1, 1).expand_as(x)
            if bug == "one noise for the batch":
                z = torch.randn_like(x[:1]).expand_as(x)
            if bug == "seeded in the loop":
                z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
            if t > 0 and bug != "no noise":
                x = x + sigma * z
            if bug == "noise at the end" and t == 0:
                x = x + math.sqrt(b) * z
            if bug == "half precision":
                x = x.half().float()
            if bug == "clipped" or (bug == "clipped late" and t < T // 5):
                x = x.clamp(-1, 1)
        return old if bug == "x of the step before" else x

    return Case(sample, bar)


def ancestral(bug="", table=cosine, kind="eps", outputs=1, **sizes):
    """Through a clipped x_0 and the posterior (openai, lucidrains); two outputs if asked."""
    bar = table(**sizes)
    before = torch.cat([torch.ones(1), bar[:-1]]).double()
    alpha = bar / before
    beta = 1 - alpha

    def split(model, x, t):
        out = model(x, full(x, t))
        if outputs == 1:
            return out, None
        both = torch.cat([out, -torch.ones_like(out)], 1)  # as a network with a learned variance
        return both.chunk(2, 1)[:: -1 if bug == "takes the second output" else 1]

    def sample(model, x):
        for t in reversed(range(len(bar))):
            out, v = split(model, x, t)
            out = -out if bug == "sign of the output" else out
            ab, to, a, b = (float(v) for v in (bar[t], before[t], alpha[t], beta[t]))
            p, q = math.sqrt(1 - ab), math.sqrt(ab)
            p = 1 - ab if bug == "x_0 with 1 - alpha_bar" else p
            q = ab if bug == "x_0 by alpha_bar" else q
            if bug == "alpha_bar of t - 1 in x_0":
                p, q = math.sqrt(max(1 - to, 1e-9)), math.sqrt(to)
            x_0 = {"eps": (x - p * out) / q, "x_0": out, "v": q * x - p * out}[kind]
            if bug == "sign of v":
                x_0 = q * x + p * out
            if bug == "v times sqrt(1 / alpha_bar - 1)":
                x_0 = q * x - p / q * out
            if bug == "x and v exchanged":
                x_0 = q * out - p * x
            if bug == "taken for v":
                x_0 = q * x - p * out
            if bug == "threshold without 1":
                s = x_0.abs().flatten(1).quantile(0.95, 1).reshape(-1, 1, 1, 1)
                x_0 = x_0.clamp(-s, s) / s
            x_0 = x_0.clamp(0, 1) if bug == "x_0 in 0..1" else x_0.clamp(-1, 1)
            if bug == "alphas_cumprod_prev not shifted":
                to = ab
            first, second = math.sqrt(to) * b / (1 - ab), math.sqrt(a) * (1 - to) / (1 - ab)
            if bug == "weights swapped":
                first, second = second, first
            if bug == "alpha without root":
                second = a * (1 - to) / (1 - ab)
            x = first * x_0 + second * x
            low, high = math.log(max(b * (1 - to) / (1 - ab), 1e-20)), math.log(b)
            log = low if v is None else (v + 1) / 2 * high + (1 - (v + 1) / 2) * low
            log = v * high + (1 - v) * low if bug == "v for (v + 1) / 2" else log
            half = 1.0 if bug == "exp(log variance)" else 0.5
            sigma = torch.exp(half * torch.as_tensor(log, dtype=x.dtype))
            if t > 0 or bug == "noise at the end":
                x = x + (math.sqrt(b) if t == 0 else sigma) * torch.randn_like(x)
        return x

    return Case(sample, bar, {"prediction": kind})


def ddim(bug="", table=cosine, steps=20, eta=0.0, calls="once", result="x", **sizes):
    """Song et al., eq. 12, with guidance in one or two calls, and any form of result."""
    bar = table(**sizes)
    T = len(bar)
    ts = [round(i * T / steps) - 1 for i in range(steps, 0, -1)]
    if bug == "leading":
        ts = [i * (T // steps) for i in range(steps - 1, -1, -1)]

    if bug == "number of one of the steps to both ends":
        ts = [round(i * (T - 1) / (steps - 1)) for i in range(steps - 1, -1, -1)]

    def ask(model, x, t, s, i):
        t = {"number of one of the steps to both ends": steps - 1 - i,
             "t + 1": t + 1, "t of the next step": max(s, 0), "number of the step": steps - 1 - i,
             "t in float16": float(torch.tensor(float(t)).half())}.get(bug, t)  # fmt: skip
        if calls == "once":
            return model(x, full(x, t))
        if calls == "labels first":
            return model(x, torch.arange(len(x)), full(x, t))
        if calls == "null":
            told = max(t - 3, 0) if bug == "another t for none" else t
            y = torch.arange(len(x))
            if bug == "labels drawn anew":
                y = torch.randint(0, 10, y.shape)
            empty = y if bug == "class for none" else None
            none, with_y = model(x, full(x, told), empty), model(x, full(x, t), y)
        elif calls == "shown":  # the second one for a picture of x_0
            with_y = none = model(x, full(x, t), torch.arange(len(x)) % 10)
            model(x, full(x, t), torch.arange(len(x)) % 10)
        elif calls == "interval":  # of w, and the branches in another order every time
            y = torch.arange(len(x)) % 4
            both = [lambda: model(x, full(x, t), y), lambda: model(x, full(x, t), y * 0 + 10)]
            if i % 5 == 0:
                return both[0]()
            with_y, none = [call() for call in both[:: 1 if i % 2 else -1]][:: 1 if i % 2 else -1]
            if bug == "guidance to 0":
                return 3 * (with_y - none)
        elif calls == "mask":
            y = torch.arange(len(x)) % 3
            none, with_y = (model(x, full(x, t), y, context_mask=torch.full_like(y, m))
                            for m in (1, 0))  # fmt: skip
        else:  # keywords, a doubled batch
            y = torch.arange(len(x)) % 10
            empty = {"labels twice": y, "class 0 for none": 0 * y}.get(bug, 0 * y + 10)
            if bug == "label dropout":
                y = torch.where(torch.rand(len(y)) < 0.1, empty, y)
            doubled = torch.cat([x, x])
            if bug == "doubled image by image":
                doubled = x.repeat_interleave(2, 0)
            if bug == "other half of its own":
                doubled = torch.cat([x, x + 0.1 * torch.randn_like(x)])
            both = model(x=doubled, timesteps=full(x, t).repeat(2), y=torch.cat([empty, y]))
            none, with_y = both.chunk(2)
        w = 3.0
        if bug == "branches swapped":
            none, with_y = with_y, none
        if bug == "guidance to 0":
            return w * (with_y - none)
        if bug == "guidance not to 1":
            return none + w * with_y
        if bug == "guided output unused":
            return none
        if bug == "first two channels":
            return torch.cat([(none + w * (with_y - none))[:, :2], with_y[:, 2:]], 1)
        if bug == "guidance clamped":
            return (none + w * (with_y - none)).clamp(-1, 1)
        return (1 + w) * with_y - w * none

    def sample(model, x):
        assert next(model.eval().parameters()).device == x.device
        for i, (t, s) in enumerate(zip(ts, [*ts[1:], -1], strict=True)):
            at, to = float(bar[t]), float(bar[s]) if s >= 0 else 1.0
            if bug == "alpha_bar of t - 1" and t:
                to = float(bar[t - 1])
            if s >= 0 and bug == "alpha_bar of t for s":
                to = at
            if s < 0 and bug == "alpha_bar[-1]":
                to = float(bar[-1])
            if s < 0 and bug == "first entry":
                to = float(bar[0])
            if s < 0 and bug == "last step left out":
                break
            eps = ask(model, x, t, s, i)
            q = math.sqrt(at if bug != "alpha_bar of s in x_0" else to)
            x_0 = ((x - math.sqrt(1 - at) * eps) / q).clamp(-1, 1)
            if bug == "1 / alpha_bar - 1":
                x_0 = (x / q - (1 / at - 1) * eps).clamp(-1, 1)
            eps = (x - math.sqrt(at) * x_0) / math.sqrt(1 - at)
            sigma = eta * math.sqrt(max(0.0, (1 - to) / (1 - at) * (1 - at / to)))
            room = 1 - to - (0 if bug == "eta in one place" else sigma**2)
            room = 1 - at if bug == "direction of t" else room
            room = 1 - to - sigma if bug == "sigma, not squared" else room
            along = room if bug == "direction without root" else math.sqrt(max(0.0, room))
            along = math.sqrt(1 - to) - sigma if bug == "sigma behind the root" else along
            along = -along if bug == "direction backwards" else along
            along = 0.0 if bug == "no direction" else along
            along = math.sqrt(to) if bug == "factors exchanged" else along
            scale = {
                "factors exchanged": math.sqrt(1 - to), "image of t": math.sqrt(at),
                "image without root": to,
            }.get(bug, math.sqrt(to))  # fmt: skip
            if bug == "alpha of one row" and t:
                alpha = at / float(bar[t - 1])
                x = math.sqrt(to) * (1 - alpha) * x_0 + math.sqrt(alpha) * (1 - to) * x
                x = x / (1 - at)
            else:
                x = scale * x_0 + along * eps
            if bug != "no noise":
                x = x + sigma * torch.randn_like(x)
        return finish(x, bug, result)

    return Case(sample, bar, {"null": 10} if calls in ("keywords", "interval") else {})


def finish(x, bug, result):
    """Return images in the way of a program, or with a mistake behind the loop."""
    x = {
        "flipped": lambda: x.flip(-1), "upside down": lambda: x.flip(-2), "BGR": lambda: x.flip(1),
        "rows for columns": lambda: x.transpose(-1, -2), "reordered": lambda: x.roll(1, 0),
        "view for permute": lambda: x.permute(0, 2, 3, 1).reshape(x.shape),
        "normalised twice": lambda: ((x + 1) / 2 + 1) / 2,
        "by ImageNet's mean": lambda: (x / 2 + 0.5 - 0.45) / 0.225,
        "x * 255": lambda: (x * 255).to(torch.int64).to(torch.uint8),
        "clamped and times 255": lambda: (x.clamp(0, 1) * 255).to(torch.uint8),
        "no 255": lambda: ((x + 1) / 2).to(torch.uint8),
        "times 128": lambda: ((x.clamp(-1, 1) + 1) * 128).round().to(torch.uint8),
        "tanh": lambda: torch.tanh(x), "x^3": lambda: x**3,
        "one image for all": lambda: x[:1].expand_as(x),
        "stretched": lambda: x / x.abs().amax((1, 2, 3), True),
    }.get(bug, lambda: x)()  # fmt: skip
    grey = (x * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    return {
        "x": lambda: x, "uint8": lambda: grey, "list": lambda: list(x), "0..1": lambda: (x + 1) / 2,
        "rounded": lambda: grey.float() / 127.5 - 1, "steps": lambda: [0 * x, x],
        "pair": lambda: (x, {"calls": 20}), "dict": lambda: {"images": x},
        "PIL": lambda: [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in grey],
        "numpy": lambda: grey.permute(0, 2, 3, 1).numpy(), "float numpy": lambda: x.numpy(),
        "uint8 cut": lambda: ((x + 1) * 127.5).to(torch.uint8),
    }[result]()  # fmt: skip


# ---- continuous time ----------------------------------------------------------------------


def vp_bar(t):
    return math.exp(-0.5 * t**2 * 19.9 - t * 0.1)


def continuous(bug="", method="euler", steps=100, end=1e-3):
    """Score SDE's VP in continuous time: reverse SDE or probability flow, and correctors."""

    def slope(model, x, t):
        """Drift and score of dx = -beta x / 2 dt + sqrt(beta) dw."""
        beta = 0.1 + 19.9 * t
        told = 999 * t if bug == "t scaled" else 1 - t if bug == "t from the other end" else t
        eps = model(x, full(x, told))
        score = -eps / math.sqrt(1 - vp_bar(t) if bug != "left of alpha_bar" else vp_bar(t))
        score = -score if bug == "sign of the score" else score
        return -beta / 2 * x, beta, score

    def ode(model, x, t):
        drift, beta, score = slope(model, x, t)
        return drift - (1.0 if bug == "score counted twice" else 0.5) * beta * score

    def sample(model, x):
        ts = [1 + (end - 1) * i / steps for i in range(steps + 1)]
        for t, s in pairwise(ts):
            h = s - t
            if method == "sde":
                drift, beta, score = slope(model, x, t)
                x = x + h * (drift - beta * score)
                by = abs(h) if bug == "noise by dt" else math.sqrt(abs(h))
                if bug != "no noise":
                    x = x + math.sqrt(beta) * by * torch.randn_like(x)
            elif method == "corrected":
                x = x + h * ode(model, x, t)
                step = 0.02 * (1 - vp_bar(s))
                x = x + step * slope(model, x, s)[2] + math.sqrt(2 * step) * torch.randn_like(x)
            elif method == "rk4":
                k = [ode(model, x, t)]
                k.append(ode(model, x + h / 2 * k[0], t + h / 2))
                k.append(ode(model, x + h / 2 * k[1], t + h / 2))
                k.append(ode(model, x + h * k[2], s))
                x = x + h / 6 * (k[0] + 2 * k[1] + 2 * k[2] + k[3])
            else:
                x = x + h * ode(model, x, t)
        bar = vp_bar(end)
        eps = model(x, full(x, end))
        return (x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)

    return Case(sample, vp_bar)


def repaint(bug="", jumps=3, T=60):
    """Down and up again, with DDIM and with the forward process; consistency sampling as well."""
    bar = cosine(T)

    def sample(model, x):
        t = T - 1
        while t >= 0:
            for jump in range(jumps):
                eps = model(x, full(x, t))
                at, to = float(bar[t]), float(bar[t - 4]) if t >= 4 else 1.0
                x_0 = ((x - math.sqrt(1 - at) * eps) / math.sqrt(at)).clamp(-1, 1)
                x = math.sqrt(to) * x_0 + math.sqrt(1 - to) * eps
                if jump < jumps - 1:
                    alpha = at / to
                    x = math.sqrt(alpha) * x
                    if bug != "no noise":
                        x = x + math.sqrt(1 - alpha if bug != "noise of alpha" else alpha) * (
                            torch.randn_like(x))  # fmt: skip
            t -= 4
        return x

    return Case(sample, bar)


def consistency(bug="", steps=5, clip=True):
    """x_0, then noised afresh."""
    bar = cosine(100)
    ts = [round(99 - 99 * i / steps) for i in range(steps)]

    def sample(model, x):
        for t, s in zip(ts, [*ts[1:], None], strict=True):
            eps = model(x, full(x, t))
            x_0 = ((x - (1 - bar[t]).sqrt() * eps) / bar[t].sqrt()).float()
            x_0 = x_0.clamp(-1, 1) if clip else x_0
            if s is None:
                return x_0
            row = t if bug == "noised to the old t" else s
            root = (1 - bar[row]) if bug == "no root" else (1 - bar[row]).sqrt()
            x = bar[row].sqrt().float() * x_0 + root.float() * torch.randn_like(x)

    return Case(sample, bar)


# ---- the scale of sigma -------------------------------------------------------------------


def karras(steps, low=0.02, high=80.0, rho=7.0):
    ramp = torch.linspace(0, 1, steps)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([sigmas, torch.zeros(1)]).double()


def sigma(
    bug="", method="euler", steps=20, high=80.0, spacing="karras", kind="x_0", low=0.02, end="x_0"
):
    """k-diffusion's samplers and EDM's: a network of x and sigma that returns x_0."""
    sigmas = karras(steps, low=low, high=high)
    if bug == "power rho left out":
        sigmas = torch.cat([torch.linspace(high ** (1 / 7), low ** (1 / 7), steps), torch.zeros(1)])
    if spacing == "linear":
        sigmas = torch.cat([torch.linspace(high, 0.02, steps), torch.zeros(1)]).double()

    def denoise(model, x, s):
        told = float(s) if bug != "half of sigma" else float(s) / 2
        if bug == "log sigma":
            told = math.log(max(told, 1e-9)) / 4
        if bug == "x in the scale of VP":
            out = model(x / math.sqrt(1 + float(s) ** 2), full(x, told))
        else:
            out = model(x, full(x, told))
        return x - s * out if kind == "eps" else out

    def step_down(s, to, eta=1.0):
        up = min(to, eta * math.sqrt(max(0.0, to**2 * (s**2 - to**2) / s**2)))
        return math.sqrt(max(0.0, to**2 - up**2)), up

    def sample(model, x):
        x, old = x * (1.0 if bug == "x_T without sigma" else float(sigmas[0])), []
        for i, (s, to) in enumerate(pairwise(sigmas.tolist())):
            cold = 0.0
            if bug == "two steps lower" and to:
                to = float(sigmas[i + 2]) or to
            if method == "consistency":
                told = float(sigmas[max(0, i - 1)]) if bug == "sigma of the step before" else s
                x = model(x, full(x, told))
                x = x + to * torch.randn_like(x)
                continue
            if method == "churn" and 0.05 < s < 50:
                hat, cold, old_x = s * 1.2, s, x
                extra = hat - s if bug == "churn by difference" else math.sqrt(hat**2 - s**2)
                if bug != "no noise":
                    x = x + extra * torch.randn_like(x)
                s = hat
            D = denoise(model, x, cold if cold and bug == "t before the churn" else s)
            if end == "x_t" and to == 0:
                break
            slope = (x - D) / (to if bug == "slope by the next sigma" and to else s)
            slope = (x - D) / cold if cold and bug == "slope by the old sigma" else slope
            x, s = (old_x, cold) if cold and bug == "from the old x" else (x, s)
            slope = slope / s if bug == "slope by sigma squared" else slope
            slope = -slope if bug == "sign" else slope
            if bug == "last step left out" and to == 0:
                break
            if method in ("ancestral", "2s ancestral"):
                down, up = step_down(s, to)
                if bug == "step to sigma, not down":
                    down = to
                if bug == "sigma up squared":
                    up = up**2
                if bug == "sigma up squared in both places":
                    up = min(to, up**2)
                    down = math.sqrt(to**2 - up**2)
                if bug == "noise of the next sigma":
                    up = to
                if method == "2s ancestral" and down > 0:
                    middle = math.sqrt(s * down)
                    half = x + slope * (middle - s)
                    slope = (half - denoise(model, half, middle)) / middle
                    a = down / s
                    x = a * x + (1 - a) * (half - middle * slope)
                else:
                    x = x + slope * (down - s)
                if to > 0 and bug != "no noise":
                    x = x + up * torch.randn_like(x)
            elif method in ("heun", "churn") and to > 0:
                ahead = x + slope * (to - s)
                at = s if bug == "second sigma of the begin" else to
                given = x if bug == "x given twice" else ahead
                D = denoise(model, given, at)
                second = ((x if bug == "second slope from x" else ahead) - D) / to
                second = (ahead - D) / s if bug == "second slope by the first sigma" else second
                both = (slope + second) / (1 if bug == "no half" else 2)
                both = second if bug == "second slope alone" else both
                x = (ahead if bug == "from the second x" else x) + both * (to - s)
            elif method == "dpm2" and to > 0:
                middle = math.sqrt(s * to)
                half = x + slope * (middle - s)
                told = to if bug == "second sigma of the end" else middle
                second = (half - denoise(model, half, told)) / middle
                second = second / 2 if bug == "half a step" else second
                if bug == "slope of the begin":
                    second = 2 * second - slope
                end_of = middle if bug == "step to the middle" else to
                x = x + second * (end_of - s)
            elif method == "2m" and to > 0:
                h, past = math.log(s / to), D
                if old:
                    r = math.log(old[-1][1] / s) / h
                    r = 1 / r if bug == "r inverted" else r
                    other = old[0][0] if bug == "first entry kept" else old[-1][0]
                    by = 1 / (2 * r) * (-1 if bug == "sign of the second order" else 1)
                    by = 2 * by if bug == "2 r for r" else by
                    past = (1 + by) * D - by * other
                    if bug == "history out of order":
                        past = (1 + by) * other - by * D
                x = to / s * x - math.expm1(-h) * past
                old.append((D, s))
            elif method == "lms":
                old.append((slope, s))
                knots = [entry[1] for entry in old[-3:]]
                weights = adams(knots, s, to)
                if bug == "weights reversed":
                    weights = weights[::-1]
                recent = old[:3] if bug == "oldest entries" else old[-3:]
                x = x + sum(w * entry[0] for w, entry in zip(weights, recent, strict=True))
            else:
                x = x + slope * (to - s)
                if bug == "steps twice as long" and to:
                    x = x + slope * (to - s)
        return x

    return Case(d.from_sigma(sample, prediction=kind))


def adams(knots, begin, end):
    """Integrals of the Lagrange polynomials of knots from begin to end, by a fine sum."""
    n = 400
    at = torch.linspace(begin, end, 2 * n + 1).double()[1::2]
    weights = []
    for k in knots:
        product = torch.ones_like(at)
        for j in knots:
            if j != k:
                product = product * (at - j) / (k - j)
        weights.append(float(product.mean()) * (end - begin))
    return weights


# ---- flow matching ------------------------------------------------------------------------


def flow(bug="", method="euler", steps=20, up=True, scale=1.0, shape="batch", sign=1.0, order="xt"):
    """t upwards (torchcfm, RectifiedFlow, MIT's lab) or downwards (minRF); any shape of t."""

    def ask(model, x, t):
        t = 1 - t if bug == "t from the other end" else t
        t = t if bug == "not scaled" else scale * t
        told = {
            "batch": full(x, t), "number": t, "zero": torch.tensor(t),
            "column": full(x, t)[:, None],
            "image": full(x, t)[:, None, None, None],
        }[shape]  # fmt: skip
        out = model(x, told) if order == "xt" else model(told, x)
        return sign * out

    def sample(model, x):
        count = steps
        ts = [i / count for i in range(count + 1)]
        if bug == "linspace of steps":
            ts = [i / (count - 1) for i in range(count)]
        ts = ts if up else [1 - t for t in ts]
        for i, (t, s) in enumerate(pairwise(ts)):
            h = 1 / count * (1 if up else -1) if bug == "linspace of steps" else s - t
            if bug == "dt too long":
                h = h * 1.1
            h = -h if bug == "sign" else h
            if bug == "last step left out" and i == count - 1:
                break
            told = s if bug == "t of the next step" else t
            told = t - 0.3 * t * (1 - t) if bug == "t without its shift" else told
            k = ask(model, x, told)
            if method == "midpoint":
                k = ask(model, x + h / 2 * k, t if bug == "t of the begin" else t + h / 2)
            if method == "heun":
                second = ask(model, x + h * k, s)
                k = k + second if bug == "no half" else (k + second) / 2
            if method == "rk4":
                b = ask(model, x + h / 2 * k, t + h / 2)
                c = ask(model, x + h / 2 * b, t + h / 2)
                e = ask(model, x + (h / 2 if bug == "last stage of half" else h) * c, s)
                k = (k + 2 * b + 2 * c + e) / (5 if bug == "weights not to 1" else 6)
            x = x + h * k
            if bug == "noise added":
                x = x + 0.05 * torch.randn_like(x)
        return x

    return Case(d.from_flow(sample, noise_at=0 if up else 1, scale=scale, sign=sign))


# ---- several steps of history -------------------------------------------------------------


def plms(bug="", steps=25, T=1000, end="x_0", start="one call", cut=False):
    """Liu et al. 2022: Adams-Bashforth on eps, over steps of DDIM; the first may take two calls."""
    bar = (1 - torch.linspace(0.1 / T, 20 / T, T).double()).cumprod(0)
    ts = [round(i * T / steps) - 1 for i in range(steps, 0, -1)]

    def step(x, t, s, eps):
        at, to = float(bar[t]), float(bar[s]) if s >= 0 else 1.0
        to = float(bar[0]) if s < 0 and end == "first entry" else to
        x_0 = (x - math.sqrt(1 - at) * eps) / math.sqrt(at)
        return math.sqrt(to) * x_0 + math.sqrt(1 - to) * eps

    def sample(model, x):
        old = []
        for t, s in zip(ts, [*ts[1:], -1], strict=True):
            eps = model(x, full(x, t))
            old.append(eps)
            if bug == "newest dropped" and len(old) > 4:
                old.pop()
            recent = old[-1:-5:-1] if bug != "history out of order" else old[-4:]
            weights = {1: [1.0], 2: [3, -1], 3: [23, -16, 5], 4: [55, -59, 37, -9]}[len(recent)]
            if bug == "sign of a weight" and len(weights) > 1:
                weights = [weights[0] + 2 * weights[1], -weights[1], *weights[2:]]
            total = sum(weights)
            if bug == "plus for minus" and len(weights) == 4:
                weights = [55, -59, 37, 9]
            out = sum(w / total * e for w, e in zip(weights, recent, strict=True))
            if len(old) == 1 and start == "two calls":
                out = (eps + model(step(x, t, s, eps), full(x, s))) / 2
            x = step(x, t, s, out)
        return x.clamp(-1, 1) if cut else x

    return Case(sample, bar, {"prediction": "eps"})


def dpm(bug="", table=linear, steps=25, spacing="t", **sizes):
    """Lu et al. 2022, DPM-Solver++ (2M), over steps that are even in t or in lambda."""
    bar = table(**sizes)
    T = len(bar)
    half = 1.0 if bug == "lambda without its half" else 0.5
    lam = half * (bar.log() - (1 - bar).log())
    ts = [round(i * (T - 1) / steps) for i in range(steps, 0, -1)]
    if spacing == "lambda":
        even = torch.linspace(float(lam[-1]), float(lam[0]), steps + 1)[:-1]
        ts = sorted({int((lam - value).abs().argmin()) for value in even}, reverse=True)

    def sample(model, x):
        before = None
        for t, s in zip(ts, [*ts[1:], -1], strict=True):
            at = float(bar[t])
            x_0 = (x - math.sqrt(1 - at) * model(x, full(x, t))) / math.sqrt(at)
            x_0 = x_0.clamp(-1, 1)
            if s < 0:
                return x_0
            to, h, D = float(bar[s]), float(lam[s] - lam[t]), x_0
            if before is not None:
                r = before[1] / h
                r = {"r inverted": 1 / r, "r left out": 1.0, "r for 2 r": r / 2}.get(bug, r)
                by = 1 / (2 * r) * (-1 if bug == "sign of the second order" else 1)
                D = x_0 + by * (x_0 - before[0])
            before = (x_0, h)
            x = math.sqrt((1 - to) / (1 - at)) * x - math.sqrt(to) * math.expm1(-h) * D

    return Case(sample, bar)


STYLES: dict[str, Callable[..., Case]] = {
    "ddpm": ddpm, "ancestral": ancestral, "ddim": ddim, "continuous": continuous,
    "repaint": repaint, "consistency": consistency, "sigma": sigma, "flow": flow, "plms": plms,
    "dpm": dpm,
}  # fmt: skip

# ---- the tables ---------------------------------------------------------------------------

HEALTHY = [
    *(("ddpm", {"T": T, "variance": v}) for T in (40, 150) for v in ("posterior", "beta")),
    ("ddpm", {"table": linear}), ("ddpm", {"start": "own"}),
    *(("ancestral", {"kind": kind, "outputs": n}) for kind in ("eps", "x_0", "v") for n in (1, 2)),
    *(("ddim", {"eta": eta, "steps": steps}) for eta in (0.0, 0.5, 1.0) for steps in (10, 30)),
    ("ddim", {"table": linear, "steps": 50}),
    *(("ddim", {"calls": calls, "eta": eta}) for calls in ("null", "mask", "keywords")
      for eta in (0.0, 1.0)),
    *(("ddim", {"result": form}) for form in (
        "uint8", "uint8 cut", "list", "0..1", "rounded", "steps", "numpy", "float numpy")),
    *(("continuous", {"method": method, "steps": steps})
      for method, steps in (("euler", 100), ("euler", 300), ("sde", 100), ("sde", 400),
                            ("corrected", 150), ("rk4", 20), ("rk4", 50))),
    ("repaint", {}), ("repaint", {"jumps": 1}), ("consistency", {}), ("consistency", {"steps": 2}),
    ("consistency", {"steps": 4, "clip": False}), ("ddim", {"calls": "labels first"}),
    *(("ddim", {"result": form}) for form in ("pair", "dict", "PIL")),
    *(("sigma", {"method": method, "steps": steps})
      for method in ("euler", "heun", "dpm2", "2m", "ancestral", "2s ancestral", "churn", "lms")
      for steps in (10, 30)),
    *(("sigma", {"method": method, "spacing": "linear", "high": 14.6, "steps": 25})
      for method in ("2m", "lms")),
    ("sigma", {"kind": "eps"}), ("sigma", {"kind": "eps", "method": "2m"}),
    *(("flow", {"method": method, "shape": shape, "up": up})
      for method, shape, up in (("euler", "batch", True), ("euler", "image", False),
                                ("midpoint", "zero", True), ("heun", "number", False),
                                ("rk4", "batch", True), ("rk4", "column", False))),
    ("flow", {"scale": 999.0}), ("flow", {"scale": 1000.0, "up": False}),
    ("flow", {"order": "tx", "shape": "zero"}), ("flow", {"sign": -1.0}), ("flow", {"steps": 2}),
    ("plms", {}), ("plms", {"steps": 50}), ("plms", {"steps": 100}),
    ("plms", {"end": "first entry", "cut": True}),
    *(("plms", {"T": T, "steps": steps, "start": "two calls"})
      for T, steps in ((100, 10), (200, 10), (250, 25), (1000, 20))),
    *(("dpm", {"spacing": spacing, "steps": steps})
      for spacing in ("t", "lambda") for steps in (12, 25)),
    ("sigma", {"low": 0.0097, "steps": 60, "end": "x_t"}),
    *(("sigma", {"method": "consistency", "steps": steps}) for steps in (2, 5)),
    ("dpm", {"table": cosine, "T": 200}), ("ddim", {"table": cosine, "T": 100, "steps": 100}),
    *(("ddim", {"calls": calls, "eta": eta}) for calls in ("shown", "interval") for eta in (0, 1)),
]  # fmt: skip

ROW, HISTORY = "neighbouring|of the next step", "earlier outputs"
T_OFF = "off by one|t of the next one"
MEAN_OF = "posterior's mean"
LENGTH = "times as long|lead away"


def planted(style, bugs, *options):
    """One entry for each bug and each set of options."""
    return [(style, option, bug, words) for option in options for bug, words in bugs.items()]


PLANTED = [
    *planted("ddpm", {
        "t + 1": "off by one", "t - 1": "off by one", "t from the other end": "from the other end",
        "coefficients of max(t - 1, 0)": "off by one", "sign of eps": "wrong sign",
        "beta of t - 1": ROW, "alpha and beta of t + 1": ROW, "sqrt(1 - alpha_bar) of t - 1": ROW,
        "alpha for alpha_bar": "alpha_t stands", "1 / alpha": "divides by alpha_t",
        "no sqrt(1 - alpha_bar)": "computed with 1 - alpha_bar|not sqrt(1 - alpha_bar)",
        "variance for sigma": "scaled by its variance", "noise times 1.5": "1.5 times",
        "no noise": "adds none", "noise at the end": "noise is added at the last step",
        "stops at t = 1": "never visited",
        "x of the step before": "x of the step before is returned",
        "noise of torch.rand": "torch.rand", "one number an image": "all pixels",
        "one noise for the batch": "same noise", "seeded in the loop": "same noise",
        "start of torch.rand": "torch.rand", "start times 1.3": "starts from noise",
        "clipped": "is clipped", "clipped late": "is clipped",
        "another schedule": "another schedule", "betas reversed": "reverse order",
    }, {}, {"T": 70, "variance": "beta"}),
    *planted("ddpm", {
        "t + 1": "off by one", "coefficients of max(t - 1, 0)": "off by one",
        "beta of t - 1": ROW, "sqrt(1 - alpha_bar) of t - 1": ROW,
        "stops at t = 1": "never visited", "noise at the end": "noise is added at the last step",
        "t in uint8": "uint8", "t in bfloat16": "bfloat16", "betas reversed": "reverse order",
        "table in float16": "float16", "product in bfloat16": "",
        "another schedule": "another schedule", "clipped late": "is clipped",
    }, {"table": linear}),
    *planted("ancestral", {
        "x_0 with 1 - alpha_bar": "computed with 1 - alpha_bar",
        "x_0 by alpha_bar": "divided by alpha_bar", "weights swapped": MEAN_OF,
        "alpha without root": MEAN_OF, "exp(log variance)": "scaled by its variance",
        "noise at the end": "noise is added at the last step", "x_0 in 0..1": "clipped to 0..1",
        "taken for v": "as v",
    }, {}, {"T": 70, "kind": "eps", "outputs": 2}),
    *planted("ancestral", {"takes the second output": ""}, {"outputs": 2}),
    *planted("ddim", {
        "t + 1": "off by one", "alpha_bar[-1]": "alpha_bar[-1]", "first entry": "before the first",
        "last step left out": "walk ends before|left out",
        "alpha_bar of s in x_0": "of the next step, not of t",
        "direction of t": "of the wrong step", "direction without root": "1 - alpha_bar",
        "direction backwards": "wrong sign", "no direction": "no direction",
        "image of t": "of the wrong step", "image without root": "scaled by alpha_bar",
        "t of the next step": T_OFF, "number of the step": "number of the step",
    }, {}, {"table": linear, "steps": 50}),
    *planted("ddim", {"eta in one place": "one of two places", "no noise": "adds none",
                      "direction of t": "of the wrong step"}, {"eta": 1.0, "steps": 30}),
    *planted("ddim", {"guidance not to 1": "sum to 4", "t + 1": "off by one",
                      "branches swapped": "are swapped"},
             {"calls": "null"}, {"calls": "keywords"}),
    *planted("ddim", {
        "flipped": "left and right", "upside down": "top and bottom", "BGR": "BGR",
        "rows for columns": "rows and columns", "reordered": "another order",
        "view for permute": "another order", "normalised twice": "normalised twice",
        "by ImageNet's mean": "normalised twice", "t + 1": "off by one",
    }, {"result": "float numpy"}),
    *planted("ddim", {"flipped": "left and right", "t + 1": "off by one",
                      "direction of t": "of the wrong step"},
             {"result": "0..1"}, {"result": "numpy"}),
    *planted("continuous", {
        "t scaled": "is multiplied by|outside|go up", "sign of the score": "wrong sign",
        "noise by dt": "too weak",
        "no noise": "adds none", "t from the other end": "from the other end|go up",
    }, {"method": "sde"}),
    *planted("continuous", {"score counted twice": "counts twice", "left of alpha_bar": ""}, {}),
    *planted("repaint", {"no noise": "gets noise|adds none", "noise of alpha": "gets noise"}, {}),
    *planted("consistency", {"no root": "by its variance",
                             "noised to the old t": "of the wrong step"}, {}),
    *planted("sigma", {"sign": LENGTH + "|wrong sign",
                       "last step left out": "walk ends before|left out",
                       "slope by the next sigma": "sigma of the next step",
                       "steps twice as long": LENGTH, "half of sigma": "starts from noise",
                       "x in the scale of VP": "wrong scale"}, {}),
    *planted("sigma", {"step to sigma, not down": "one of two places",
                       "sigma up squared": "by its variance",
                       "no noise": "adds none"}, {"method": "ancestral"}),
    *planted("sigma", {"step to sigma, not down": "one of two places",
                       "sigma up squared": "by its variance",
                       "no noise": "gets noise"}, {"method": "2s ancestral", "steps": 10}),
    *planted("sigma", {
        "no half": "sum to 2", "second slope alone": HISTORY, "x given twice": "the same x_t",
        "second slope from x": "x_t of its begin", "from the second x": "of its second call",
        "second sigma of the begin": "second call of a step is given the wrong",
        "second slope by the first sigma": "sigma of the first call",
    }, {"method": "heun"}, {"method": "heun", "steps": 12, "high": 14.6}),
    *planted("sigma", {
        "slope of the begin": HISTORY, "half a step": "sum to 0.5",
        "second sigma of the end": "second call of a step is given the wrong",
    }, {"method": "dpm2"}, {"method": "dpm2", "steps": 12}),
    *planted("sigma", {
        "no noise": "gets noise", "churn by difference": "gets noise",
        "t before the churn": "t from before it", "from the old x": "from before its noise",
        "slope by the old sigma": "from before its noise",
    }, {"method": "churn"}),
    *planted("sigma", {
        "r inverted": HISTORY, "first entry kept": HISTORY, "sign of the second order": HISTORY,
        "2 r for r": HISTORY, "history out of order": HISTORY,
    }, {"method": "2m", "spacing": "linear", "high": 14.6, "steps": 25}),
    *planted("sigma", {"weights reversed": HISTORY, "oldest entries": HISTORY}, {"method": "lms"}),
    *planted("flow", {
        "sign": LENGTH, "dt too long": LENGTH, "linspace of steps": LENGTH,
        "last step left out": "walk ends before|left out",
        "t from the other end": "from the other end|go up", "t of the next step": T_OFF,
        "noise added": "leave no room",
    }, {}, {"up": False, "shape": "image", "steps": 50}),
    *planted("flow", {"not scaled": "not multiplied"},
             {"scale": 999.0}, {"scale": 1000.0, "up": False}),
    *planted("flow", {"no half": "sum to 2"}, {"method": "heun"}),
    *planted("flow", {"weights not to 1": "sum to 1.2", "last stage of half": "fourth call"},
             {"method": "rk4"}, {"method": "rk4", "up": False, "scale": 1000.0}),
    *planted("ddpm", {"twice as large": "overflow", "half precision": "half precision"},
             {"T": 150}),
    *planted("ancestral", {"threshold without 1": "is stretched"}, {}, {"kind": "v"}),
    *planted("ancestral", {"x and v exchanged": "exchanged with"},
             {"kind": "v"}, {"kind": "v", "T": 70}),
    *planted("ancestral", {"v for (v + 1) / 2": "mean of each step is DDPM's"},
             {"outputs": 2}, {"outputs": 2, "table": linear, "T": 100}),
    *planted("ddim", {"factors exchanged": "exchanged with"}, {}, {"steps": 30}),
    *planted("ddim", {"guidance to 0": "sum to 0", "another t for none": "the same x_t"},
             {"calls": "null"}, {"calls": "null", "steps": 30}),
    *planted("flow", {"t without its shift": "not that of x_t"},
             {}, {"up": False, "scale": 1000.0}),
    *planted("ancestral", {"sign of v": "wrong sign", "sign of the output": "wrong sign"},
             {"kind": "v"}),
    *planted("ancestral", {"alphas_cumprod_prev not shifted": "not shifted"}, {}, {"kind": "v"}),
    *planted("ddim", {"alpha_bar of t - 1": "arrives at t - 1, but|from t to t - 1, but"},
             {}, {"table": linear, "eta": 1.0, "steps": 50}),
    *planted("ddim", {"alpha of one row": "from t to t - 1, but"},
             {"table": linear, "eta": 1.0}, {"table": linear, "eta": 1.0, "T": 300}),
    *planted("ddim", {"labels twice": "get the same labels", "class 0 for none": "never passed"},
             {"calls": "keywords"}, {"calls": "keywords", "eta": 1.0}),
    *planted("ddim", {"leading": "the walk begins"}, {"table": linear, "steps": 25}),
    *planted("ddim", {"sigma behind the root": "alpha_bar) - sigma"},
             {"eta": 1.0}, {"eta": 0.5, "steps": 30}),
    *planted("ddim", {"sigma, not squared": "sigma, not sigma^2"}, {"eta": 1.0}, {"eta": 0.5}),
    *planted("ddim", {"x * 255": "x * 255", "clamped and times 255": "x * 255",
                      "no 255": "without the factor", "times 128": "256 does not fit",
                      "tanh": "is tanh of x_0", "x^3": "another function of each value",
                      "one image for all": "images several times",
                      "stretched": "scaled by itself"}, {}),
    *planted("ddim", {"direction without root": "1 - alpha_bar"},
             {"T": 100, "steps": 100}, {"table": linear, "T": 400, "steps": 400}),
    *planted("sigma", {"slope by sigma squared": "it is squared",
                       "x_T without sigma": "by the first sigma"}, {}),
    *planted("sigma", {"noise of the next sigma": "sigma_up"}, {"method": "ancestral"}),
    *planted("flow", {"t of the begin": "wrong t"}, {"method": "midpoint"},
             {"method": "midpoint", "up": False, "scale": 1000.0}),
    *planted("dpm", {
        "lambda without its half": "factor 1/2", "r inverted": "upside down",
        "r left out": "left out", "r for 2 r": "twice",
        "sign of the second order": "sign is wrong",
    }, {}, {"table": cosine, "T": 300, "steps": 20}),
    *planted("plms", {"newest dropped": HISTORY, "history out of order": HISTORY,
                      "sign of a weight": HISTORY, "plus for minus": "sum to 1.75"},
             {}, {"steps": 50}, {"T": 200, "steps": 20, "start": "two calls"}),
    *planted("ddim", {"doubled image by image": "not x_t twice",
                      "other half of its own": "not x_t twice", "guidance clamped": "",
                      "label dropout": "label dropout is on"},
             {"calls": "keywords", "eta": 1.0}),
    *planted("ddim", {"labels drawn anew": "labels change", "class for none": "same labels"},
             {"calls": "null"}),
    *planted("ddim", {"guided output unused": "never enters", "first two channels": "2 of 3"},
             {"calls": "null"}, {"calls": "keywords", "eta": 1.0}),
    *planted("ddim", {"guidance to 0": "sum to 0"}, {"calls": "interval"}),
    *planted("ddim", {"number of one of the steps to both ends": "number of the step"},
             {"table": linear, "steps": 48}, {"table": linear, "steps": 31}),
    *planted("ddim", {"alpha_bar of t for s": "goes to its own t",
                      "1 / alpha_bar - 1": "with 1 / alpha_bar - 1"}, {}, {"table": linear}),
    *planted("ancestral", {"v times sqrt(1 / alpha_bar - 1)": "v times sqrt(1 / alpha_bar - 1)"},
             {"kind": "v"}, {"kind": "v", "T": 70}),
    *planted("sigma", {"power rho left out": "the walk begins at",
                       "two steps lower": "two steps lower"}, {}, {"steps": 40}),
    *planted("sigma", {"two steps lower": "two steps lower",
                       "sigma up squared in both places": "sigma_up squared"},
             {"method": "ancestral"}, {"method": "ancestral", "steps": 40}),
    *planted("sigma", {"step to the middle": "way to its second call"},
             {"method": "dpm2"}, {"method": "dpm2", "steps": 12}),
    *planted("sigma", {"sigma of the step before": "t of the step before"},
             {"method": "consistency", "steps": 5}, {"method": "consistency", "steps": 8}),
]  # fmt: skip


def case(style, options, bug=""):
    return STYLES[style](bug, **options)


def named(heard, words):
    """Whether the first finding is an alarm that contains one of the words; none are a bug that
    the doctor need not name, only find."""
    verdict, sentence = heard[0]
    return (
        verdict in ("look", "broken")
        and bool(words)
        and any(word in sentence for word in words.split("|"))
    )


def table(rows=None):
    """Lines of the confusion table: one for each sampler, and the sums."""
    counts = dict.fromkeys(("healthy", "false alarm", "named", "unnamed", "missed"), 0)
    for style, options in HEALTHY if rows is None else rows[0]:
        heard = hear(case(style, options))
        wrong = heard[0][0] in ("broken", "refused")
        counts["false alarm" if wrong else "healthy"] += 1
        yield f"{'FALSE' if wrong else heard[0][0]:8} {style} {options}: {heard[0][1]}"
    for style, options, bug, words in PLANTED if rows is None else rows[1]:
        heard = hear(case(style, options, bug))
        how = "missed" if heard[0][0] == "ok" else "named" if named(heard, words) else "unnamed"
        counts[how] += 1
        yield f"{how:8} {style} {options} {bug!r}: " + " / ".join(f"{v}: {s}" for v, s in heard)
    yield ", ".join(f"{name} {count}" for name, count in counts.items())


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
