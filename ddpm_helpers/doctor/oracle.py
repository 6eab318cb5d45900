"""A perfect network for known images, which records how a sampler calls it.

The oracle knows x_0, so it predicts the noise in any x_t exactly, and only the sampler is tested: a
correct one ends at x_0.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_helpers.doctor.tables import Bars, ContractError, calling, fit, shape_of, target

IMAGES, LOOP = 7919, 15838  # added to the seed: loops often call manual_seed(0) themselves
RECORDED = 6144  # values of each x_t that are recorded
PATIENCE = 5.0  # seconds between two lines of progress
NAMES_OF_T = ("t", "time", "timestep", "timesteps", "sigma", "noise_labels", "noise", "step")


class Enough(BaseException):
    """Stops a sampler after the calls that are wanted; no handler of errors catches it."""


@dataclass(frozen=True)
class Reading:
    """How the oracle understands what it is given; by default as the caller of the doctor says.

    Attributes:
        true_t: (number of the call, t that was given) -> the t whose noise is in x_t.
        bars: another schedule than the caller's.
        prediction: another kind of output.
        from_x: alpha_bar is read from x_t instead of t: the shares of x_0 and of the first x_t.
        unscaled: x_t is in another scale: x_0 + sigma * eps, without the factor sqrt(alpha_bar),
            or with it, if the sampler has the scale of sigma.
    """

    true_t: Callable[[int, float], float] = lambda k, t: t
    bars: Bars | None = None
    prediction: str | None = None
    unscaled: bool = False
    from_x: bool = False


@dataclass
class Record:
    """What a sampler gave its network, call by call, and what it returned.

    Attributes:
        told: the t of each call; true: the t as the reading has it; bars: alpha_bar there.
        x: recorded values of each x_t, (n, values) float32; the last is the result.
        x_0: the same values of the images that each call answered with.
        result: all of it, (n, C, H, W).
        halves: float16 or bfloat16 if all x_t after the first have no other values.
        labels: the other arguments of each call; rows: its number of images.
        alike: whether all rows of a call are x_t again, in the same order.
        quantised: whether the result came in whole grey levels.
        dtypes: of t.
    """

    told: list[float] = field(default_factory=list)
    true: list[float] = field(default_factory=list)
    bars: list[float] = field(default_factory=list)
    x: list[Tensor] = field(default_factory=list)
    x_0: list[Tensor] = field(default_factory=list)
    result: Tensor = field(default_factory=lambda: torch.empty(0))
    halves: set[torch.dtype] = field(default_factory=lambda: {torch.float16, torch.bfloat16})
    labels: list[list[Any]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    alike: list[bool] = field(default_factory=list)
    quantised: bool = False
    dtypes: set[torch.dtype] = field(default_factory=set)


class Oracle(nn.Module):
    """A network without errors, for any convention of arguments.

    It takes x_t and t by position in either order or under any name, and ignores labels and masks.
    It has a parameter, so that `parameters()`, `device` and `dtype` say what a sampler asks.

    Args:
        x_0: the known images, (B, C, H, W) in [-1, 1].
        bars: alpha_bar by t.
        prediction: what it predicts: eps, x_0, v or flow.
        reading: how it understands t and x_t.
        error: relative error of its outputs.
        changing: answer each call with new images, drawn with this seed, instead of x_0.
        contrast: factor of all images; little contrast keeps a wrong x_0 from being clipped.
        nudge: number of a call -> what is added to the output of each image, (B,).
        calls: stop the sampler at this call, with `Enough`.
    """

    def __init__(
        self, x_0: Tensor, bars: Bars, prediction: str, *, reading: Reading | None = None,
        error: float = 0.0, changing: int | None = None, contrast: float = 1.0,
        nudge: dict[int, Tensor] | None = None, calls: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device=x_0.device), requires_grad=False)
        self.x_0, self.error, self.contrast = contrast * x_0, error, contrast
        self.nudge, self.calls = nudge or {}, calls
        self.reading = reading or Reading()
        self.of_reading, self.prediction = self.reading.bars or bars, prediction
        self.generator: torch.Generator | None = None
        if changing is not None:
            self.generator = torch.Generator().manual_seed(changing)
        self.positions = recorded(x_0)
        self.record, self.images = Record(), self.x_0
        self.began = self.said = time.monotonic()
        self.eps: Tensor | None = None
        self.first: Tensor | None = None  # x_t, for a reading from x

    @property
    def device(self) -> torch.device:
        """Where x_0 is."""
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """float32."""
        return self.weight.dtype

    def forward(self, *args: Any, **options: Any) -> Tensor:
        """Predict; see `find_arguments` for what a sampler may pass."""
        given, t, labels = find_arguments(args, options, self.x_0.shape[1:])
        if len(given) % len(self.x_0):
            raise ContractError(
                f"the sampler passed its network {shape_of(given)}, expected all "
                f"{len(self.x_0)} images, once or doubled: draw the whole batch in one loop"
            )
        number = len(self.record.told)
        if number == self.calls:
            self.record.x.append(self.values(given))
            raise Enough
        self.record.labels.append([kept(value) for value in labels])
        self.record.rows.append(len(given))
        self.record.alike.append(is_repeated(given, len(self.x_0)))
        if number:
            self.record.halves -= {
                d for d in self.record.halves if bool((given.to(d) != given).any())
            }
        told = self._one_t(given, t)
        true = float(self.reading.true_t(len(self.record.told), told))
        bar = self.of_reading.at(true)
        x_t = given.detach().to(self.x_0.device).float()
        own = self.of_reading.size(true)
        if not self.reading.unscaled:
            x_t = x_t / own
        elif own == 1:
            x_t = math.sqrt(bar) * x_t
        if self.reading.from_x:
            x_t, bar = self._read(x_t, bar)
        images = self._images(told, x_t)
        self._note(told, true, bar, x_t, images, t)
        x_0 = images.repeat(-(-len(x_t) // len(images)), 1, 1, 1)[: len(x_t)]
        if bar < 1:
            self.eps = (x_t - math.sqrt(bar) * x_0) / math.sqrt(1 - bar)
        elif self.eps is None or len(self.eps) != len(x_t):
            self.eps = torch.zeros_like(x_t)  # at t = 0 no noise is left: that of the call before
        out = target(self.reading.prediction or self.prediction, x_0, self.eps, bar)
        if number in self.nudge:
            out = out + self.nudge[number].to(out).reshape(-1, 1, 1, 1)
        return ((1 - self.error) * out).to(given)

    def _read(self, x_t: Tensor, bar: float) -> tuple[Tensor, float]:
        """x_t and alpha_bar by the shares of x_0 and of the first x_t in it."""
        if self.first is None:
            self.first = x_t / math.sqrt(1 - bar)
            return x_t, bar
        n = len(self.x_0)
        (signal, noise), _ = fit(x_t[:n].double(), self.x_0.double(), self.first[:n].double())
        size = max(math.hypot(signal, noise), 1e-6)
        return x_t / size, min(1.0, (signal / size) ** 2)

    def _one_t(self, x_t: Tensor, t: Any) -> float:
        steps = torch.as_tensor(t, dtype=torch.float64).detach().reshape(-1).cpu()
        if len(steps) not in (1, len(x_t)) or bool((steps != steps[:1]).any()):
            raise ContractError(
                f"the sampler passed its network t of shape {tuple(steps.shape)} for a batch of "
                f"{len(x_t)}; expected one t, the same for all"
            )
        return float(steps[0])

    def _images(self, told: float, x_t: Tensor) -> Tensor:
        """The images of an answer; a second call with the same x_t and t gets the same."""
        again = self.record.told[-1:] == [told] and torch.equal(self.record.x[-1], self.values(x_t))
        if self.generator is not None and not again:
            new = known_images(self.x_0.shape, self.generator).to(self.x_0)
            self.images = self.contrast * new
        return self.images

    def _note(self, told: float, true: float, bar: float, x_t: Tensor, x_0: Tensor, t: Any) -> None:
        record = self.record
        record.told.append(told)
        record.true.append(true)
        record.bars.append(bar)
        record.x.append(self.values(x_t))
        record.x_0.append(record.x_0[-1] if record.x_0 and x_0 is self.x_0 else self.values(x_0))
        if isinstance(t, Tensor):
            record.dtypes.add(t.dtype)
        now = time.monotonic()
        if now - self.said > PATIENCE:
            self.said = now
            print(
                f"check_sampler: {len(record.told)} network calls in {now - self.began:.0f} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    def values(self, x: Tensor) -> Tensor:
        """The recorded values of x, (B, C, H, W) -> (n, values) float32 on the CPU."""
        return x[: len(self.x_0)].detach().flatten(1).cpu().float()[:, self.positions]


def recorded(x_0: Tensor) -> Tensor:
    """Which values of an image are recorded: their positions in images (n, C, H, W), flattened."""
    size = x_0[0].numel()
    return torch.arange(0, size, -(-size * len(x_0) // RECORDED))


def is_repeated(x_t: Tensor, n: int) -> bool:
    """Whether a batch, (k * n, C, H, W), is k times the same n images."""
    blocks = x_t.detach().unflatten(0, (-1, n))  # (k, n, C, H, W)
    first = blocks[:1].expand_as(blocks)
    return len(blocks) == 1 or torch.allclose(blocks, first, rtol=1e-3, atol=1e-4, equal_nan=True)


def kept(value: Any) -> Any:
    """A label as it is now, even if a sampler changes its tensor later."""
    return value.clone() if isinstance(value, Tensor) and value.ndim < 3 else value


def known_images(shape: Any, generator: torch.Generator) -> Tensor:
    """Images whose values fill -0.98..0.98, so that a clip of x_0 leaves them alone."""
    return torch.rand(shape, generator=generator) * 1.96 - 0.98


def find_arguments(args: Any, options: dict[str, Any], shape: Any) -> tuple[Tensor, Any, list[Any]]:
    """Find x_t, t and the rest among the arguments of a network's call.

    Args:
        args, options: by position and by name. x_t is the first tensor (B, C, H, W) of this shape;
            t is the option with a usual name, else the first other number, or tensor with a value
            for all, or with the same value for each image.
        shape: (C, H, W).
    Raises:
        ContractError: one of them is missing.
    """
    values = [*args, *options.values()]
    tensors = [v for v in values if isinstance(v, Tensor) and v.ndim == len(shape) + 1]
    x_t = next((v for v in tensors if v.shape[1:] == shape), None)
    if x_t is None:
        C, H, W = shape
        got = shape_of(tensors[0] if tensors else values[0] if values else None)
        raise ContractError(f"the sampler passed its network {got}, expected (B, {C}, {H}, {W})")
    named = [options[name] for name in NAMES_OF_T if options.get(name) is not None]
    rest = (v for v in values if v is not x_t and not isinstance(v, (bool, str)))
    found = [
        value for value in [*named, *rest]
        if isinstance(value, (int, float))
        or hasattr(value, "shape") and math.prod(value.shape) in (1, len(x_t))
    ]  # fmt: skip
    if found:  # labels, which may come before t, differ from image to image
        t = next((v for v in found if len(torch.as_tensor(v).unique()) == 1), found[0])
        return x_t, t, [v for v in values if v is not x_t and v is not t]
    raise ContractError("the sampler passed its network no t: neither a number nor a tensor (B,)")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and random, and put their states back after."""
    import numpy as np

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def run_sampler(
    sample_fn: Callable[..., Any], oracle: Oracle, x_T: Tensor, seed: int = 0
) -> Record:
    """Run a sampler once, with the oracle in the network's place.

    Returns:
        The oracle's record, with the result: images (B, C, H, W), if need be made of numpy arrays,
        lists, or uint8, in which case 0..255 became -1..1.
    Raises:
        ValueError: it fails, never calls the network, or returns another shape; one line says
            what was expected.
    """
    expects = f"the doctor calls sample_fn(model, x_T {tuple(x_T.shape)}) and expects x_T's shape"
    try:
        with calling("the sampler", expects), seeded(seed + LOOP):
            returned = sample_fn(oracle, x_T.clone())
    except Enough:
        return oracle.record
    result = as_tensor(returned, x_T.shape)
    if shape_of(result) != x_T.shape:
        raise ValueError(f"the sampler returned {shape_of(result)}; {expects}")
    record = oracle.record
    if not record.told:
        raise ValueError(f"the sampler never called its network; {expects}")
    if max(record.told) <= 1 < oracle.of_reading.last and any(t != int(t) for t in record.told):
        raise ContractError(
            f"the sampler passes its network t = {record.told[0]:.4g}, a fraction of T, but t must "
            "be a row of alpha_bar: wrap the network to multiply t by T, or pass alpha_bar as a "
            "function of t"
        )
    record.quantised = result.dtype == torch.uint8
    result = result.detach().float().to(oracle.x_0.device)
    record.result = result / 127.5 - 1 if record.quantised else result
    record.x.append(oracle.values(record.result))
    return record


def as_tensor(result: Any, shape: Any) -> Any:
    """Images as a tensor (B, C, H, W): of lists the last batch, of channels-last arrays as well."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (list, tuple)) and len(result):
        for item in reversed(result):
            last = as_tensor(item, shape)
            if shape_of(last) == shape:
                return last
        images = [as_tensor(item, shape[1:]) for item in result]
        if all(isinstance(image, Tensor) and image.shape == images[0].shape for image in images):
            result = torch.stack(images) if images[0].ndim == 3 else torch.cat(images)
    elif hasattr(result, "__array_interface__"):  # numpy's and PIL's
        import numpy as np

        result = torch.from_numpy(np.asarray(result).copy())
    if isinstance(result, Tensor) and result.ndim in (3, 4) and result.shape != shape:
        channels_first = result.movedim(-1, -3)
        return channels_first if channels_first.shape == shape else result
    return result
