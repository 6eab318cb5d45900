"""`ddpm info`: versions, hardware, active settings."""

from __future__ import annotations

import argparse
import platform

import torch

from ddpm_helpers import __version__
from ddpm_helpers.config import T_SAMPLINGS, settings


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the function that runs `ddpm info` to a parser; the command has no options."""
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print what a bug report should contain."""
    from ddpm_helpers.diffusion import PREDICTIONS, SAMPLERS, SCHEDULES
    from ddpm_helpers.model import count_parameters
    from ddpm_helpers.pretrained import available_weights
    from ddpm_helpers.training import build_model

    known = settings()
    device = known.device.type
    if device == "cuda":
        card = torch.cuda.get_device_properties(known.device)
        device += f", {card.name}, {card.total_memory / 2**30:.0f} GiB"
    parameters = count_parameters(build_model(known.train, 10))
    rows = {
        "ddpm_helpers": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "device": device,
        "settings": str(known),
        "network": f"{parameters / 1e6:.1f} million parameters with preset {known.preset}",
        "weights": ", ".join(available_weights()) or "none shipped",
        "schedules": ", ".join(SCHEDULES),
        "predictions": ", ".join(PREDICTIONS),
        "t_sampling": ", ".join(T_SAMPLINGS),
        "samplers": ", ".join(SAMPLERS),
        "cache": str(known.cache_dir),
    }
    for name, value in rows.items():
        print(f"{name:<13} {value}")
