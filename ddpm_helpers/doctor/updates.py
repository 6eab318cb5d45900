"""Record what a training step does, and find its mistakes.

PyTorch has global hooks: functions that it calls for every module and every optimiser. They show
the network, its output, the gradients and the updates, so the step's code stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ddpm_helpers.doctor.finding import Rule, broken, look
from ddpm_helpers.doctor.tables import rms

Tensors = dict[str, Tensor]
FEW = 0.05  # share of a gradient or an update that counts as almost nothing
ERRORS = {  # part of PyTorch's message -> what it means, and the repair
    "does not require grad": (
        "backward() fails because no gradient reaches the loss",
        "Look for torch.no_grad, detach, .item(), .data or numpy between the network and the loss",
    ),
    "a second time": (
        "backward() fails because a part of its graph belongs to an earlier call",
        "Compute everything that has a gradient inside step(), and detach what you keep",
    ),
    "modified by an inplace operation": (
        "backward() fails because a tensor that it needs was changed in place",
        "Replace += and x[...] = by new tensors, and change weights only after backward()",
    ),
}
BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {  # functions between the output and the loss
    "": lambda x: x, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
}  # fmt: skip


@contextmanager
def _hooks(*handles: Any) -> Iterator[None]:
    """Remove these hooks at the end."""
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


@contextmanager
def _before_backward(call: Callable[[Any], None]) -> Iterator[None]:
    """Call a function with the loss before each backward()."""
    right = torch.autograd.backward

    def backward(tensors: Any, *args: Any, **options: Any) -> None:
        call(tensors)
        right(tensors, *args, **options)

    with patch.object(torch.autograd, "backward", backward):
        yield


class Trace:
    """What is recorded in all calls of step().

    Attributes:
        rates: the largest learning rate at each step of an optimiser.
        nan: where the first NaN or infinite number appeared, such as "the output of a Conv2d".
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.nan = ""

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record everything inside the `with` block."""
        hooks = (
            register_module_forward_hook(self._after_module),
            register_optimizer_step_pre_hook(self._before_step),
        )
        with _hooks(*hooks), _before_backward(self._loss):
            yield

    def _after_module(self, module: nn.Module, args: Any, out: Any) -> None:
        if not self.nan and isinstance(out, Tensor) and not torch.isfinite(out).all():
            finite = all(bool(torch.isfinite(p).all()) for p in module.parameters())
            self.nan = f"the {'output' if finite else 'weights'} of a {type(module).__name__}"

    def _loss(self, loss: Any) -> None:
        if not self.nan and isinstance(loss, Tensor) and not torch.isfinite(loss).all():
            self.nan = "the loss, after a finite output: look for a log, a root or a division"

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.rates.append(max(float(group["lr"]) for group in optimizer.param_groups))
        grads = [p.grad for p in _held(optimizer) if p.grad is not None]
        if not self.nan and not all(torch.isfinite(grad).all() for grad in grads):
            self.nan = "a gradient, after a finite loss: look for a root or a norm of 0"


class Watch:
    """What one call of step() does.

    Attributes:
        known: the network, if an earlier call has shown it. Its weights are watched.
        net: the outermost module with parameters whose output has the shape of its input.
        x_t, out, grad: its input and output, (B, ...), and the gradient of the loss with respect
            to the output.
        strays: layers that net calls, but that are missing in net.parameters().
        steps: the optimisers that made a step.
        backwards: the number of calls of backward().
        fresh, used: the gradients from backward(), and those that the optimiser got.
        before, stepped, after: the weights before the call, after the last step of an optimiser,
            and after the call.
        gone: whether all gradients were missing or 0 when an optimiser made a step.
        loss: the loss that step() returned.
    """

    def __init__(self, known: nn.Module | None) -> None:
        self.known = known
        self.net: nn.Module | None = None
        self.x_t = self.out = torch.zeros(())
        self.grad: Tensor | None = None
        self.strays: list[str] = []
        self.steps: list[Optimizer] = []
        self.backwards, self.gone = 0, False
        self.fresh: Tensors = {}
        self.used: Tensors = {}
        self.before = self.stepped = self.after = self._weights()
        self.loss = float("nan")
        self._called: list[nn.Module] = []
        self._starts: list[int] = []
        self._at = 1000

    def run(self, step: Callable[[], float]) -> Watch:
        """Call step() and watch it."""
        hooks = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, with_kwargs=True),
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        for name, p in self._named().items():
            if p.requires_grad:
                hooks.append(p.register_hook(partial(self._add, name)))
        with _hooks(*hooks), _before_backward(self._count):
            self.loss = step()
        self.after = self._weights()
        return self

    def _named(self) -> dict[str, nn.Parameter]:
        return {} if self.known is None else dict(self.known.named_parameters())

    def _weights(self) -> Tensors:
        return {name: p.detach().clone() for name, p in self._named().items()}

    def _add(self, name: str, grad: Tensor) -> None:
        grad = grad.detach()
        self.fresh[name] = grad + self.fresh[name] if name in self.fresh else grad.clone()

    def _count(self, loss: Any) -> None:
        self.backwards += 1

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._starts.append(len(self._called))
        self._called.append(module)

    def _leave(self, module: nn.Module, args: Any, options: Any, out: Any) -> None:
        inside, depth = self._called[self._starts.pop() :], len(self._starts)
        out = getattr(out, "sample", out[0] if isinstance(out, tuple) else out)
        values = [x for x in (*args, *options.values()) if isinstance(x, Tensor) and x.ndim > 1]
        fits = isinstance(out, Tensor) and bool(values) and values[0].shape == out.shape
        if not fits or depth > self._at or next(module.parameters(), None) is None:
            return
        if not out.requires_grad and self.out.requires_grad and depth == self._at:
            return  # a second network, such as a teacher
        self._at, self.net, self.grad = depth, module, None
        self.x_t, self.out = values[0].detach().clone(), out
        own = {id(p) for p in module.parameters()}
        self.strays = [
            type(part).__name__ for part in inside
            if any(p.requires_grad and id(p) not in own for p in part.parameters(recurse=False))
        ]  # fmt: skip
        if out.requires_grad:
            out.register_hook(partial(self._keep, module))

    def _keep(self, module: nn.Module, grad: Tensor) -> None:
        if module is self.net:  # not one of its parts
            self.grad = grad.detach().clone()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.steps.append(optimizer)
        if not _has_closure(args, kwargs):
            self._read_gradients(optimizer)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if _has_closure(args, kwargs):  # it calls backward() inside the optimiser's step
            self._read_gradients(optimizer)
        self.stepped = self._weights()

    def _read_gradients(self, optimizer: Optimizer) -> None:
        held = _held(optimizer)
        self.gone = not any(p.grad.any() for p in held if p.grad is not None)
        here = {id(p) for p in held}
        for name, p in self._named().items():
            if p.grad is not None and id(p) in here:
                self.used[name] = p.grad.detach().clone()

    def target(self) -> Tensor | None:
        """Compute the target, if the loss is the mean or the sum of squared errors.

        With loss = c sum(error^2), the gradient with respect to the output is 2 c error, so
        c = sum(grad^2) / (4 loss).
        """
        if self.grad is None or not self.loss > 0:
            return None
        c = float(self.grad.double().square().sum()) / (4 * self.loss)
        n = self.out.numel()
        if min(abs(c * n - 1), abs(c - 1), abs(c * n / len(self.out) - 1)) > 0.02:
            return None
        return self.out.detach() - self.grad / (2 * c)


def _has_closure(args: Any, kwargs: Any) -> bool:
    return len(args) > 1 or kwargs.get("closure") is not None


def _held(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _size(tensors: Tensors) -> float:
    """Compute the norm of all numbers together."""
    return sum(float(x.double().square().sum()) for x in tensors.values()) ** 0.5


def _minus(a: Tensors, b: Tensors) -> Tensors:
    return {name: a[name] - b[name] for name in a.keys() & b.keys()}


def _dot(a: Tensors, b: Tensors) -> float:
    return sum(float((a[name] * b[name]).double().sum()) for name in a.keys() & b.keys())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def update_size(seen: Watch) -> float:
    """Compute the size of an update, divided by the size of the weights."""
    return _size(_minus(seen.stepped, seen.before)) / max(_size(seen.before), 1e-12)


def rules_for(first: Watch, second: Watch, trace: Trace, share: float, fall: float) -> list[Rule]:
    """Return the rules for two successive calls of step() on one batch.

    Args:
        first, second: the calls. The network of the first is `known` in the second.
        trace: what was recorded in all calls.
        share: the last loss divided by the first.
        fall: the share that is expected. Some rules only explain why a loss falls too little.
    """
    net = first.net
    if net is None:
        return []
    stuck = not share < fall
    return [
        *_gradient_rules(second, net, trace, stuck),
        *_loss_rules(first, second, stuck),
        *_weight_rules(first, second, trace, share, stuck),
        *_setting_rules(second, trace, stuck),
    ]


def _gradient_rules(second: Watch, net: nn.Module, trace: Trace, stuck: bool) -> list[Rule]:
    """Return the rules about missing gradients."""
    learning = {name: p for name, p in net.named_parameters() if p.requires_grad}
    blind = stuck and second.grad is None and not second.fresh
    runs = second.out.requires_grad
    none = [name for name in learning if name not in second.fresh and second.known is second.net]
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    total = len(learning) + len(frozen)
    some = broken if stuck else look
    return [
        (blind and not learning, broken, "all weights of the network are frozen",
         "Call net.requires_grad_(True)"),
        (blind and not second.backwards, broken,
         "no gradient reaches the network: backward() is never called",
         "Call loss.backward() before optimizer.step()"),
        (blind and not runs, broken, "no gradient reaches the network: it runs under torch.no_grad",
         "Remove torch.no_grad() or inference_mode() around the network's call"),
        (blind, broken, "no gradient reaches the network's output: the loss is cut off from it",
         "Look for detach, .data, .item() or torch.tensor(...) on the output, and for a loss that "
         "compares other tensors"),
        (bool(second.strays), some,
         f"layers are missing in net.parameters(), so they never learn: {_some(second.strays)}",
         "Keep lists of layers in nn.ModuleList, and layers as attributes of the module"),
        (stuck and len(frozen) > total / 2, broken,
         f"{len(frozen)} of the network's {total} tensors are frozen: {_some(frozen)}",
         "Call net.requires_grad_(True)"),
        (bool(second.backwards and none) and not blind, some,
         f"{len(none)} of the network's {total} tensors get no gradient: {_some(none)}",
         "Look for detach or no_grad inside the network, and for layers that forward() does not "
         "use"),
    ]  # fmt: skip


def _weight_rules(
    first: Watch, second: Watch, trace: Trace, share: float, stuck: bool
) -> list[Rule]:
    """Return the rules about the optimiser's steps and what happens to the weights."""
    net = first.net
    assert net is not None
    learning = {name: p for name, p in net.named_parameters() if p.requires_grad}
    held = {id(p) for optimizer in second.steps for p in _held(optimizer)}
    left_out = [name for name, p in learning.items() if id(p) not in held]
    some = look if share < 0.98 else broken
    stepped = bool(second.steps)
    update = _minus(second.stepped, second.before)
    moved = _size(update)
    undone = 1 - _dot(_minus(second.after, second.before), update) / max(moved**2, 1e-30)
    both = {name: grad for name, grad in second.fresh.items() if name in second.used}
    fresh, used = _size(both), _size(second.used)
    along = _dot(both, second.used) / max(fresh * used, 1e-30)
    added = bool(both) and fresh > 0 and used > 0 and (used > 1.5 * fresh or along < 0.999)
    every = len(trace.rates)
    renewed = stepped and bool(first.steps) and not set(map(id, first.steps)) & set(
        map(id, second.steps)
    )  # fmt: skip
    return [
        (stuck and second.net is not None and second.net is not net, broken,
         "each call of step() uses another network object, so what one call learns is lost",
         "Make the network once, outside step(); look for copy.deepcopy"),
        (stuck and not every and not moved, broken, "no optimiser makes a step",
         "Call optimizer.step() after each backward()"),
        (stuck and stepped and len(left_out) == len(learning), broken,
         "the optimiser holds none of the network's parameters",
         "Make it from the parameters of the network that is trained, after that is on its device"),
        (stuck and stepped and second.gone, broken,
         "the gradients are gone when the optimiser makes its step",
         "Use the order zero_grad, backward, step"),
        (added and bool(first.steps), broken,  # else it accumulates over several calls
         "gradients of earlier updates are added to the new ones: zero_grad is missing",
         "Call optimizer.zero_grad() before each backward()"),
        (stuck and stepped and bool(left_out), some,
         f"the optimiser holds {len(learning) - len(left_out)} of the network's {len(learning)} "
         f"tensors that learn; missing: {_some(left_out)}", "Pass net.parameters()"),
        (moved > 0 and undone > 0.1, broken if stuck else look,
         f"{min(undone, 1):.0%} of the update is undone after optimizer.step(): other code writes "
         "into the weights", "Look for an EMA that is copied into the network (average.copy_(p), "
         "not p.copy_), and for load_state_dict in the loop"),
        (renewed, broken if stuck else look,
         "each call of step() makes a new optimiser, so its averages are lost",
         "Make the optimiser once, outside step()"),
        (stuck and 0 < used < FEW * fresh and update_size(second) < 1e-3, broken,
         f"the gradient is made smaller before the optimiser's step, from norm {fresh:.2g} to "
         f"{used:.2g}: it is clipped too much",
         "Clip to a norm of about 1: clip_grad_norm_(net.parameters(), 1.0)"),
    ]  # fmt: skip


