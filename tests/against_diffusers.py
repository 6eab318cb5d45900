"""What the tests that compare samplers with diffusers step by step share."""

import torch
from exact_networks import wavy

from ddpm_helpers.diffusion import DiffusionUtils, picture_noise

SHAPE = (3, 4, 4)
KIND = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}


def noise_source(seed=3):
    return picture_noise(seed, 2, SHAPE, torch.device("cpu"), torch.float64)


def pair(kind, T, prediction, **options):
    """diffusers' scheduler in float64, and ours on the same betas (T + 1 of them)."""
    import diffusers

    theirs = getattr(diffusers, kind)(
        T, beta_schedule="linear", prediction_type=KIND[prediction], **options
    )
    theirs.betas = theirs.betas.double()
    theirs.alphas = 1 - theirs.betas
    theirs.alphas_cumprod = theirs.alphas.cumprod(0)
    theirs.alpha_t, theirs.sigma_t = None, None
    theirs.one = torch.tensor(1.0, dtype=torch.float64)
    return theirs, DiffusionUtils(T, [0, *theirs.betas.tolist()], prediction=prediction)


def walk_beside(theirs, walk, step=None, atol=1e-9):
    """Compare our walk of the network `wavy` with theirs at each step; returns their last one.

    `step(output, t, x)` is by default theirs. A predicted x_0, if they give one, is compared too.
    """
    assert len(walk) == len(theirs.timesteps) + 1
    x = walk[0].x_t
    for ours, t in zip(walk, theirs.timesteps.tolist(), strict=False):
        assert t == ours.t - 1  # their tables begin at our t = 1
        torch.testing.assert_close(ours.x_t, x, rtol=0, atol=atol)
        done = (step or theirs.step)(wavy(x, torch.full((len(x),), t + 1)), t, x)
        if getattr(done, "pred_original_sample", None) is not None:
            torch.testing.assert_close(ours.x_0_pred, done.pred_original_sample)
        x = done.prev_sample
    return done


def ddim_step(theirs, eta, noise, last):
    """Their DDIM step with noise of ours, but none in the step from our t = last."""

    def step(output, t, x):
        z = noise() if eta > 0 and t + 1 > last else torch.zeros_like(x)
        return theirs.step(output, t, x, eta, True, variance_noise=z)

    return step
