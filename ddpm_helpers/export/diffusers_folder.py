"""Write a folder that pipelines of diffusers load, with a scheduler that takes our steps."""

from __future__ import annotations

from pathlib import Path

from ddpm_helpers.export.card import model_card
from ddpm_helpers.export.needs import check_installed
from ddpm_helpers.files import user_path
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained import load_pretrained

_USE = """\
```python
from diffusers import DDPMPipeline
from ddpm_helpers.export.diffusers_net import GuidedPipeline  # makes the network's class known

pipe = GuidedPipeline.from_pretrained("{folder}")
{guided}
images = DDPMPipeline.from_pretrained("{folder}")(batch_size=4, num_inference_steps={T}).images
```

diffusers numbers timesteps 0..T-1, `ddpm_helpers` 1..T. The scheduler holds the betas, so any
schedule works, and clips the predicted x_0 to [-1, 1] before each step. From the same start noise,
`GuidedPipeline` draws the same images as `DiffusionUtils.sample`, within 1e-4. Not supported:
Heun, `guidance_interval`, ddpm's variance "beta" in fewer than T steps (diffusers adds noise in
the last one too), DDIM in a number of steps that does not divide T, DPM-Solver++ at a terminal
SNR of zero. `DDPMPipeline` takes no classes, and rounds its steps unless their number divides T.
"""


def export_diffusers(name_or_path: str | Path, out: str | Path, sampler: str = "ddpm") -> Path:
    """Write a trained network as a folder for diffusers.

    Args:
        name_or_path: as for `load_pretrained`.
        out: folder to make.
        sampler: sampler of the stored scheduler: ddpm, ddim or dpm++.
    Returns:
        The folder: `unet/`, `scheduler/`, `model_index.json`, `README.md`.
    Raises:
        FileNotFoundError: the weights do not exist.
        FileExistsError: the folder exists.
        ValueError: diffusers is missing, or does not support this network, sampler, prediction or
            schedule.
    """
    out = user_path(out)
    check_installed("diffusers' format", "diffusers")
    model, diffusion = load_pretrained(name_or_path)
    if not isinstance(model, DiffusionNet):
        raise ValueError(f"diffusers' format takes a unet, not a {model.kind}: choose onnx or hub")
    from ddpm_helpers.export.diffusers_net import DiffusersNet, GuidedPipeline, make_scheduler

    pipeline = GuidedPipeline(DiffusersNet.of(model), make_scheduler(diffusion, sampler))
    T = diffusion.T
    steps = T if sampler == "ddpm" or T % 50 else 50  # a divisor of T: every scheduler takes it
    labels = "batch_size=4" if model.num_classes is None else "[0, 0, 0, 0], guidance_scale=2"
    guided = f"images = pipe({labels}, num_inference_steps={steps}).images"
    use = _USE.format(folder=out.name, T=T, guided=guided)
    out.mkdir(parents=True)
    pipeline.save_pretrained(out)
    (out / "README.md").write_text(model_card(name_or_path, use), encoding="utf-8")
    return out
