"""A student that starts as its teacher, to learn in few steps what the teacher does in many."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

from ddpm_helpers.device import best_device
from ddpm_helpers.diffusion import ConsistencyDistillation
from ddpm_helpers.model import DiffusionNet
from ddpm_helpers.pretrained.fine_tune import fine_tune_model

TEACHER_STEPS = 10


def distill_model(
    name_or_path: str | Path,
    classes: Sequence[str] | None = None,
    *,
    steps: int = TEACHER_STEPS,
    say: Callable[[str], object] = print,
) -> tuple[DiffusionNet, ConsistencyDistillation]:
    """A student and the loss that teaches it: give both to `TrainingPipeline`.

    Args:
        name_or_path: the teacher's weights, as for `load_pretrained`; the student starts from them.
        classes, say: as for `fine_tune_model`.
        steps: of the teacher from T to 0.
    Returns:
        The student, ready to train, and a `ConsistencyDistillation` whose teacher is on the fastest
        device.
    Raises:
        FileNotFoundError, ValueError: as for `load_pretrained`, or as `ConsistencyDistillation`.
    """
    student, diffusion = fine_tune_model(name_or_path, classes, say=say)
    teacher = copy.deepcopy(student).eval().requires_grad_(False).to(best_device())
    return student, ConsistencyDistillation(diffusion, teacher, steps)
