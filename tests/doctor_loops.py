"""Sampling loops as other people write them: healthy ones, and one for each planted bug.

Tables have T entries, t = 0..T-1, as in most code outside this project. Each factory takes a table
of alpha_bar and returns `sample(model, x_T)`; the models predict eps unless the bug is that they
do not.
"""

import math

import torch


def col(bar, t):
    return float(bar[t])


def ddpm(bar, bug="", steps=None):
    """Ho et al. 2020, algorithm 2, in the form with eps (dome272, labml)."""
    T = len(bar)
    alpha = torch.cat([bar[:1], bar[1:] / bar[:-1]])
    beta = 1 - alpha

    def sample(model, x):
        if bug == "start":
            x = x * 0.5
        same = torch.randn_like(x)
        order = range(T) if bug == "upwards" else reversed(range(T))
        for t in order:
            told = {"t + 1": t + 1, "t - 1": t - 1, "one t": T // 2}.get(bug, t)
            eps = model(x, torch.full((len(x),), told))
            a, b, ab = float(alpha[t]), float(beta[t]), float(bar[t])
            prev = float(bar[t - 1]) if t > 0 else 1.0
            k, c = b / math.sqrt(1 - ab), 1 / math.sqrt(a)
            if bug == "k without root":
                k = b / (1 - ab)
            if bug == "k of beta's root":
                k = math.sqrt(b) / math.sqrt(1 - ab)
            if bug == "c without root":
                c = 1 / a
            if bug == "c of alpha_bar":
                c = 1 / math.sqrt(ab)
            x = c * (x - k * eps)
            if bug == "mean clipped":
                x = x.clamp(-1, 1)
            sigma = math.sqrt(b * (1 - prev) / (1 - ab))
            if bug in ("noise at the end", "beta at the end"):
                sigma = math.sqrt(b)
            if bug == "variance as sigma":
                sigma = b
            z = torch.randn_like(x)
            if bug == "same noise":
                z = same
            if bug == "shared noise":
                z = torch.randn_like(x[:1]).expand_as(x)
            if bug == "re-seeded":
                z = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
            if bug == "no noise" or (t == 0 and bug not in ("noise at the end", "beta at the end")):
                z = 0 * z
            x = x + sigma * z
            if bug == "x clipped":
                x = x.clamp(-1, 1)
        if bug == "0..1":
            x = (x + 1) / 2
        return x

    return sample


def ancestral(bar, bug="", clip=True):
    """The same walk through x_0 and the posterior, with the clip (openai, lucidrains)."""
    T = len(bar)
    prev = torch.cat([torch.ones(1, dtype=bar.dtype), bar[:-1]])
    if bug == "alpha_bar[-1]":
        prev = torch.stack([bar[t - 1] for t in range(T)])
    alpha = torch.cat([bar[:1], bar[1:] / bar[:-1]])
    beta = 1 - alpha
    a = prev.sqrt() * beta / (1 - bar)
    b = alpha.sqrt() * (1 - prev) / (1 - bar)
    if bug == "weights swapped":
        a, b = b, a
    if bug == "a without root":
        a = prev * beta / (1 - bar)
    var = beta * (1 - prev) / (1 - bar)

    def sample(model, x):
        for t in reversed(range(T)):
            out = model(x, torch.full((len(x),), t))
            ab = float(bar[t])
            if bug == "eps taken for x_0":
                x_0 = out
            elif bug == "x_0 without root":
                x_0 = (x - (1 - ab) * out) / math.sqrt(ab)
            elif bug == "x_0 by alpha_bar":
                x_0 = (x - math.sqrt(1 - ab) * out) / ab
            else:
                x_0 = (x - math.sqrt(1 - ab) * out) / math.sqrt(ab)
            if bug == "x_0 in 0..1":
                x_0 = x_0.clamp(0, 1)
            elif clip:
                x_0 = x_0.clamp(-1, 1)
            x = float(a[t]) * x_0 + float(b[t]) * x
            if bug == "noise through and through" or t > 0:
                sigma = float(var[t]) if bug == "variance as sigma" else math.sqrt(max(0, var[t]))
                if bug == "noise through and through":
                    sigma = math.sqrt(beta[t])
                x = x + sigma * torch.randn_like(x)
        return x

    return sample


def ddim(bar, bug="", steps=20, eta=0.0, clip=True):
    """Song et al. 2021, eq. 12."""
    T = len(bar)
    stride = T // steps
    ts = list(range(T - 1, -1, -stride))
    if bug == "leading":
        ts = [i * stride for i in reversed(range(steps))]
        ts = [t for t in ts if t < 0.7 * T]
    if bug == "upwards":
        ts = ts[::-1]

    def sample(model, x):
        for t, s in zip(ts, [*ts[1:], -1], strict=True):
            at = float(bar[t])
            to = float(bar[s]) if s >= 0 else 1.0
            if s < 0 and bug == "alpha_bar[-1]":
                to = float(bar[s])
            if s < 0 and bug == "first entry":
                to = float(bar[0])
            told = {"t + 1": t + 1, "t - 1": t - 1}.get(bug, t)
            eps = model(x, told)
            x_0 = (x - math.sqrt(1 - at) * eps) / math.sqrt(at)
            if clip:
                x_0 = x_0.clamp(-1, 1)
                eps = (x - math.sqrt(at) * x_0) / math.sqrt(1 - at)
            sigma = eta * math.sqrt((1 - to) / (1 - at) * (1 - at / to)) if to > at else 0.0
            room = 1 - to - sigma**2
            if bug == "eta in one place":
                room = 1 - to
            if bug == "direction of t":
                room = 1 - at
            direction = math.sqrt(max(0, room))
            if bug == "direction without root":
                direction = room
            scale = math.sqrt(to)
            if bug == "image of t":
                scale = math.sqrt(at)
            if bug == "image without root":
                scale = to
            x = scale * x_0 + direction * eps
            if bug != "eta without noise" and sigma:
                x = x + sigma * torch.randn_like(x)
        return x

    return sample


def second_order(bar, bug="", steps=20):
    """DPM-Solver++ (2M), whose second order is wrong with the bug."""
    T = len(bar)
    ts = [round(i * (T - 1) / steps) for i in range(steps, 0, -1)]
    lam = 0.5 * (bar.log() - (1 - bar).log())

    def sample(model, x):
        before = None
        for t, s in zip(ts, [*ts[1:], -1], strict=True):
            at, to = float(bar[t]), float(bar[s]) if s >= 0 else 1.0
            x_0 = (x - math.sqrt(1 - at) * model(x, t)) / math.sqrt(at)
            x_0 = x_0.clamp(-1, 1)
            if s < 0:
                return x_0
            h = float(lam[s] - lam[t])
            D = x_0
            if before is not None:
                r = before[1] / h
                sign = -4 if bug else 1
                D = x_0 + sign * (x_0 - before[0]) / (2 * r)
            x = math.sqrt((1 - to) / (1 - at)) * x - math.sqrt(to) * math.expm1(-h) * D
            before = (x_0, h)

    return sample