def _setting_rules(second: Watch, trace: Trace, stuck: bool) -> list[Rule]:
    """Return the rules about the settings of the optimiser and the mode of the network."""
    groups = [group for optimizer in second.steps for group in optimizer.param_groups]
    rates = trace.rates or [1.0]
    fell = rates[0] > 1e-7 and rates[-1] < 1e-3 * max(rates)
    shrink = max((float(g["lr"] * g.get("weight_decay", 0)) for g in groups), default=0.0)
    some = broken if stuck else look
    net = second.net
    parts = [] if net is None else [type(part).__name__ for part in net.modules()]
    asleep = net is not None and not net.training and any(
        "Dropout" in name or "BatchNorm" in name for name in parts
    )  # fmt: skip
    return [
        (any(g.get("maximize") for g in groups), broken, "the optimiser maximises the loss",
         "Remove maximize=True"),
        (stuck and fell, broken,
         f"the learning rate falls from {max(rates):.2g} to {rates[-1]:.2g} in {len(rates)} "
         "updates",
         "Use a slower scheduler: call scheduler.step() as often as it expects, per epoch or "
         "per update"),
        (stuck and max(rates) < 1e-7, broken,
         f"the learning rate is {max(rates):.1g}",
         "Use a larger one, such as 1e-4. Check the warm-up: (k + 1) // n is 0 for a long time"),
        (shrink > 0.01, some,
         f"weight decay removes {shrink:.0%} of the weights in each update",
         "Use weight_decay = 0.01 or 0"),
        (any(g.get("betas", (0, 1))[0] > g.get("betas", (0, 1))[1] for g in groups), some,
         "Adam's betas are in the wrong order", "Use betas=(0.9, 0.999)"),
        (asleep, look, "the network is in eval mode, so dropout and BatchNorm do not work as in "
         "training", "Call net.train() before the training loop"),
    ]  # fmt: skip


