"""Schedules, noising, the loss and the samplers; knows no network."""

from ddpm_helpers.diffusion.samplers import SAMPLERS, Step
from ddpm_helpers.diffusion.sampling import network_calls, picture_noise
from ddpm_helpers.diffusion.schedules import (
    SCHEDULES,
    beta_schedule,
    rescale_zero_terminal_snr,
)
from ddpm_helpers.diffusion.utils import PREDICTIONS, DiffusionUtils

__all__ = [
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "DiffusionUtils",
    "Step",
    "beta_schedule",
    "network_calls",
    "picture_noise",
    "rescale_zero_terminal_snr",
]
