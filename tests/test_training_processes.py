"""Real processes: several train the same as one, and kills lose nothing that was saved."""

import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from toy_training import PRELOAD, TINY, be_struck, pipeline, run_as, run_to_the_end, same_run

from ddpm_helpers.training import checkpoint

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="forkserver, gloo and POSIX signals"),
    pytest.mark.usefixtures("signals_as_in_a_terminal"),
]
EPOCHS = {"epochs": 16}  # 48 updates, a checkpoint every 3


@pytest.fixture(scope="module")
def processes():
    """Starts processes that have torch imported already, and nothing running in it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


@pytest.fixture(scope="module")
def start(processes):
    """Run `world` real processes over gloo to their ends; returns their exit statuses."""

    def run(target, world, *args):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ranks = [processes.Process(target=target, args=(k, world, port, *args))
                 for k in range(world)]  # fmt: skip
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(120)
        return [process.exitcode for process in ranks]

    return run


@pytest.mark.parametrize("parts", [
    [(2, 2, {"accumulate": 2}), (1, 4, {}), (2, 9, {})],
    pytest.param([(4, 9, {})], marks=pytest.mark.slow),
])  # fmt: skip
def test_several_processes_train_the_same_as_one(start, tmp_path, whole, parts):
    for world, stop, changes in parts:
        assert start(run_as, world, tmp_path, stop, changes) == [0] * world
        state = checkpoint.find(tmp_path)[1]
        assert state["step"] == stop
    losses, weights = [r["loss"] for r in state["history"]], whole.model.state_dict()
    assert losses == pytest.approx([r.loss for r in whole.history], abs=1e-5, rel=0)
    assert all(torch.allclose(v, weights[k], atol=1e-3) for k, v in state["model"].items())
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 9


@pytest.mark.slow
def test_the_command_of_the_documentation_starts_two_processes(root, tmp_path):
    """`torchrun --nproc_per_node 2 -m ddpm_helpers train …`, as it stands in docs/training.md."""
    line = next(line for line in (root / "docs" / "training.md").read_text().splitlines()
                if line.startswith("torchrun "))  # fmt: skip
    words = line.split("#")[0].split()
    assert words[:6] == "torchrun --nproc_per_node 2 -m ddpm_helpers train".split()
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:], *TINY.split()]
    env = os.environ | {"DDPM_CACHE": str(tmp_path / "cache"), "DDPM_PRESET": "ci",
                        "DDPM_DATA": "cartoons", "PYTHONPATH": str(root)}  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cpu, 2 processes, writing to runs/") == 1


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_update(start, tmp_path):
    assert start(be_struck, 2, tmp_path, signal.SIGTERM) == [-signal.SIGTERM] * 2
    assert checkpoint.find(tmp_path)[1]["step"] == 2


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_with_an_error(start, tmp_path):
    first, second = start(be_struck, 2, tmp_path, signal.SIGKILL)
    assert second == -signal.SIGKILL and first == 1  # not 0, and no hang


def interrupt(processes, folder, how, times):
    """Train in processes of which each is stopped at a random moment, then to the end."""
    chance, step = random.Random(how), processes.Value("q", 0)
    for _ in range(times):
        process = processes.Process(target=run_to_the_end, args=(folder, step, EPOCHS))
        process.start()
        wait_until = step.value + chance.randint(1, 5)
        while step.value < wait_until and process.is_alive():
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        os.kill(process.pid, how)
        process.join(300)
        saved = checkpoint.find(folder)[1]["step"]
        assert saved < 48
        yield process.exitcode, step.value, saved
        step.value = saved
    process = processes.Process(target=run_to_the_end, args=(folder, step, EPOCHS))
    process.start()
    process.join(300)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("how, times", [
    *((how, 1) for how in ("SIGKILL", "SIGINT", "SIGTERM", "SIGHUP")),
    *(pytest.param(how, 6, marks=pytest.mark.slow) for how in ("SIGKILL", "SIGINT")),
])  # fmt: skip
def test_a_run_that_was_stopped_ends_with_the_same_bits(processes, tmp_path, how, times):
    how = getattr(signal, how)
    for code, reached, saved in interrupt(processes, tmp_path, how, times):
        if how == signal.SIGKILL:  # it costs at most what came after the last checkpoint
            assert code == -how and reached - reached % 3 <= saved <= reached + 1
        else:  # the update is finished and saved; then the signal has its usual effect
            assert code == (1 if how == signal.SIGINT else -how) and saved == reached
    whole, p = pipeline(**EPOCHS), pipeline(tmp_path, **EPOCHS)
    whole.fit()
    p.resume()
    assert p.step == 48 and same_run(p, whole) and not list(tmp_path.glob("*.tmp"))
