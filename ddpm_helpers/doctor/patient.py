"""What the doctor examines, and how to make it from the usual libraries.

from_ours(model, diffusion)             # DiffusionNet and DiffusionUtils of this package
from_diffusers(unet, scheduler)         # Hugging Face diffusers
from_lucidrains(gaussian_diffusion)     # denoising-diffusion-pytorch
Patient(alpha_bar, model=model)         # a bare model(x, t)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_helpers.doctor.finding import Finding
from ddpm_helpers.doctor.sampler import check_sampler_all
from ddpm_helpers.doctor.tables import ask, check_kind


@dataclass(frozen=True, eq=False)
class Patient:
    """Any diffusion model; parts that are None are not examined.

    Attributes:
        alpha_bar: table indexed by the t that the network is given, see `check_sampler`.
        prediction: what the network predicts: eps, x_0, v or flow.
        sample: `sample(model, x_T) -> x_0`, the loop, see `check_sampler`.
        model: `model(x_t, t)` or `model(x_t, t, y)`, (B, C, H, W) -> the same.
        module: the nn.Module in it, for checks that need modes, half precision or gradients.
        shape: one image's (C, H, W).
        num_classes: number of its classes; None if it takes no labels.
        null: the label that means "no label" to it.
        call: makes a module callable as `call(module)(x_t, t)`; by default it is called directly.
    """

    alpha_bar: Any
    prediction: str = "eps"
    sample: Callable[..., Tensor] | None = None
    model: Callable[..., Tensor] | None = None
    module: nn.Module | None = None
    shape: tuple[int, int, int] = (3, 32, 32)
    num_classes: int | None = None
    null: int | None = None
    call: Callable[[Any], Callable[..., Tensor]] = lambda module: module

    def __post_init__(self) -> None:
        check_kind(self.prediction)

    def check_sampler(self, **options: Any) -> Finding:
        """The worst finding of `check_sampler_all` on this patient's loop."""
        return self.check_sampler_all(**options)[0]

    def check_sampler_all(self, **options: Any) -> list[Finding]:
        """`check_sampler_all` on this patient's loop."""
        if self.sample is None:
            raise ValueError("this patient has no sample(model, x_T)")
        options = {"prediction": self.prediction, "null": self.null} | options
        return check_sampler_all(self.sample, self.alpha_bar, **options)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        """Draw n images with the patient's own network and loop, of all classes in turn."""
        if self.sample is None or self.model is None:
            raise ValueError("this patient has no sample(model, x_T) with a model")
        model, y = self.model, None
        device = next(self.module.parameters()).device if self.module is not None else None
        if self.num_classes is not None:
            y = torch.arange(n, device=device) % self.num_classes
        x_T = torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = self.sample(
                lambda x, t, *_: ask(model, x, t, y, finite=False), x_T.to(device or x_T.device)
            )
        return drawn.float().cpu()


def from_ours(model: Any, diffusion: Any, **options: Any) -> Patient:
    """A network and a `DiffusionUtils` of this package.

    Args:
        model: a `DiffusionNet`, or None to examine the loop alone.
        diffusion: a `DiffusionUtils`.
        options: of `DiffusionUtils.sample`, such as sampler="dpm++", steps=15.
    """

    def sample(net: Callable[..., Tensor], x_T: Tensor) -> Tensor:
        return diffusion.sample(net, len(x_T), **({"seed": 0} | options | {"x_T": x_T}))

    classes = getattr(model, "num_classes", None)
    return Patient(
        diffusion.alpha_bar, diffusion.prediction, sample, model,
        model if isinstance(model, nn.Module) else None,
        getattr(model, "image_shape", (3, 32, 32)), classes, None if classes is None else -1,
    )  # fmt: skip


def from_diffusers(unet: Any, scheduler: Any, *, steps: int | None = None) -> Patient:
    """A diffusers `UNet2DModel` with its scheduler.

    Args:
        unet: the network, or None to examine the scheduler alone.
        scheduler: any that has `alphas_cumprod`, `set_timesteps` and `step`.
        steps: sampling steps; all of the training's if None.
    Raises:
        ValueError: the scheduler has no alphas_cumprod, or an unknown prediction_type.
    """
    kinds = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
    kind = getattr(scheduler.config, "prediction_type", "epsilon")
    if kind not in kinds or not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{type(scheduler).__name__} with prediction_type {kind!r}: the doctor knows "
            f"schedulers with alphas_cumprod that predict {', '.join(kinds)}"
        )
    trained = int(scheduler.config.num_train_timesteps)

    def sample(net: Callable[..., Tensor], x_T: Tensor) -> Tensor:
        scheduler.set_timesteps(trained if steps is None else steps)
        x = x_T * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(net(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        return x

    def call(net: Any) -> Callable[..., Tensor]:
        return lambda x_t, t, y=None: (
            net(x_t, t).sample if y is None else net(x_t, t, class_labels=y).sample
        )

    config = getattr(unet, "config", None)
    side = getattr(config, "sample_size", None) or 32
    shape = (getattr(config, "in_channels", 3), *((side, side) if isinstance(side, int) else side))
    return Patient(
        scheduler.alphas_cumprod, kinds[kind], sample, None if unet is None else call(unet),
        unet, shape, getattr(config, "num_class_embeds", None), call=call,
    )  # fmt: skip


def from_lucidrains(diffusion: Any) -> Patient:
    """A `GaussianDiffusion` of lucidrains' denoising-diffusion-pytorch, with the network in it.

    Args:
        diffusion: has `model`, `alphas_cumprod`, `objective`, `sample`'s two loops, `normalize`.
    Raises:
        ValueError: an objective that the doctor does not know.
    """
    kinds = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}
    if diffusion.objective not in kinds:
        raise ValueError(
            f"unknown objective {diffusion.objective!r}; the doctor knows {', '.join(kinds)}"
        )
    unet = diffusion.model

    def sample(net: Callable[..., Tensor], x_T: Tensor) -> Tensor:
        loop = diffusion.ddim_sample if diffusion.is_ddim_sampling else diffusion.p_sample_loop
        diffusion.model = _AsModule(net)  # its loops call self.model
        try:
            return diffusion.normalize(loop(tuple(x_T.shape)))  # they return 0..1
        finally:
            diffusion.model = unet

    side = diffusion.image_size
    sides = (side, side) if isinstance(side, int) else tuple(side)
    return Patient(
        diffusion.alphas_cumprod, kinds[diffusion.objective], sample,
        unet, unet, (unet.channels, *sides),
    )  # fmt: skip


class _AsModule(nn.Module):
    """Wraps a function as an nn.Module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **options: Any) -> Tensor:
        return self.function(*args, **options)
