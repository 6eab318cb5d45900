"""Losses that stay on their device until they are read, and bad batches that are skipped there."""

import copy
import math
import os
import signal
from unittest import mock

import pytest
import torch
from toy_training import pipeline, same, spoil

from ddpm_helpers.config import OPTIMIZERS
from ddpm_helpers.device import to_device
from ddpm_helpers.training import checkpoint, learning_rate

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__")


def watched(name, waits):
    plain = getattr(torch.Tensor, name)

    def watch(tensor, *args, **options):
        if tensor.dtype in (torch.float32, torch.bool):  # float64: the tables
            waits.append(name)
        return plain(tensor, *args, **options)

    return watch


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_does_not_wait_for_its_loss_until_its_record_is_read(optimizer):
    """Whatever takes a value off its device makes a GPU wait; steps t live on the CPU anyway."""
    p, waits = pipeline(optimizer=optimizer), []
    x_0, y = next(p.dataset.batches(5, seed=0))
    p.train_step(x_0, y)  # what is made once is made
    with mock.patch.multiple(torch.Tensor, **{name: watched(name, waits) for name in READS}):
        record = p.train_step(x_0, y)
        assert waits == [] and record.step == p.step == 2
        assert 0 < record.loss < 10 and waits
        waits.clear()
        assert record.finite and len(record.quarters) == 4 and waits == []  # read once


def test_on_a_gpu_losses_are_read_at_the_first_every_tenth_and_the_last_step():
    p, waits = pipeline(epochs=4), []  # 12 steps
    p._read_every = 10
    read = []
    with mock.patch.multiple(torch.Tensor, **{name: watched(name, waits) for name in READS}):
        for record in p.steps():
            read += [record.step] if waits else []
            waits.clear()
    assert read == [1, 10, 12]


def state_of(p):
    """Copies of weights, average and optimiser state, by name."""
    of_optimizer = {
        f"{k} {name}": value
        for k, state in enumerate(p.optimizer.state.values())
        for name, value in state.items()
    }
    models = {f"{k} {n}": v for k in ("model", "ema_model")
              for n, v in getattr(p, k).state_dict().items()}  # fmt: skip
    return {name: value.clone() for name, value in (models | of_optimizer).items()}


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "asked"])
@pytest.mark.parametrize("bad", [{0}, {2, 5}, {3, 4}])
def test_a_bad_batch_changes_nothing_and_uses_up_its_step(bad, optimizer):
    p = pipeline(weight_decay=0.1, optimizer="adamw" if optimizer == "asked" else optimizer)
    if optimizer == "asked":  # neither fused nor ours: it cannot skip by itself
        p.optimizer = torch.optim.SGD(p.model.parameters(), 0.1, momentum=0.9)
    spoil(p, bad)
    before, left_out = state_of(p), []
    with pytest.warns(match="the loss is nan.*left out, weights are as before") as said:
        for record in p.steps():
            now = state_of(p)
            changed = {name.split()[0] for name in before if not now[name].equal(before[name])}
            assert "ema_model" in changed if record.finite else not changed
            left_out += [] if record.finite else [record.step - 1]
            before = now
    assert set(left_out) == bad and p.step == 9
    steps = [str(w.message).split(":")[0] for w in said if "left out" in str(w.message)]
    assert steps == [f"step {k + 1}" for k in sorted(bad)]
    assert [r.lr for r in p.history] == [learning_rate(k, 9, p.config) for k in range(1, 10)]


def test_bad_batches_that_are_read_late_are_named_too_and_training_is_the_same():
    each, late = pipeline(epochs=4), pipeline(epochs=4)
    late._read_every = 10
    for p in (each, late):
        spoil(p, {4, 7, 10})
        with pytest.warns(match="batch left out") as said:
            p.fit()
        messages = [str(w.message) for w in said if "left out" in str(w.message)]
        assert [m.split(":")[0] for m in messages] == ["step 5", "step 8", "step 11"]
    assert same(each.model, late.model) and same(each.ema_model, late.ema_model)
    assert [repr(r.loss) for r in each.history] == [repr(r.loss) for r in late.history]


def test_too_many_bad_batches_are_noticed_at_the_next_reading():
    p = pipeline(epochs=4, max_bad_steps=2)
    p._read_every = 10
    spoil(p, {4, 5})
    with pytest.warns(match="step 5"), pytest.raises(FloatingPointError, match="step 6: .*2 bat"):
        p.fit()
    assert p.step == 10 and len(p.fit()) == 12  # a new call counts from 0


def test_a_loss_that_is_finite_with_a_gradient_that_is_not_is_bad_too():
    """The square root has an infinite slope at 0."""
    p = pipeline()
    loss = p.diffusion.loss
    p.diffusion.loss = lambda *args, **options: (loss(*args, **options) * 0).sqrt()
    before = copy.deepcopy(p.model)
    record = p.train_step(*next(p.dataset.batches(5, seed=0)))
    assert record.loss == 0 and not math.isfinite(record.grad_norm) and not record.finite
    assert same(p.model, before)


def strike_at(p, step, then=None):
    """Ctrl-C in the middle of a step, once."""
    loss, left = p.diffusion.loss, [step]

    def struck(*args, **options):
        if left == [p.step]:
            left.clear()
            os.kill(os.getpid(), signal.SIGINT)
            if then is not None:
                raise then
        return loss(*args, **options)

    p.diffusion.loss = struck


@pytest.mark.usefixtures("signals_as_in_a_terminal")
def test_a_signal_ends_the_training_after_its_step_however_seldom_losses_are_read(tmp_path):
    whole, p = pipeline(), pipeline(tmp_path)
    whole.fit()
    p._read_every = 10
    strike_at(p, 4)
    assert [r.step for r in p.fit()] == [1, 2, 3, 4, 5]
    assert p.stopped_by == signal.SIGINT and checkpoint.newest(tmp_path)[1]["step"] == 5
    p.fit()
    assert same(p.model, whole.model)


def test_a_signal_that_came_before_an_error_does_not_stop_the_next_run():
    p = pipeline()
    strike_at(p, 2, then=RuntimeError("a mistake"))
    with pytest.raises(RuntimeError, match="a mistake"):
        p.fit()
    assert len(p.fit()) == 9


def test_values_go_to_a_gpu_from_pinned_memory_without_a_wait():
    class Values:
        device, asked = torch.device("cpu"), []

        def pin_memory(self):
            self.asked.append("pinned")
            return self

        def to(self, device, **options):
            self.asked.append((str(device), options))

    to_device(Values(), torch.device("cuda"))
    assert Values.asked == ["pinned", ("cuda", {"non_blocking": True})]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU to wait for")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_step_waits_for_a_gpu(optimizer):
    p = pipeline(optimizer=optimizer)
    x_0, y = next(p.dataset.batches(5, seed=0, device=p.device))
    p.train_step(x_0, y)  # what is made once is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        record = p.train_step(x_0, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert record.finite