def _loss_rules(first: Watch, second: Watch, stuck: bool) -> list[Rule]:
    """Return the rules about the loss and its target."""
    x_t, grad = second.x_t, second.grad
    fixed = first.x_t.shape == x_t.shape and torch.equal(first.x_t, x_t)
    jumps: Rule = (
        stuck and not fixed, look, "the network gets another x_t in each call, so the loss jumps",
        "Draw images, t and noise once, outside step()",
    )  # fmt: skip
    if grad is None or len(x_t) < 2:
        return [jumps]
    some = broken if stuck else look
    pixels = tuple(range(1, grad.ndim))
    size, none = rms(grad), int((grad.flatten(1) == 0).all(1).sum())
    mean = grad.mean(pixels, keepdim=True)
    constant = size > 0 and first.grad is not None and rms(grad - first.grad) < 1e-3 * size
    same_in = rms(grad - grad[:1]) < 1e-3 * size, rms(grad - mean) < 1e-3 * size
    zero = grad == 0
    out, share = second.out.detach(), float(zero.float().mean())
    cut = 0.02 < share < 1 and not none
    below = cut and bool((out[zero] <= 0).all() and (out[~zero] >= 0).all())
    bound = float(out[zero].abs().min()) if cut else 0.0
    beyond = cut and bool((out[~zero].abs() <= bound).all())
    where = "below 0" if below else f"beyond {-bound:.2g}..{bound:.2g}" if beyond else ""
    rules: list[Rule] = [
        (all(same_in) and constant, broken,
         "all pixels have the same gradient in every call: the differences are not squared",
         "Use F.mse_loss(out, target)"),
        (0 < none < len(x_t), broken, f"{none} of {len(x_t)} images have no gradient",
         "Take the mean of the loss over the whole batch"),
        (same_in[0], broken,
         "all images have the same gradient: means over the batch are compared",
         "Square the differences first, then take the mean"),
        (same_in[1] and x_t[0].numel() > 1, broken,
         "all pixels of an image have the same gradient: means over images are compared",
         "Square the differences first, then take the mean"),
        (bool(where), some,
         f"outputs {where} have no gradient ({share:.0%} of the pixels): a "
         f"{'ReLU' if below else 'clamp'} comes between the output and the loss",
         "Compare the output itself with the target"),
        (cut and not where, look, f"{share:.0%} of the pixels have no gradient",
         "Remove the mask from the loss, if there is one"),
    ]  # fmt: skip
    square = _square(first, second) if fixed else None
    target = second.target()
    if square is not None:
        target, between, weight, floor = square
        alike = rms(target - target[:1]) < 1e-2 * rms(target)
        rules += [
            (weight < 0, broken, "the loss has the wrong sign: an update leads away from the "
             "target", "Remove the minus sign in front of the loss"),
            (floor > 0.05 * second.loss and alike, broken,
             "each image is compared with the targets of all images: the shapes of output and "
             "target are broadcast", "Give both the same shape: print(out.shape, target.shape)"),
            (bool(between) and float(target.abs().max()) > 1, broken,
             f"a {between} comes between the output and the loss, but the target goes from "
             f"{float(target.min()):.2f} to {float(target.max()):.2f}", f"Remove the {between}"),
        ]  # fmt: skip
    if target is not None:
        rules += _target_rules(target, first.target(), second, fixed, some)
    return [*rules, jumps]


