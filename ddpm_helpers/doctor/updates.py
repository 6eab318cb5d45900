"""Watch a training step from outside: its network, gradients and optimiser.

PyTorch's global hooks see every call of a module and every step of an optimiser, so nothing of the
step's own code needs to be known or changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ddpm_helpers.doctor.finding import Rule, broken, look
from ddpm_helpers.doctor.tables import rms


class Watch:
    """One training step, watched.

    Attributes:
        net: the outermost module with parameters that maps images to images; None if there is none.
        x_t, out, grad: its input and output, (B, C, H, W), and the gradient of the loss
            with respect to the output.
        steps: the optimisers that made a step.
        gone: whether all gradients were missing or 0 when an optimiser stepped.
        added: whether gradients of earlier steps were added to this one's.
        loss: the loss that the step returned.
    """

    def __init__(self) -> None:
        self.net: nn.Module | None = None
        self.x_t = self.out = torch.zeros(())
        self.grad: Tensor | None = None
        self.steps: list[torch.optim.Optimizer] = []
        self.gone = self.added = False
        self.loss = float("nan")
        self._depth, self._at = 0, 1000
        self._fresh: dict[nn.Parameter, Tensor] = {}

    @contextmanager
    def watching(self, known: nn.Module | None) -> Iterator[None]:
        """Watch one step; `known` is the network, if an earlier step has shown it."""
        with ExitStack() as stack:
            for handle in (
                register_module_forward_pre_hook(self._enter),
                register_module_forward_hook(self._leave),
                register_optimizer_step_pre_hook(self._before_step),
                *self._gradients_of(known),
            ):
                stack.callback(handle.remove)
            yield

    def _gradients_of(self, known: nn.Module | None) -> Iterator[Any]:
        """Sum the gradients that this step's own backward passes give the largest parameter."""
        parameters = [] if known is None else [p for p in known.parameters() if p.requires_grad]
        if parameters:
            one = max(parameters, key=lambda p: p.numel())

            def add(grad: Tensor) -> None:
                self._fresh[one] = grad.detach() + self._fresh.get(one, torch.zeros_like(grad))

            yield one.register_hook(add)

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._depth += 1

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        self._depth -= 1
        images = [x for x in args if isinstance(x, Tensor) and x.ndim == 4]
        fits = isinstance(out, Tensor) and bool(images) and images[0].shape == out.shape
        if not fits or self._depth > self._at or next(module.parameters(), None) is None:
            return
        if not out.requires_grad and self.out.requires_grad and self._depth == self._at:
            return  # a second network, such as a teacher
        self._at, self.net, self.grad = self._depth, module, None
        self.x_t, self.out = images[0].detach().clone(), out
        if out.requires_grad:
            out.register_hook(partial(self._keep, module))

    def _keep(self, module: nn.Module, grad: Tensor) -> None:
        if module is self.net:  # not one of its parts
            self.grad = grad.detach().clone()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.steps.append(optimizer)
        parameters = _held(optimizer)
        self.gone = not any(p.grad.any() for p in parameters if p.grad is not None)
        held = {id(p) for p in parameters}
        for p, fresh in self._fresh.items():
            if p.grad is not None and id(p) in held:
                along = torch.cosine_similarity(p.grad.flatten(), fresh.flatten(), dim=0)
                longer = p.grad.norm() > 1.5 * fresh.norm()
                self.added = bool(fresh.any()) and bool(longer or along < 0.999)

    def target(self) -> Tensor | None:
        """Find what the output is compared with, if the loss is the mean or sum of squared errors.

        With loss = c sum(e^2), the gradient with respect to the output is 2 c e, so
        c = sum(grad^2) / (4 loss).
        """
        if self.grad is None or not self.loss > 0:
            return None
        c = float(self.grad.double().square().sum()) / (4 * self.loss)
        n = self.out.numel()
        if min(abs(c * n - 1), abs(c - 1), abs(c * n / len(self.out) - 1)) > 0.02:
            return None
        return self.out.detach() - self.grad / (2 * c)


