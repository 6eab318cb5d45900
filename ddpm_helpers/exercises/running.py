"""Run an answer on copies of a case's inputs, and keep what it returned, raised or overwrote."""

from __future__ import annotations

import copy
import dis
import inspect
import linecache
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

Answer = Callable[..., Any]

FRESH = torch.Generator().manual_seed(2029).get_state()  # no seed of `noise`

PACKAGE = str(Path(__file__).resolve().parents[1])
LIBRARIES = (*(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")), "<frozen")


def call(answer: Answer, *inputs: Any) -> Any:
    """The ordinary use of an answer."""
    return answer(*inputs)


class Case(NamedTuple):
    """One use of an answer on small inputs.

    Attributes:
        text: the inputs in words, for messages: "t = 0", "a batch of one image".
        inputs: what the answer is called with: tensors, arrays, numbers, lists, functions. Each
            run gets copies, and an answer that changes one of them is told so.
        use: `use(answer, *inputs)` returns what is compared: a tensor, an array, a number, a text,
            or a tuple, list or dict of those. Torch's global generator draws the same numbers in
            every run.
    """

    text: str
    inputs: tuple[Any, ...]
    use: Callable[..., Any] = call


class Raised(NamedTuple):
    """An error instead of a result; `where` is the line of the learner's code, or ""."""

    kind: str
    text: str
    where: str
    is_unfilled: bool


class Problem(NamedTuple):
    """A sentence instead of a result, where `use` finds that it cannot go on."""

    text: str


class Outcome(NamedTuple):
    """What a case gave; `overwritten` tells which argument was changed, or is ""."""

    result: Any
    overwritten: str


def run(case: Case, answer: Answer) -> Outcome:
    """Use an answer once. Torch's generator and its gradient mode stay as they were."""
    inputs = copy.deepcopy(case.inputs)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # notebooks may have it off
        torch.random.set_rng_state(FRESH)
        try:
            result = case.use(answer, *inputs)
        except Exception as error:  # any error is a result, which the learner is shown
            result = _raised(error)
    changed = (k for k, given in enumerate(case.inputs) if not _unchanged(given, inputs[k]))
    return Outcome(result, next((f"overwrites {name_of(case, answer, k)}" for k in changed), ""))


def is_unfilled(result: Any) -> bool:
    """Whether a result is the stub's own NotImplementedError."""
    return isinstance(result, Raised) and result.is_unfilled


def name_of(case: Case, answer: Answer, position: int) -> str:
    """The name of an input: the learner's, or that of `use` where it does more than a call."""
    try:
        names = list(inspect.signature(answer if case.use is call else case.use).parameters)
    except (TypeError, ValueError):
        names = []
    names = names if case.use is call else names[1:]
    return f"`{names[position]}`" if position < len(names) else "one of its arguments"


def _unchanged(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        same_form = before.shape == after.shape and before.dtype == after.dtype
        return same_form and bool(torch.equal(before.nan_to_num(), after.nan_to_num()))
    if isinstance(before, np.ndarray):
        return bool(np.array_equal(before, after))
    if isinstance(before, (list, tuple)):
        pairs = zip(before, after, strict=False)
        return len(before) == len(after) and all(_unchanged(b, a) for b, a in pairs)
    return True


# ---- errors --------------------------------------------------------------------------------------


def _raised(error: Exception) -> Raised:
    text = (str(error).splitlines() or [""])[0]
    frames = [f for f in _frames(error.__traceback__) if _is_the_learners(f[0])]
    where = _line(*frames[-1][:2]) if frames else ""
    is_unfilled = (
        isinstance(error, NotImplementedError)
        and len(frames) == 1
        and _is_a_raise(frames[0][0], frames[0][2])
    )
    return Raised(type(error).__name__, text, where, is_unfilled)


def _frames(traceback: TracebackType | None) -> list[tuple[FrameType, int, int]]:
    """Frame, line and instruction of each call, the outermost first."""
    found = []
    while traceback is not None:
        found.append((traceback.tb_frame, traceback.tb_lineno, traceback.tb_lasti))
        traceback = traceback.tb_next
    return found


def _is_the_learners(frame: FrameType) -> bool:
    """Whether a frame runs code of a notebook or script, not of this package or a library."""
    return not frame.f_code.co_filename.startswith((PACKAGE, *LIBRARIES))


def _is_a_raise(frame: FrameType, instruction: int) -> bool:
    """Whether a `raise` stands there; errors of PyTorch's own leave from a call."""
    at = (i.opname for i in dis.get_instructions(frame.f_code) if i.offset == instruction)
    return next(at, "") == "RAISE_VARARGS"


def _line(frame: FrameType, number: int) -> str:
    source = linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip()
    return f"line {number}, `{source}`" if source else f"line {number}"


# ---- helpers for cases ---------------------------------------------------------------------------


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values of a shape, the same ones for a seed at every call."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def on_gpu(text: str, inputs: tuple[Any, ...]) -> list[Case]:
    """A case with its tensors on the GPU; no case on a machine that has none."""
    device = next((d for d in ("cuda", "mps") if getattr(torch, d).is_available()), None)
    moved = tuple(v.to(device) if isinstance(v, Tensor) else v for v in inputs)
    return [Case(text, moved)] if device else []


def gradient(loss: Any, weight: Tensor) -> Any:
    """The derivative of a loss by a weight, or the problem that there is none."""
    if not isinstance(loss, Tensor):
        return Problem("the loss is not a tensor, so it has no gradient (`.item()` makes a number)")
    if not loss.requires_grad:
        return Problem(
            "the loss has no gradient: `.detach()`, `torch.no_grad()` or a new tensor made of "
            "its numbers cuts it off from the network's weights"
        )
    if loss.numel() != 1:
        return Problem(f"the loss has {loss.numel()} values; the gradient needs one number")
    return torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True)[0]


class Net(nn.Module):
    """A stand-in for a network: nonlinear in its inputs, and as strict about dtypes and shapes.

    Called with images (B, 3, H, W) float32, timesteps (B,) int64, and labels (B,) int64 where
    given; returns the images' shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError(f"the network takes images in float32, got {x.dtype}")
        for name, numbers in {"timesteps": t, "labels": y}.items():
            if numbers is None:
                continue
            if not isinstance(numbers, Tensor) or numbers.shape != (len(x),):
                shape = tuple(numbers.shape) if isinstance(numbers, Tensor) else numbers
                raise TypeError(f"the network takes {name} (B,) = ({len(x)},), got {shape}")
            if numbers.dtype != torch.int64:
                raise TypeError(f"the network takes {name} in int64, got {numbers.dtype}")
        by = t / 500 if y is None else t / 500 + y / 7
        return torch.sin(self.weight * x + by.view(-1, 1, 1, 1)) + 0.1 * x.roll(1, -1)
