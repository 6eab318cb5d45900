"""Our network and its sampling loop as diffusers' classes; importing this module imports diffusers.

diffusers numbers timesteps 0..T-1, we number them 1..T. Other differences are settings:
`make_scheduler` chooses them so that the schedulers of diffusers take our steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ddpm_helpers import checks
from ddpm_helpers.diffusion import DiffusionUtils
from ddpm_helpers.model import DiffusionNet

NO_LABEL = -1
PREDICTION_TYPES = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
# Class, and its settings that clip x_0 to [-1, 1].
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": True}),
    "ddim": ("DDIMScheduler", {"clip_sample": True}),
    "dpm++": (
        "DPMSolverMultistepScheduler",
        {"thresholding": True, "dynamic_thresholding_ratio": 1.0, "sample_max_value": 1.0},
    ),
}


@dataclass
class NetOutput(BaseOutput):
    """The output of `DiffusersNet`: sample, (B, C, S, S)."""

    sample: Tensor


class DiffusersNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A `DiffusionNet` with the interface of diffusers' `UNet2DModel`.

    Args:
        sample_size, in_channels: diffusers' names for image_size and channels.
        width, num_classes, attention_size, stem_stride: as for `DiffusionNet`.
        classes: names of the classes, if known.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 3,
        width: int = 64,
        num_classes: int | None = None,
        attention_size: int = 8,
        stem_stride: int = 2,
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.net = DiffusionNet(
            sample_size, channels=in_channels, width=width, num_classes=num_classes,
            attention_size=attention_size, stem_stride=stem_stride,
        )  # fmt: skip

    @classmethod
    def of(cls, model: DiffusionNet) -> DiffusersNet:
        """Wrap a network; the weights are shared, not copied."""
        config = dict(model.config)
        names = {"sample_size": config.pop("image_size"), "in_channels": config.pop("channels")}
        with torch.device("meta"):
            wrapped = cls(**names, **config, classes=list(model.classes))
        wrapped.net = model
        return wrapped.eval()

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> NetOutput | tuple[Tensor]:
        """Predict eps, x_0 or v.

        Args:
            sample: noisy images, (B, C, S, S).
            timestep: a number, or (B,): 0..T-1, which are our timesteps 1..T.
            class_labels: (B,) int64, -1 for no label; None means no label for any image.
            return_dict: False returns a tuple.
        """
        t = torch.as_tensor(timestep, device=sample.device).long().expand(len(sample)) + 1
        output = self.net(sample, t, class_labels)  # (B, C, S, S)
        return NetOutput(output) if return_dict else (output,)


def make_scheduler(diffusion: DiffusionUtils, sampler: str = "ddpm") -> Any:
    """Make a diffusers scheduler that takes the steps of our sampler and clips x_0 to [-1, 1].

    Args:
        diffusion: any schedule; the betas themselves are passed on.
        sampler: ddpm (posterior variance), ddim (any eta) or dpm++.
    Returns:
        The scheduler. `set_steps` makes it take the same steps as `DiffusionUtils.sample`.
    Raises:
        ValueError: diffusers has no such sampler or prediction, or dpm++ would start at an SNR of
            zero.
    """
    name, clip = SCHEDULERS[checks.one_of("sampler for diffusers", sampler, SCHEDULERS)]
    checks.one_of("prediction for diffusers", diffusion.prediction, PREDICTION_TYPES)
    if sampler == "dpm++" and diffusion.alpha_bar[-1] == 0:
        raise ValueError(
            "diffusers' DPM-Solver++ cannot start from alpha_bar[T] = 0, where log SNR is "
            "infinite: choose ddpm or ddim"
        )
    return getattr(diffusers, name)(
        num_train_timesteps=diffusion.T,
        trained_betas=diffusion.betas[1:].tolist(),
        prediction_type=PREDICTION_TYPES[diffusion.prediction],
        timestep_spacing="trailing",
        **clip,
    )


def set_steps(scheduler: Any, steps: int) -> None:
    """Set a scheduler to the steps that `DiffusionUtils.sample` takes.

    Both divide T into equal parts, but diffusers rounds to the nearest timestep, we round down, and
    its DDIM always goes down by T // steps.

    Raises:
        ValueError: steps is outside 1..T, or DDIM cannot take it.
    """
    T = scheduler.config.num_train_timesteps
    checks.count("steps", steps, most=T)
    if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(timesteps=[i * T // steps - 1 for i in range(steps, 0, -1)])
    elif T % steps:
        raise ValueError(f"diffusers' DDIM needs a divisor of T = {T}, got {steps} steps")
    else:
        scheduler.set_timesteps(steps)


class GuidedPipeline(DiffusionPipeline):
    """diffusers' `DDPMPipeline` with classes, guidance and the schedulers of `make_scheduler`.

    Args:
        unet: a `DiffusersNet`.
        scheduler: a scheduler from `make_scheduler`.
    """

    unet: DiffusersNet
    scheduler: Any

    def __init__(self, unet: DiffusersNet, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Tensor | Sequence[int] | None = None,
        *,
        batch_size: int = 1,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw images.

        Args:
            class_labels: a label per image, (n,); None draws without labels.
            batch_size: number of images, if neither labels nor latents give it.
            guidance_scale: our `guidance`: 1 is the plain conditional prediction.
            num_inference_steps: 1..T.
            generator: random generator of the noise.
            latents: start noise, (n, C, S, S).
            output_type: pil, np, or pt for (n, C, S, S) in [0, 1].
        Returns:
            An object with the images in `.images`.
        Raises:
            ValueError: the scheduler cannot take these steps, or guidance needs labels.
        """
        device = self._execution_device
        y = None if class_labels is None else torch.as_tensor(class_labels, device=device).long()
        if y is None and guidance_scale != 1:
            raise ValueError(f"guidance_scale = {guidance_scale} needs class_labels")
        set_steps(self.scheduler, num_inference_steps)
        n = len(y) if y is not None else batch_size if latents is None else len(latents)
        if latents is None:
            shape = (n, *self.unet.net.image_shape)
            latents = randn_tensor(shape, generator, device, self.unet.dtype)
        is_ddim = isinstance(self.scheduler, diffusers.DDIMScheduler)
        options = {"use_clipped_model_output": True} if is_ddim else {}
        x_t = latents.to(device)  # (n, C, S, S)
        for t in self.progress_bar(self.scheduler.timesteps):
            output = self._guided(x_t, t, y, guidance_scale)
            x_t = self.scheduler.step(output, t, x_t, generator=generator, **options).prev_sample
        images: Any = (x_t / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).numpy()  # (n, S, S, C)
        return ImagePipelineOutput(self.numpy_to_pil(images) if output_type == "pil" else images)

    def _guided(self, x_t: Tensor, t: Tensor, y: Tensor | None, scale: float) -> Tensor:
        """Predict with guidance, in one batch: Ho & Salimans 2022, eq. 6, w = scale - 1."""
        if y is None or scale == 1:
            return self.unet(x_t, t, y).sample
        both = torch.cat([y, torch.full_like(y, NO_LABEL)])
        with_y, without = self.unet(torch.cat([x_t, x_t]), t, both).sample.chunk(2)
        return without + scale * (with_y - without)
