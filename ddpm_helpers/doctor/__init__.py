"""Checks that tell the failures of diffusion models apart, in other people's code too.

Each check is a function of plain values (a batch, a table, a loop, a network) that returns a
`Finding`. Nothing here but `from_ours` and the practice bugs knows this package's classes.
"""

from ddpm_helpers.doctor.adapters import from_flow, from_sigma
from ddpm_helpers.doctor.finding import Finding, most_likely, worst
from ddpm_helpers.doctor.guidance import (
    check_guidance,
    check_label_dropout,
    check_labels,
    check_null,
)
from ddpm_helpers.doctor.images import check_data, check_samples
from ddpm_helpers.doctor.network import (
    check_checkerboard,
    check_modes,
    check_neighbours,
    check_output,
    check_precision,
    check_repeats,
    check_time,
    check_weights,
)
from ddpm_helpers.doctor.noising import check_noising
from ddpm_helpers.doctor.oracle import Oracle
from ddpm_helpers.doctor.patient import Patient, from_diffusers, from_lucidrains, from_ours
from ddpm_helpers.doctor.run_checks import overfit_step, run_checks
from ddpm_helpers.doctor.sampler import check_sampler, check_sampler_all, measure_sampler
from ddpm_helpers.doctor.schedule import check_loss_weights, check_schedule
from ddpm_helpers.doctor.training import (
    check_average,
    check_history,
    check_loss,
    check_overfit,
)

__all__ = [
    "Finding",
    "Oracle",
    "Patient",
    "check_average",
    "check_checkerboard",
    "check_data",
    "check_guidance",
    "check_history",
    "check_label_dropout",
    "check_labels",
    "check_loss",
    "check_loss_weights",
    "check_modes",
    "check_neighbours",
    "check_noising",
    "check_null",
    "check_output",
    "check_overfit",
    "check_precision",
    "check_repeats",
    "check_sampler",
    "check_sampler_all",
    "check_samples",
    "check_schedule",
    "check_time",
    "check_weights",
    "from_diffusers",
    "from_flow",
    "from_lucidrains",
    "from_ours",
    "from_sigma",
    "measure_sampler",
    "most_likely",
    "overfit_step",
    "run_checks",
    "worst",
]