def _square(first: Watch, second: Watch) -> tuple[Tensor, str, float, float] | None:
    """Read a squared error from two outputs for the same x_t and target.

    With loss = sum(weight / 2 * (f(out) - target)^2) and a weight for each image, the gradient is
    weight * (f(out) - target) * f'(out). So the weight follows from the two gradients.

    Returns:
        The target, the function between the output and the loss, the mean of the weights, and the
        rest of the loss, which does not depend on the output; None if the loss has another form.
    """
    outs, grads = [], []
    for seen in (first, second):
        if seen.grad is None or seen.out.shape != second.out.shape:
            return None
        outs.append(seen.out.detach().double().flatten(1))
        grads.append(seen.grad.double().flatten(1))
    if rms(outs[1] - outs[0]) < 1e-3 * rms(outs[1]):
        return None
    for name, f in BETWEEN.items():
        values, errors = [], []
        for out, grad in zip(outs, grads, strict=True):
            value, slope = torch.func.jvp(f, (out,), (torch.ones_like(out),))[:2]
            values.append(value)
            errors.append(grad / slope.clamp(min=1e-6))
        change, moved = errors[1] - errors[0], values[1] - values[0]
        weight = (change * moved).sum(1, keepdim=True) / moved.square().sum(1, keepdim=True)
        if rms(change - weight * moved) < 0.02 * rms(change) and bool((weight != 0).all()):
            off = errors[1] / weight
            floor = second.loss - float((weight / 2 * off.square()).sum())
            target = (values[1] - off).to(second.out.dtype).view_as(second.out)
            return target, name, float(weight.mean()), floor
    return None


