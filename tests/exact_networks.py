"""Networks whose answers are known, for tests of samplers and everything that calls a network."""

import torch


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def wavy(x_t, t):
    """Any smooth function, each image by itself, exactly the same in every batch."""
    return torch.tanh(x_t * 0.7 + t.to(x_t).reshape(-1, 1, 1, 1) * 0.01)


def answer(d, x_0, x_t, t):
    """What a network says that predicts this x_0: eps, x_0, v or the velocity, as defined."""
    bar = d.alpha_bar[t].to(x_t).reshape(-1, 1, 1, 1)
    a, b = bar.sqrt(), (1 - bar).sqrt()
    eps = (x_t - a * x_0) / b
    return {"eps": eps, "x_0": x_0, "v": a * eps - b * x_0, "flow": eps - x_0}[d.prediction]


def gaussian(d, mean=0.0, spread=0.5):
    """The perfect network for pixels from N(mean, spread^2)."""

    def model(x_t, t):
        bar = d.alpha_bar[t].to(x_t).reshape(-1, 1, 1, 1)
        gain = spread**2 * bar.sqrt() / (spread**2 * bar + 1 - bar)
        return answer(d, mean + gain * (x_t - bar.sqrt() * mean), x_t, t)

    return model


def mixture(d, centres, spread, shares):
    """The perfect network for pixels from Gaussians of one spread, in these shares."""

    def model(x_t, t, y=None):
        bar = d.alpha_bar[t].to(x_t).reshape(-1, 1, 1, 1, 1)
        places, variance = torch.tensor(centres).to(x_t), bar * spread**2 + 1 - bar
        away = x_t[..., None] - bar.sqrt() * places  # (B, C, H, W, number of Gaussians)
        w = torch.softmax(torch.tensor(shares).log().to(x_t) - away**2 / (2 * variance), -1)
        x_0 = (w * (places + bar.sqrt() * spread**2 / variance * away)).sum(-1)
        return answer(d, x_0, x_t, t)

    return model
