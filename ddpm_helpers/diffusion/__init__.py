"""Schedules, noising, the loss and the samplers, for any network."""

from ddpm_helpers.diffusion.distillation import ConsistencyDistillation
from ddpm_helpers.diffusion.ideal import IdealDenoiser
from ddpm_helpers.diffusion.process import PREDICTIONS, DiffusionUtils, network_calls
from ddpm_helpers.diffusion.samplers import SAMPLERS, Step
from ddpm_helpers.diffusion.schedules import (
    SCHEDULES,
    beta_schedule,
    draw_steps,
    rescale_zero_terminal_snr,
)
from ddpm_helpers.diffusion.walk import picture_noise

__all__ = [
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "ConsistencyDistillation",
    "DiffusionUtils",
    "IdealDenoiser",
    "Step",
    "beta_schedule",
    "draw_steps",
    "network_calls",
    "picture_noise",
    "rescale_zero_terminal_snr",
]