def _target_rules(
    target: Tensor, before: Tensor | None, second: Watch, fixed: bool, some: Any
) -> list[Rule]:
    """Return the rules about the target, with which the output is compared."""
    x_t, out = second.x_t.to(target), second.out.detach()
    pixels = tuple(range(1, target.ndim))
    size = max(rms(target), 1e-12)
    within = target - target.mean(pixels, keepdim=True)
    redrawn = fixed and before is not None and rms(target - before) > 0.1 * size
    flipped = before is not None and rms(target + before) < 1e-2 * size
    least, most = float(target.min()), float(target.max())
    alike = float((within * x_t).mean()) / max(rms(within) * rms(x_t), 1e-12)
    chance = 5 / target.numel() ** 0.5
    noise = _is_noise(target)
    return [
        (redrawn and flipped, broken,
         "the target changes its sign from call to call: it is overwritten in place",
         "Compute the target anew in each call, without neg_, mul_ and other names that end in _"),
        (redrawn, broken, "the target changes from call to call, but x_t does not: it is not the "
         "noise in x_t, or its images are in another order", "Draw eps once: the eps in x_t is the "
         "target. Use one permutation for both"),
        (rms(within) < 1e-2 * size and x_t[0].numel() > 1, broken,
         "the target has one value for each image: its shape is not that of the output",
         "Give output and target the same shape (B, C, H, W): broadcasting hides a wrong one"),
        (rms(target - x_t) < 1e-2 * size, look,
         "the target is x_t, the network's own input", "Use eps, x_0 or v as the target"),
        (rms(target - target[:1]) < 1e-2 * size, look,
         "the target is the same for all images of the batch",
         "Draw eps of the whole batch's shape: torch.randn_like(x_0)"),
        (0 <= float(out.min()) < float(out.max()) and least < -0.1, some,
         f"no output is below 0, but the target goes down to {least:.2f}",
         "Remove the ReLU or sigmoid after the last layer"),
        (-0.01 < least < 0.05 and 0.95 < most < 1.01, look,
         "the target lies in 0..1: noise from rand, not randn, or images that are not scaled to "
         "-1..1", "Use torch.randn_like(x_0), and 2 * x - 1 after ToTensor()"),
        (most > 100, look, f"the target goes up to {most:.0f}: images in 0..255",
         "Use x.float() / 127.5 - 1"),
        (noise and float(x_t.abs().max()) < 1.001, look,
         "x_t lies in -1..1, so it has no noise or is clipped",
         "Use x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps as the input"),
        (noise and alike < -chance, look, "the target is -eps: minus the noise that is in x_t",
         "Use eps as the target, or change the sign in the sampler too"),
        (noise and abs(alike) < chance, look,
         "the target is noise, but not the noise that is in x_t", "Draw eps once: the eps in x_t "
         "is the target"),
    ]  # fmt: skip


def _is_noise(x: Tensor) -> bool:
    """Return whether x looks like standard normal noise: spread, tails and neighbours."""
    x = x.double()
    beside = float((x[..., 1:] * x[..., :-1]).mean())
    chance = 5 / x.numel() ** 0.5
    tails = float(x.pow(4).mean())
    return (
        abs(float(x.mean())) < chance and abs(rms(x) - 1) < chance and abs(beside) < 2 * chance
        and abs(tails - 3) < 10 * chance
    )  # fmt: skip
