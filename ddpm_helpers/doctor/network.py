"""Checks of the network alone: its use of t, its modes and precision, its patterns.

`model` is any callable `model(x_t, t)` (or `model(x_t, t, y)`). Checks that need gradients, modes
or another precision take the nn.Module, copy it, and leave the original as it is.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_helpers.doctor.finding import Finding, broken, decide, look, ok
from ddpm_helpers.doctor.images import tile_rms
from ddpm_helpers.doctor.tables import ask, calling, rms, shape_of

Shape = tuple[int, int, int]
Model = Callable[..., Any]
WALK = 48  # timesteps at which the use of t is measured
WRAPPERS = ("module.", "_orig_mod.", "model.", "ema_model.", "online_model.", "net.")


def check_time(model: Model, shape: Shape, ts: tuple[int, int]) -> Finding:
    """Check that the output depends on t.

    Args:
        model: `model(x_t, t)`.
        shape: one image's (C, H, W).
        ts: the smallest and the largest t, such as (1, 500).
    Returns:
        A `Finding` with `change`, the rms difference of the two outputs over their size.
    Raises:
        ValueError: the model does not accept these arguments.
    """
    x_t = _noise(model, 4, shape)
    low, high = (ask(model, x_t, t).double() for t in ts)
    size = max(rms(low), rms(high))
    if size == 0:
        return look("time", "the network outputs 0 everywhere: it is untrained", "Train or load it")
    change = rms(low - high) / size
    period, restless = _along(model, x_t[:1], ts)
    return decide(
        "time",
        (change < 1e-5, broken,  # small in untrained networks, 0 where t is ignored
         f"the output at t = {ts[0]} and t = {ts[1]} is the same: t is not used",
         "Embed t and add it in every block as (B, C, 1, 1); where a GroupNorm follows, give it "
         "fewer groups than channels, or it subtracts the embedding again"),
        (change < 2e-3, look,
         f"the output changes by only {change:.2%} from the first t to the last: t has almost no "
         "effect",
         "Pass t in 0..1000 to a sin/cos embedding: check that t is not divided by T twice"),
        (period > 0, look, f"the output repeats every {period} timesteps: the network confuses "
         "these t",
         "Give the embedding many frequencies: exp(-log(10000) * arange(half) / half)"),
        (restless > 0.8, look,
         "the outputs at t and t + 1 differ as much as those at distant t",
         "This is normal for an untrained nn.Embedding. Else the frequencies are too high: use "
         "exp(-log(10000) * arange(half) / half), with its minus sign"),
        otherwise=f"the output changes by {change:.0%} between the ends of t", change=change,
    )  # fmt: skip


def _along(model: Model, x_t: Tensor, ts: tuple[int, int]) -> tuple[int, float]:
    """Return how the output for an image changes with t: its period, or 0, and its restlessness.

    Restlessness is the difference between t and t + 1 over that between distant t.
    """
    if ts[1] - ts[0] < 2 * WALK:
        return 0, 0.0
    t = torch.linspace(ts[0], ts[1] - 1, WALK).long()  # (WALK,)
    both = torch.cat([t, t[::3] + 1])  # in one batch, so that its other images are the same
    out = ask(model, x_t.expand(len(both), -1, -1, -1), both, finite=False).flatten(1).double()
    if not torch.isfinite(out).all():
        return 0, 0.0
    out, later = out[:WALK], out[WALK:]
    by_lag = [float((out[k:] - out[:-k]).norm(dim=1).mean()) for k in range(1, WALK * 7 // 8)]
    again = min(range(8, len(by_lag)), key=lambda k: by_lag[k])
    period = int((again + 1) * (ts[1] - ts[0]) / (WALK - 1))
    repeats = by_lag[again] < 0.1 * max(by_lag[:again]) and max(by_lag) > 1e-6
    near = float((later - out[::3]).norm(dim=1).mean())
    return (period if repeats else 0), near / max(statistics.mean(by_lag[8:]), 1e-6)


def check_output(model: Model, shape: Shape, t: int, *, prediction: str = "eps") -> Finding:
    """Check that nothing bounds an output that must reach beyond -1..1.

    Args:
        model: `model(x_t, t)`.
        shape: one image's (C, H, W).
        t: a timestep.
        prediction: eps, v or flow; x_0 may be bounded.
    Returns:
        A `Finding` with `least` and `most`, the ends of the outputs for noise, also for noise times
        100, which reaches every bound.
    Raises:
        ValueError: the model does not accept these arguments.
    """
    x_t = _noise(model, 4, shape)
    out = torch.cat([ask(model, x_t, t, finite=False), ask(model, 100 * x_t, t, finite=False)])
    least, most = float(out.min()), float(out.max())
    at_ends = min(
        float((out > 0.999 * most).float().mean()), float((out < 0.999 * least).float().mean())
    )
    bounded = prediction != "x_0" and 0 < -least < 1.01 and 0.99 < most < 1.01 and at_ends > 0.01
    return decide(
        "output",
        (least >= 0 and most > 0, broken,
         "no output is below 0: the last layer is a ReLU or a sigmoid", "Remove it: the last "
         "layer is a convolution"),
        (most <= 0 and least < 0, broken,
         "no output is above 0: the last layer is an activation", "Remove it: the last layer is "
         "a convolution"),
        (bounded, broken, "all outputs lie in -1..1: a tanh or a clip comes last, but "
         f"{prediction} has larger values", "Remove it: the last layer is a convolution"),
        otherwise=f"nothing bounds it: for noise times 100 it reaches {least:.3g} and {most:.3g}",
        least=least, most=most,
    )  # fmt: skip


def check_repeats(model: Model, shape: Shape, t: int, *, training: bool = False) -> Finding:
    """Check that two calls with the same input give the same output.

    Args:
        model: `model(x_t, t)`.
        shape: one image's (C, H, W).
        t: a timestep.
        training: whether the network is in training mode, where dropout is right: then a
            difference is a *look*.
    Returns:
        A `Finding` with `change`, the rms difference of the two outputs over their size.
    Raises:
        ValueError: the model does not accept these arguments.
    """
    x_t = _noise(model, 4, shape)
    first, second = (ask(model, x_t, t, finite=False).double() for _ in range(2))
    change = rms(first - second) / max(rms(first), 1e-12)
    if change > 1e-2:
        verdict = look if training else broken
        return verdict(
            "repeats", f"two calls with the same input differ by {change:.0%}: dropout is on, or "
            "the network draws random numbers", "Call eval() before you sample or measure",
            change=change,
        )  # fmt: skip
    return ok("repeats", "two calls with the same input agree", change=change)


def check_neighbours(model: Model, shape: Shape, ts: tuple[int, int]) -> Finding:
    """Check that each image's output does not depend on the rest of the batch.

    Args, Raises: as for `check_time`.

    Returns:
        A `Finding` with `change`, the rms difference between the outputs of an image alone and
        among others with another t, over their size.
    """
    x_t = _noise(model, 4, shape)
    t = torch.linspace(ts[0], ts[1], 4, device=x_t.device).long()  # (4,)

    def alone(i: int, j: int) -> Tensor:
        return ask(model, x_t[i : i + 1], t[j : j + 1])[0]

    among = ask(model, x_t, t)
    change = max(rms(among[i] - alone(i, i)) / max(rms(among[i]), 1e-12) for i in range(4))
    if change > 1e-2:
        off = [[rms(among[i] - alone(i, j)) for j in range(4)] for i in range(4)]
        of = [row.index(min(row)) for row in off]
        order = sorted(of) == [0, 1, 2, 3] != of
        return broken(
            "neighbours", f"an output changes by {change:.0%} with the other images of the batch"
            + (": each image gets the t of another one" if order else ""),
            "Keep the order of t: look for flip, roll and sort in the embedding" if order else
            "Call eval() if there is a BatchNorm, or use GroupNorm. If there is none, check that "
            "the embedding of t is added as emb[:, :, None, None]", change=change,
        )  # fmt: skip
    return ok("neighbours", "each image's output is independent of the others", change=change)


def check_modes(module: nn.Module, shape: Shape, t: int, *, model: Any = None) -> Finding:
    """Check that train and eval mode give the same output; dropout is switched off for this.

    Args:
        module: the network; a copy is used.
        shape: one image's (C, H, W).
        t: a step in the middle.
        model: how to call a module: `model(module) -> callable(x_t, t)`; by default itself.
    Returns:
        A `Finding` with `change`, the rms difference of the two outputs over their size.
    Raises:
        ValueError: the module does not accept these arguments.
    """
    module = copy.deepcopy(module)
    x_t = _noise(module, 8, shape)
    call = model(module) if model is not None else module
    module.eval()
    evaluated = ask(call, x_t, t)
    module.train()
    for part in module.modules():
        if "Dropout" in type(part).__name__:
            part.eval()
    trained, again = ask(call, x_t, t), ask(call, x_t, t)
    if rms(trained - again) > 1e-3 * rms(trained):
        return ok("modes", "train mode draws random numbers (dropout), so it is not compared")
    change = rms(trained - evaluated) / max(rms(trained), 1e-12)
    if change > 0.05:
        return broken(
            "modes", f"train and eval mode differ by {change:.0%}: BatchNorm's averages mix all t",
            "Replace BatchNorm by GroupNorm", change=change,
        )  # fmt: skip
    return ok("modes", "train and eval mode agree", change=change)


def check_precision(
    module: nn.Module,
    x_t: Tensor,
    t: int,
    *,
    dtype: torch.dtype = torch.float16,
    autocast: bool = True,
    model: Any = None,
) -> Finding:
    """Compare the output for one batch in half precision with that in float32.

    Args:
        module: the network; copies are used.
        x_t: a batch, (B, C, H, W), on the module's device.
        t: a timestep.
        dtype: float16 or bfloat16.
        autocast: let torch.autocast choose per layer; False converts all weights to dtype.
        model: as for `check_modes`.
    Returns:
        A `Finding` with `change`, the rms difference over the size in float32.
    Raises:
        ValueError: the module cannot be called in one of the two precisions.
    """
    make = model if model is not None else lambda module: module
    module = copy.deepcopy(module).eval()
    full = ask(make(copy.deepcopy(module).float()), x_t.float(), t, finite=False)
    name = str(dtype).removeprefix("torch.")
    if not torch.isfinite(full).all():
        return broken(
            "precision", "NaN or infinite in float32 already",
            "Lower the learning rate, clip gradients, and start again from the last good weights",
            finite=0.0,
        )  # fmt: skip
    if autocast:
        with torch.autocast(x_t.device.type, dtype):
            out = ask(make(copy.deepcopy(module).float()), x_t.float(), t, finite=False).float()
    else:
        out = ask(make(copy.deepcopy(module).to(dtype)), x_t.to(dtype), t, finite=False).float()
    if not torch.isfinite(out).all():
        return broken(
            "precision", f"NaN or infinite in {name}, finite in float32: an overflow",
            "Use bfloat16, or keep norms and attention in float32",
        )  # fmt: skip
    change = rms(out - full) / max(rms(full), 1e-12)
    if change > 0.1:
        return look(
            "precision", f"{name} changes the output by {change:.0%}",
            "Run norms, attention and the last layer in float32", change=change,
        )  # fmt: skip
    return ok("precision", f"{name} changes the output by {change:.1%}", change=change)


def check_checkerboard(decode: Callable[[Tensor], Tensor], x: Tensor) -> Finding:
    """Check that a constant passes through the decoder without a pattern.

    Args:
        decode: feature maps or images -> images; for a whole network `lambda x: model(x, t)`
            with the largest t.
        x: a constant of the decoder's input shape, such as torch.ones(1, 512, 4, 4); for a whole
            network a batch of 64 noises, over which the output's mean is taken.
    Returns:
        A `Finding` with `pattern`, the rms of one tile of 2×2 pixels, repeated, over that of the
        whole output.
    Raises:
        ValueError: decode fails or returns no images.
    Source: Odena et al. 2016, distill.pub/2016/deconv-checkerboard.
    """
    expects = f"the doctor calls decode(x {tuple(x.shape)}) and expects images (B, C, H, W)"
    with torch.no_grad(), calling("decode", expects):
        out = decode(x)
    if not isinstance(out, Tensor) or out.ndim != 4 or min(out.shape[-2:]) < 8:
        raise ValueError(f"decode returned {shape_of(out)}; {expects} of 8×8 or more")
    mean = out.double().mean(0, keepdim=True)
    rows, columns = (slice(side // 4, side // 4 + side // 4 * 2) for side in out.shape[-2:])
    pattern = tile_rms(mean) / max(rms(mean[..., rows, columns]), 1e-12)  # both of the middle
    if pattern > 0.35:
        return broken(
            "checkerboard", f"a constant input gives a pattern of 2×2 pixels, {pattern:.0%} of the "
            "output", "Use a kernel that the stride divides (4 at stride 2), or upsample and then "
            "convolve", pattern=pattern,
        )  # fmt: skip
    return ok("checkerboard", "a constant input gives an output without a pattern", pattern=pattern)


def check_weights(state: Mapping[str, Tensor], module: nn.Module) -> Finding:
    """Check that stored weights fit the network, and that they are actually loaded in it.

    Args:
        state: the stored state_dict, name -> tensor.
        module: the network that should hold them.
    Returns:
        A `Finding` with `missing` and `strange` (numbers of names) and `changed` (number of
        tensors with other values).
    """
    own = module.state_dict()
    missing, strange = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    numbers = {"missing": float(len(missing)), "strange": float(len(strange)), "changed": 0.0}

    def fault(sentence: str, repair: str) -> Finding:
        return broken("weights", sentence, repair, **numbers)

    if missing or strange:
        for prefix in WRAPPERS:
            for a, b in ((state, own), (own, state)):
                if {name.removeprefix(prefix) for name in a} == set(b):
                    return fault(
                        f"every name of one side begins with {prefix!r}: nothing is loaded with "
                        "strict=False", f"name.removeprefix({prefix!r}) for every name",
                    )  # fmt: skip
        example = (missing or strange)[0]
        return fault(
            f"{len(missing)} names are missing and {len(strange)} are unknown, such as {example}",
            "Build the network with the settings of its training",
        )
    for name, value in own.items():
        if value.shape != state[name].shape:
            return fault(
                f"{name} is {tuple(state[name].shape)}, the network has {tuple(value.shape)}",
                "Build the network with the settings of its training",
            )
        kept = state[name].to(value)
        if value.is_floating_point() and not torch.isfinite(kept).all():
            return fault(f"{name} holds NaN or infinite numbers", "Use an older checkpoint")
        numbers["changed"] += not torch.allclose(value, kept, rtol=1e-2, atol=1e-5)
    if numbers["changed"]:
        return fault(
            f"{int(numbers['changed'])} of {len(own)} tensors of the network differ: they were "
            "never loaded", "Use module.load_state_dict(state), and read what it returns",
        )  # fmt: skip
    return ok("weights", f"all {len(own)} tensors are loaded", **numbers)


def _noise(model: Any, n: int, shape: Shape) -> Tensor:
    """n images of noise, on the device of the model's parameters."""
    parameters = getattr(model, "parameters", None)
    one = next(iter(parameters()), None) if callable(parameters) else None
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    return x if one is None else x.to(one.device)
