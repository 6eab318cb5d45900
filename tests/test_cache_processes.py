"""Several processes and one cache: one builds it, a killed one is replaced, all read the same."""

import hashlib
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from ddpm_helpers.data import cache
from ddpm_helpers.data.collection import Collection

COUNT, SIZE = 40, 8
forked = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")


def pixels(k):
    return np.random.default_rng(k).integers(0, 256, (1, 3, SIZE, SIZE), np.uint8)


EXPECTED = hashlib.sha256(b"".join(pixels(k).tobytes() for k in range(COUNT))).hexdigest()


def slow_images(folder, pause):
    """Images that come slowly; every start of reading them leaves a file behind."""

    def chunks():
        (folder / f"started-{os.getpid()}").touch()
        for k in range(COUNT):
            time.sleep(pause)
            yield pixels(k), np.array([k % 2])

    return Collection("slow images", {"kind": "slow"}, lambda size: (("a", "b"), chunks()))


def open_it(folder, pause, answers):
    found = cache.load(slow_images(folder, pause), (3, SIZE, SIZE), folder / "cache")
    answers.put(hashlib.sha256(np.ascontiguousarray(found.images)).hexdigest())


def started(folder):
    return list(folder.glob("started-*"))


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "nothing happened for a minute"
        time.sleep(0.02)


def test_one_process_builds_the_cache_and_all_see_the_same(tmp_path):
    folder = tmp_path / "with space ü 图"
    folder.mkdir()
    answers = forked.Queue()
    crowd = [forked.Process(target=open_it, args=(folder, 0.01, answers)) for _ in range(4)]
    for process in crowd:
        process.start()
    assert [answers.get(timeout=100) for _ in crowd] == [EXPECTED] * 4
    for process in crowd:
        process.join(20)
    assert len(started(folder)) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills with SIGKILL")
def test_a_waiting_process_says_so_and_takes_over_from_a_killed_builder(tmp_path, capfd):
    answers = forked.Queue()
    builder = forked.Process(target=open_it, args=(tmp_path, 0.05, answers))
    builder.start()
    wait_for(lambda: started(tmp_path))
    waiter = forked.Process(target=open_it, args=(tmp_path, 0, answers))
    waiter.start()
    said = ""

    def waits():
        nonlocal said
        said += capfd.readouterr().out
        return "another process is making the cache of slow images: waiting" in said

    wait_for(waits)
    assert len(started(tmp_path)) == 1 and not list((tmp_path / "cache").glob("*.json"))
    os.kill(builder.pid, signal.SIGKILL)
    assert answers.get(timeout=20) == EXPECTED
    waiter.join(20)
    builder.join(20)
    assert len(started(tmp_path)) == 2
    assert not list((tmp_path / "cache").glob("*.part"))
