"""Whatever ends a training, its last complete step is saved; a failing compiler does not end it."""

import warnings

import pytest
import torch
from toy_training import pipeline, same

from ddpm_helpers.training import checkpoint


class Trouble(BaseException):
    """Of no kind that anybody foresees."""


def fail_at(p, step, error):
    """Raise once, in the loss of the step after this one."""
    loss, left = p.diffusion.loss, [error]

    def failing(*args, **options):
        if p.step == step and left:
            raise left.pop()
        return loss(*args, **options)

    p.diffusion.loss = failing


def fail_in_data(p, step, error):
    batches = p.dataset.batches

    def failing(*args, **options):
        for batch in batches(*args, **options):
            if p.step == step:
                raise error
            yield batch

    p.dataset.batches = failing


def fail_in_samples(p, step, error):
    """While samples are drawn at the end of an epoch."""

    def failing(*args, **options):
        raise error

    p.save_samples = failing


@pytest.mark.parametrize("kind", [ValueError, OSError, Trouble])
@pytest.mark.parametrize("fail, changes, step", [
    (fail_at, {}, 5),
    (fail_in_data, {}, 5),
    (fail_in_samples, {"sample_every": 1, "save_every": 0}, 3),
])  # fmt: skip
def test_any_exception_saves_the_last_complete_step_first(fail, changes, step, kind, tmp_path):
    whole = pipeline()
    whole.fit()
    p = pipeline(tmp_path, save_minutes=0, **changes)
    fail(p, step, kind("at a bad moment"))
    with pytest.raises(kind, match="at a bad moment"):
        p.fit()
    assert checkpoint.newest(tmp_path)[1]["step"] == step
    second = pipeline(tmp_path)
    second.resume()
    second.fit()
    assert same(second.model, whole.model) and same(second.ema_model, whole.ema_model)


def test_an_error_in_watch_saves_too(tmp_path):
    def watch(p, record):
        if record.step == 4:
            raise KeyError("watcher")

    with pytest.raises(KeyError, match="watcher"):
        pipeline(tmp_path, save_minutes=0).fit(watch=watch)
    assert checkpoint.newest(tmp_path)[1]["step"] == 4


def test_an_incomplete_step_is_not_saved(tmp_path, monkeypatch):
    def broken(*args):
        if p.step == 5:
            raise RuntimeError("between weights and average")

    p = pipeline(tmp_path, save_minutes=0)
    monkeypatch.setattr("ddpm_helpers.training.pipeline.update_ema", broken)
    with pytest.raises(RuntimeError, match="between weights"):
        p.fit()
    assert checkpoint.newest(tmp_path)[1]["step"] == 3  # of the first epoch


def test_the_error_is_raised_even_where_saving_fails(tmp_path, monkeypatch):
    p = pipeline(tmp_path, save_minutes=0)
    fail_at(p, 2, ValueError("the first"))
    monkeypatch.setattr(p, "save", lambda: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.warns(match="while saving step 2: disk full"):
        with pytest.raises(ValueError, match="the first"):
            p.fit()


def compiler(fail=lambda compiled: False):
    """A backend that leaves the graph as it is, and fails where it is asked to."""
    seen = {"compiled": 0, "called": 0}

    def backend(graph, inputs):
        seen["compiled"] += 1
        if fail(seen["compiled"]):
            raise RuntimeError("C++ compile error\n\nOutput:\na.h:2: fatal error: no Python.h\nend")

        def call(*args):
            seen["called"] += 1
            return graph(*args)

        return call

    return backend, seen


@pytest.fixture
def compile_with(monkeypatch):
    """Compile with a backend of one's own in place of inductor."""
    torch.compiler.reset()

    def use(**options):
        backend, seen = compiler(**options)
        monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: backend)
        return seen

    yield use
    torch.compiler.reset()


def test_a_compiler_that_fails_is_named_and_training_continues_bit_equal(compile_with):
    plain = pipeline(batch_size=4)
    plain.fit()
    seen = compile_with(fail=lambda compiled: True)
    p = pipeline(batch_size=4, compile=True)
    with pytest.warns(match="torch.compile failed .*no Python.h.*goes on without it") as said:
        p.fit()
    assert len([w for w in said if "torch.compile failed" in str(w.message)]) == 1
    assert "\n" not in str(said[0].message) and seen["compiled"] == 1
    assert [r.loss for r in p.history] == [r.loss for r in plain.history]
    assert same(p.model, plain.model) and same(p.ema_model, plain.ema_model)


def test_an_error_that_is_not_the_compilers_is_raised_as_it_is(compile_with, tmp_path):
    compile_with()
    p = pipeline(tmp_path, batch_size=4, compile=True)
    compiled = p.net
    loss = p.diffusion.loss

    def wrong(*args, **options):
        if p.step == 2:
            raise KeyError("a mistake")
        return loss(*args, **options)

    p.diffusion.loss = wrong
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError, match="a mistake"):
            p.fit()
    assert p.net is compiled and checkpoint.newest(tmp_path)[1]["step"] == 2


def test_a_network_that_the_caller_compiled_trains_as_it_is_called(tmp_path):
    torch.compiler.reset()
    backend, seen = compiler()
    plain = pipeline(batch_size=4)
    plain.fit()
    p = pipeline(batch_size=4)
    wrapped = type(p)(
        torch.compile(p.model, backend=backend), p.diffusion, p.dataset, p.config, tmp_path
    )
    wrapped.fit()
    assert seen["called"] == 9 and same(wrapped.model, plain.model)
    again = pipeline(tmp_path, batch_size=4)
    again.resume()
    assert same(again.model, plain.model)
