"""Build a student: a copy of its teacher that learns to sample in few steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

from ddpm_helpers.device import make_accelerator
from ddpm_helpers.diffusion import ConsistencyDistillation
from ddpm_helpers.model import Network
from ddpm_helpers.pretrained.fine_tune import fine_tune_model

TEACHER_STEPS = 10


def distill_model(
    name_or_path: str | Path,
    classes: Sequence[str] | None = None,
    *,
    steps: int = TEACHER_STEPS,
    say: Callable[[str], object] = print,
) -> tuple[Network, ConsistencyDistillation]:
    """Build a student and the diffusion whose loss trains it; give both to `TrainingPipeline`.

    Args:
        name_or_path: the teacher's weights, as for `load_pretrained`; the student starts from them.
        classes, say: as for `fine_tune_model`.
        steps: number of teacher steps from T to 0, in 1..T.
    Returns:
        The student, ready to train, and a `ConsistencyDistillation` whose teacher is on the fastest
        device.
    Raises:
        FileNotFoundError, ValueError: as for `load_pretrained`, or as `ConsistencyDistillation`.
    """
    student, diffusion = fine_tune_model(name_or_path, classes, say=say)
    teacher = copy.deepcopy(student).eval().requires_grad_(False).to(make_accelerator().device)
    return student, ConsistencyDistillation(diffusion, teacher, steps)
