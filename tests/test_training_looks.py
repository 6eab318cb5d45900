"""Losses that are read every few steps: fewer waits, and the very same training."""

import os
import signal
from unittest import mock

import pytest
import torch
from toy_training import pipeline, same, spoil

from ddpm_helpers.config import OPTIMIZERS
from ddpm_helpers.device import to_device
from ddpm_helpers.training import files

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__")


def of_both(a, b, *fields):
    return [[[getattr(r, f) for f in fields] for r in p.history] for p in (a, b)]


@pytest.mark.parametrize("every", [2, 3, 50])  # an epoch has three batches
def test_looking_less_often_changes_nothing_but_when_records_come(every):
    each, some = pipeline(), pipeline(read_every=every)
    each.fit(), some.fit()
    assert same(each.model, some.model) and same(each.ema_model, some.ema_model)
    one, other = of_both(each, some, "step", "epoch", "loss", "lr", "quarters")
    assert repr(one) == repr(other)  # a quarter without pictures is NaN, which equals nothing


def test_a_step_waits_for_no_number_but_every_nth():
    """Whatever takes a float off its device makes a GPU wait; steps t live on the CPU anyway."""
    p, waits = pipeline(read_every=3, epochs=2, max_bad_steps=2), []
    steps = p.steps()
    next(steps), next(steps), next(steps)  # what is made once is made
    with mock.patch.multiple(torch.Tensor, **{name: watched(name, waits) for name in READS}):
        assert [next(steps).step for _ in range(3)] == [4, 5, 6]
    assert waits == ["tolist"]


def watched(name, waits):
    plain = getattr(torch.Tensor, name)

    def watch(tensor, *args, **options):
        if tensor.is_floating_point() and tensor.dtype != torch.float64:  # float64: the tables
            waits.append(name)
        return plain(tensor, *args, **options)

    return watch


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("bad", [{0}, {4}, {2, 5}, {3, 4}])
def test_a_bad_batch_in_a_group_is_left_out_as_if_each_had_been_looked_at(bad, optimizer):
    each, some = pipeline(optimizer=optimizer), pipeline(optimizer=optimizer, read_every=3)
    for p in (each, some):
        spoil(p, bad)
        with pytest.warns(match="the loss is nan.*left out, weights are as before") as said:
            p.fit()
        assert len([w for w in said if "left out" in str(w.message)]) == len(bad)
    assert some.skipped == each.skipped == len(bad)
    assert same(each.model, some.model) and same(each.ema_model, some.ema_model)
    one, other = of_both(each, some, "step", "loss", "lr")
    assert one == other


def test_a_signal_ends_a_group_after_the_step_that_it_came_in(tmp_path):
    whole, p = pipeline(), pipeline(tmp_path, read_every=3)
    whole.fit()
    strike_at(p, 4)
    assert [r.step for r in p.fit()] == [1, 2, 3, 4, 5]
    assert p.stopped_by == signal.SIGINT and files.newest(tmp_path)[1]["step"] == 5
    p.fit()
    assert same(p.model, whole.model)


def test_a_signal_that_came_before_an_error_does_not_stop_the_next_run():
    p = pipeline()
    strike_at(p, 2, then=RuntimeError("a mistake"))
    with pytest.raises(RuntimeError, match="a mistake"):
        p.fit()
    assert len(p.fit()) == 9


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


def test_a_run_is_resumed_exactly_whichever_its_looks(tmp_path):
    whole, first, second = pipeline(), pipeline(tmp_path, read_every=3), pipeline(read_every=2)
    whole.fit()
    for record in first.steps():
        if record.step == 3:
            break
    first.save()
    second.resume(tmp_path / "checkpoint.pt")
    second.fit()
    assert same(second.model, whole.model) and same(second.ema_model, whole.ema_model)


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
def test_no_step_waits_for_a_gpu():
    p = pipeline(read_every=3, epochs=2)
    steps = p.steps()
    next(steps), next(steps), next(steps)
    x_0, y = next(p.dataset.batches(5, seed=0, device=p.device))
    torch.cuda.set_sync_debug_mode("error")
    try:
        p._gradient(x_0, y)
        p._advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
