"""What the tests that compare samplers with diffusers step by step share."""

import torch

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
