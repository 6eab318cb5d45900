"""1, 2 and 4 processes train the same; accumulation too; one process writes."""

import multiprocessing
import signal
import socket
import sys

import pytest
import torch
from toy_training import PRELOAD, TwoColours, be_struck, pipeline, run_as, run_command, same

from ddpm_helpers.training import checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forkserver and gloo")


@pytest.fixture(scope="module")
def whole():
    p = pipeline()
    p.fit()
    return p


def start(target, world, *args):
    """Run `world` real processes over gloo to their ends; returns their exit statuses."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=target, args=(k, world, port, *args)) for k in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]


def train(world, folder, stop=9, **changes):
    """Train on `world` processes until step `stop`; returns the state that they saved."""
    assert start(run_as, world, folder, stop, changes) == [0] * world
    return checkpoint.newest(folder)[1]


def close(state, whole):
    """Losses within 1e-5, and weights as near as sums in another order can be."""
    losses = [record["loss"] for record in state["history"]]
    assert losses == pytest.approx([r.loss for r in whole.history], abs=1e-5, rel=0)
    weights = whole.model.state_dict()
    assert all(torch.allclose(v, weights[k], atol=1e-3) for k, v in state["model"].items())


@pytest.mark.parametrize(("world", "changes"), [(2, {"accumulate": 2}), (4, {})])
def test_any_number_of_processes_trains_the_same(world, changes, whole, tmp_path):
    close(train(world, tmp_path, **changes), whole)


def test_a_run_goes_from_two_processes_to_one_and_back(whole, tmp_path):
    assert train(2, tmp_path, stop=2)["step"] == 2
    assert train(1, tmp_path, stop=4)["step"] == 4
    close(train(2, tmp_path), whole)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 9


def test_on_the_command_line_one_process_writes_and_speaks(tmp_path):
    tiny = "--image-size 16 --width 8 --timesteps 10 --limit 16 --batch-size 8 --warmup-steps 1"
    words = ["train", "--preset", "ci", "--data", "cartoons", *tiny.split()]
    assert start(run_command, 2, tmp_path, words) == [0, 0]
    assert (tmp_path / "0" / "checkpoint.pt").exists() and not (tmp_path / "1").exists()
    assert "2 steps" in (tmp_path / "said_0").read_text()
    assert (tmp_path / "said_1").read_text() == ""


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    assert start(be_struck, 2, tmp_path, signal.SIGTERM) == [3, 3]
    assert checkpoint.newest(tmp_path)[1]["step"] == 3


def test_a_process_that_dies_ends_the_others_with_an_error(tmp_path):
    first, second = start(be_struck, 2, tmp_path, signal.SIGKILL)
    assert second == -signal.SIGKILL and first == 1  # not 0, and no hang


@pytest.mark.parametrize("parts", [2, 4, 7])
def test_accumulation_trains_the_same_also_with_more_parts_than_pictures(parts, whole):
    p = pipeline(accumulate=parts)
    p.fit()
    losses = [r.loss for r in p.history]
    assert losses == pytest.approx([r.loss for r in whole.history], abs=1e-5, rel=0)
    assert [r.quarters for r in p.history] == [
        pytest.approx(r.quarters, abs=1e-5, nan_ok=True) for r in whole.history
    ]


def test_accumulation_needs_the_memory_of_one_part():
    p, sizes = pipeline(accumulate=3), []
    loss = p.diffusion.loss

    def watched(model, x_0, t, eps, y, **options):
        sizes.append(len(x_0))
        return loss(model, x_0, t, eps, y, **options)

    p.diffusion.loss = watched
    next(p.steps())
    assert sizes == [1, 2, 2]


def test_a_resumed_run_with_accumulation_is_bit_equal(tmp_path):
    whole, first, second = pipeline(accumulate=2), *(pipeline(tmp_path, accumulate=2) for _ in "ab")
    whole.fit()
    for record in first.steps():
        if record.step == 4:
            break
    first.save()
    second.resume()
    second.fit()
    assert same(second.model, whole.model) and same(second.ema_model, whole.ema_model)
    assert [r.loss for r in second.history] == [r.loss for r in whole.history]


@pytest.mark.parametrize("batch", [1, 5, 10])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 8])
def test_the_parts_of_a_batch_are_the_batch_in_order(batch, accumulate):
    rows = torch.arange(batch)
    parts = pipeline(accumulate=accumulate)._parts(batch)
    assert torch.cat([rows[part] for part, weight, _ in parts if weight]).equal(rows)


def test_loss_per_quarter_is_the_mean_over_its_pictures():
    p = pipeline(batch_size=12, timesteps=8)
    seen = {}
    loss = p.diffusion.loss

    def watched(model, x_0, t, eps, y, **options):
        seen["t"], seen["losses"] = t, loss(model, x_0, t, eps, y, **options)
        return seen["losses"]

    p.diffusion.loss = watched
    record = next(p.steps())
    assert len(TwoColours()) == len(seen["t"])
    for k in range(4):
        mine = [v.item() for t, v in zip(seen["t"], seen["losses"], strict=True)
                if 2 * k < t <= 2 * k + 2]  # fmt: skip
        expected = sum(mine) / len(mine) if mine else float("nan")
        assert record.quarters[k] == pytest.approx(expected, nan_ok=True)
