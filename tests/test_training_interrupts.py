"""Real processes, real signals at random moments: nothing that was saved is ever lost."""

import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
from toy_training import PRELOAD, pipeline, run_legs, same

from ddpm_helpers.training import checkpoint

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
    pytest.mark.usefixtures("signals_as_in_a_terminal"),
]
CHANGES = {"epochs": 16}  # 48 steps, a checkpoint every 3


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have torch imported already, and nothing running in it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@pytest.fixture(scope="module")
def whole():
    p = pipeline(**CHANGES)
    p.fit()
    return p


def interrupt_six_times(processes, folder, how):
    """Train in processes of which each is stopped at a random moment; check what is left of it."""
    chance, step = random.Random(how), processes.Value("q", 0)
    for _ in range(6):
        start = step.value
        process = processes.Process(target=run_legs, args=(folder, step, CHANGES))
        process.start()
        wait_until = start + chance.randint(1, 5)
        while step.value < wait_until and process.is_alive():
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        os.kill(process.pid, how)
        if how != signal.SIGKILL:  # and once more, during the save
            time.sleep(chance.random() * 0.02)
            os.kill(process.pid, how)
        process.join(300)
        yield process.exitcode, step.value
        found = checkpoint.newest(folder)
        step.value = found[1]["step"]
    process = processes.Process(target=run_legs, args=(folder, step, CHANGES))
    process.start()
    process.join(300)


@pytest.mark.filterwarnings("error")
def test_kill_9_costs_at_most_one_interval_and_the_end_is_bit_equal(processes, whole, tmp_path):
    for code, reached in interrupt_six_times(processes, tmp_path, signal.SIGKILL):
        assert code == -signal.SIGKILL
        state = checkpoint.newest(tmp_path)[1]
        assert reached - reached % 3 <= state["step"] <= reached + 1
    check_end(tmp_path, whole)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_returns(processes, whole, tmp_path, how):
    for code, reached in interrupt_six_times(processes, tmp_path, how):
        assert code == 0  # fit returned, and so did the process
        assert checkpoint.newest(tmp_path)[1]["step"] == reached < whole.total_steps
    check_end(tmp_path, whole)


def check_end(folder, whole):
    p = pipeline(folder, **CHANGES)
    p.resume()
    assert p.step == whole.total_steps
    assert same(p.model, whole.model) and same(p.ema_model, whole.ema_model)
    assert [r.loss for r in p.history] == [r.loss for r in whole.history]
    assert not list(folder.glob("*.tmp"))


def test_in_the_callers_own_loop_the_step_is_saved_before_the_interrupt_arrives(tmp_path):
    p = pipeline(tmp_path, save_every=0)
    loss = p.diffusion.loss

    def interrupted(*args, **options):
        if p.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*args, **options)

    p.diffusion.loss = interrupted
    with pytest.raises(KeyboardInterrupt):
        for _ in p.steps():
            pass
    assert p.step == 5 == checkpoint.newest(tmp_path)[1]["step"] == len(p.history)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(p.fit()) == p.total_steps  # the kernel lives, and the run goes on


def test_fit_says_how_it_was_stopped(tmp_path, capsys):
    p = pipeline(tmp_path)
    history = p.fit(watch=lambda p, record: record.step == 2 and os.kill(os.getpid(), 15))
    assert len(history) == 3 and p.stopped_by == signal.SIGTERM
    assert "SIGTERM: stopped after step 3 of 9; saved" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interrupt_while_the_last_step_is_saved_arrives(tmp_path):
    p = pipeline(tmp_path)
    save = p.save

    def interrupted(*args):
        if p.step == p.total_steps:
            os.kill(os.getpid(), signal.SIGINT)
        return save(*args)

    p.save = interrupted
    with pytest.raises(KeyboardInterrupt):
        for _ in p.steps():
            pass
    assert checkpoint.newest(tmp_path)[1]["step"] == p.total_steps


def test_an_interrupt_of_a_loop_that_was_left_does_not_stop_the_next_one():
    p = pipeline()
    p._signals.asked = signal.SIGINT  # as one that came after the last look
    assert len(p.fit()) == p.total_steps and p.stopped_by is None


def test_a_signal_that_the_process_ignores_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    p = pipeline()
    p.fit(watch=lambda p, record: record.step == 2 and os.kill(os.getpid(), signal.SIGINT))
    assert p.step == p.total_steps and p.stopped_by is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
