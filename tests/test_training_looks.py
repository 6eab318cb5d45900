"""Losses that are read every few steps: fewer waits, and the very same training."""

from unittest import mock

import pytest
import torch
from test_training_files import spoil
from toy_training import pipeline, same

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


@pytest.mark.parametrize("bad", [{0}, {4}, {2, 5}, {3, 4}])
def test_a_bad_batch_in_a_group_is_left_out_as_if_each_had_been_looked_at(bad):
    each, some = pipeline(), pipeline(read_every=3)
    for p in (each, some):
        spoil(p, bad)
        with pytest.warns(match="the loss is nan.*left out, weights are as before") as said:
            p.fit()
        assert len([w for w in said if "left out" in str(w.message)]) == len(bad)
    assert some.skipped == each.skipped == len(bad)
    assert same(each.model, some.model) and same(each.ema_model, some.ema_model)
    one, other = of_both(each, some, "step", "loss", "lr")
    assert one == other


def test_an_error_within_a_group_takes_everything_back_to_where_it_began():
    whole, p = pipeline(read_every=3), pipeline(read_every=3)
    whole.fit()
    loss, errors = p.diffusion.loss, [torch.OutOfMemoryError("CUDA out of memory")]

    def full(*args, **options):
        if p.step == 4 and errors:
            raise errors.pop()
        return loss(*args, **options)

    p.diffusion.loss = full
    with pytest.raises(torch.OutOfMemoryError, match="step 5: .*halve batch_size"):
        p.fit()
    assert p.step == len(p.history) == 3
    p.fit()
    assert same(p.model, whole.model) and [r.loss for r in p.history] == [
        r.loss for r in whole.history
    ]


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
