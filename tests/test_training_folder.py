"""A run's folder: which run owns it, and when a checkpoint is written into it."""

import time

import pytest
import torch
from toy_training import pipeline, same

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.training import checkpoint


@pytest.fixture
def run(tmp_path):
    """A finished run of 9 steps that kept its last three checkpoints."""
    p = pipeline(tmp_path, keep_checkpoints=3)
    p.fit()
    return p


def test_a_folder_that_holds_a_run_is_refused_before_anything_is_written(run, tmp_path):
    def content():
        return {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    before, second = content(), pipeline(tmp_path, epochs=1)
    for start in (second.fit, lambda: next(second.steps()), second.save):
        with pytest.raises(FileExistsError, match=r"holds a run already \(checkpoint.*overwrite"):
            start()
    assert content() == before and second.step == 0
    for path in checkpoint.checkpoints(tmp_path):
        path.unlink()
    with pytest.raises(FileExistsError, match=r"already \(weights\.safetensors\)"):
        second.fit()
    second.resume(second.save(tmp_path / "elsewhere" / "c.pt"))
    with pytest.raises(FileExistsError):  # what it resumed lies elsewhere
        second.fit()


def test_overwrite_removes_the_run_and_nothing_else_when_training_starts(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    p = pipeline(tmp_path, epochs=1, keep_checkpoints=9, overwrite=True)
    assert len(checkpoint.checkpoints(tmp_path)) == 3
    p.fit()
    p.config = TrainConfig(**(p.config.to_dict() | {"epochs": 2}))
    p.total_steps = 6
    p.fit()  # its own run is not overwritten
    steps = [torch.load(c, weights_only=True)["step"] for c in checkpoint.checkpoints(tmp_path)]
    assert steps == [6, 3, 1] and (tmp_path / "notes.txt").read_text() == "mine"


def test_a_resumed_run_is_not_overwritten(run, tmp_path):
    p = pipeline(tmp_path, epochs=4, overwrite=True)
    p.resume()
    assert len(p.fit()) == 12


def test_the_first_step_is_saved_at_once_and_later_ones_by_the_clock(tmp_path, monkeypatch):
    whole, clock = pipeline(epochs=4), [1000.0]
    whole.fit()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    changes = {"epochs": 4, "save_every": 0, "keep_checkpoints": 9, "save_minutes": 0.5}
    p = pipeline(tmp_path, **changes)
    for record in p.steps():
        clock[0] += 10.0
        if record.step == 9:
            break
    steps = [torch.load(c, weights_only=True)["step"] for c in checkpoint.checkpoints(tmp_path)]
    assert steps == [7, 4, 1]  # seven steps in: in the middle of the third epoch
    second = pipeline(tmp_path, **changes)
    second.resume()
    second.fit()
    assert same(second.model, whole.model) and same(second.ema_model, whole.ema_model)
    assert [r.loss for r in second.history] == [r.loss for r in whole.history]


def test_with_save_minutes_0_nothing_is_saved_before_the_epoch_ends(tmp_path):
    steps = pipeline(tmp_path, save_minutes=0).steps()
    next(steps), next(steps)
    assert not checkpoint.checkpoints(tmp_path)
    next(steps)
    assert len(checkpoint.checkpoints(tmp_path)) == 1