def _held(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def watch(step: Callable[[], float], known: nn.Module | None) -> tuple[Watch, int]:
    """Watch one step, and count the known network's tensors that it changed."""
    before = [] if known is None else [p.detach().clone() for p in known.parameters()]
    seen = Watch()
    with seen.watching(known):
        seen.loss = step()
    after = [] if known is None else list(known.parameters())
    changed = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return seen, changed


def rules_for(first: Watch, second: Watch, changed: int, share: float, fall: float) -> list[Rule]:
    """Return the rules for two successive steps on one batch.

    Args:
        first, second: the steps; the network that the first showed is `known` in the second.
        changed: number of the network's tensors that the second changed.
        share: the last loss divided by the first.
        fall: rules that explain why a loss does not fall apply only if share is at least this.
    """
    net = second.net
    if net is None:
        return []
    parameters = list(net.parameters())
    learning = [p for p in parameters if p.requires_grad]
    held = {id(p) for optimizer in second.steps for p in _held(optimizer)}
    holds = sum(id(p) in held for p in learning)
    frozen = len(parameters) - len(learning)
    rates = [group["lr"] for optimizer in second.steps for group in optimizer.param_groups]
    stuck, total = not share < fall, len(parameters)
    some = look if share < 0.98 else broken
    return [
        *_target_rules(first, second, stuck),
        (second.added and bool(first.steps), broken,  # else it accumulates over several calls
         "gradients of earlier updates are added to the new ones: zero_grad is missing",
         "Call optimizer.zero_grad() before each backward()"),
        (stuck and second.grad is None, broken,
         "no gradient reaches the network's output", "Look for detach, no_grad, .item(), .data, or "
         "a backward() that is never called"),
        (stuck and not second.steps and not changed, broken,
         "no optimiser makes a step", "Call optimizer.step() after backward()"),
        (stuck and bool(second.steps) and not holds, broken,
         "the optimiser holds none of the network's parameters",
         "Make it from the parameters of the network that is trained, after that is on its device"),
        (stuck and frozen > total / 2, some,
         f"{frozen} of the network's {total} tensors are frozen",
         "Call net.requires_grad_(True)"),
        (stuck and bool(second.steps) and holds < len(learning), some,
         f"the optimiser holds {holds} of the network's {total} tensors",
         "Pass net.parameters(); keep lists of layers in nn.ModuleList"),
        (stuck and bool(second.steps) and second.gone, broken,
         "the gradients are gone when the optimiser makes its step",
         "Use the order zero_grad, backward, step"),
        (stuck and bool(rates) and max(rates) < 1e-7, broken,
         f"the learning rate is {max(rates, default=0):.1g}", "Use a larger one, such as 1e-4"),
    ]  # fmt: skip


def _target_rules(first: Watch, second: Watch, stuck: bool) -> list[Rule]:
    """Return the rules about the target, with which the output is compared."""
    x_t, target, before = second.x_t, second.target(), first.target()
    fixed = first.x_t.shape == x_t.shape and torch.equal(first.x_t, x_t)
    rules: list[Rule] = []
    if second.grad is not None and len(x_t) > 1:
        grad = second.grad
        size, none = rms(grad), int((grad.flatten(1) == 0).all(1).sum())
        rules += [
            (0 < none < len(x_t), broken, f"{none} of {len(x_t)} images have no gradient",
             "Take the mean of the loss over the whole batch"),
            (rms(grad - grad[:1]) < 1e-3 * size, broken,
             "all images have the same gradient: means over the batch are compared",
             "Square the differences first, then take the mean"),
            (rms(grad - grad.mean((1, 2, 3), keepdim=True)) < 1e-3 * size, broken,
             "all pixels of an image have the same gradient: means over images are compared",
             "Square the differences first, then take the mean"),
        ]  # fmt: skip
    jumps: Rule = (
        stuck and not fixed, look, "the network gets another x_t in each call, so the loss jumps",
        "Draw images, t and noise once, outside of step()",
    )  # fmt: skip
    if target is None:
        return [*rules, jumps]
    size = max(rms(target), 1e-12)
    within = target - target.mean((1, 2, 3), keepdim=True)
    redrawn = fixed and before is not None and rms(target - before) > 0.1 * size
    return [
        *rules,
        (redrawn, broken, "the target changes from call to call, but x_t does not: it is not the "
         "noise in x_t", "Draw eps once: the eps in x_t is the target"),
        (rms(within) < 1e-2 * size and x_t[0].numel() > 1, broken,
         "the target has one value for each image: its shape is not that of the output",
         "Give output and target the same shape (B, C, H, W): broadcasting hides a wrong one"),
        (rms(target - x_t) < 1e-2 * size, look,
         "the target is x_t, the network's own input", "Use eps, x_0 or v as the target"),
        (len(x_t) > 1 and rms(target - target[:1]) < 1e-2 * size, look,
         "the target is the same for all images of the batch",
         "Draw eps of the whole batch's shape: torch.randn_like(x_0)"),
        jumps,
    ]  # fmt: skip
