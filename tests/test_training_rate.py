"""The learning rate of each update, and what a resumed run says about it."""

import math

import pytest
from toy_training import pipeline, stop_after

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.training import learning_rate
from ddpm_helpers.training.optim import describe_change


def test_cosine_and_constant_in_closed_form():
    config = TrainConfig(lr=1.0, warmup_steps=10)
    rates = [learning_rate(k, 110, config) for k in range(1, 111)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[59] == pytest.approx(0.5) and rates[-1] == pytest.approx(0)
    assert rates[34] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(200, 110, config) == rates[-1]  # beyond the end
    constant = TrainConfig(lr=1.0, warmup_steps=0, lr_schedule="constant")
    assert [learning_rate(k, 9, constant) for k in (1, 9)] == [1.0, 1.0]


def test_wsd_is_constant_and_then_linear_to_0_over_the_last_fifth():
    config = TrainConfig(lr=1.0, warmup_steps=10, lr_schedule="wsd")
    rates = [learning_rate(k, 100, config) for k in range(1, 101)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[9:80] == [1.0] * 71
    assert rates[80:] == pytest.approx([1 - k / 20 for k in range(1, 21)])  # 0.95 ... 0
    assert learning_rate(200, 100, config) == 0
    longer = [learning_rate(k, 200, config) for k in range(1, 81)]
    assert longer == rates[:80]  # what was trained before the decay serves any later end


def test_a_constant_run_is_resumed_with_wsd_and_its_end_can_be_moved(tmp_path, capsys):
    stop_after(pipeline(tmp_path, lr_schedule="constant", epochs=20), 12).save()
    second = pipeline(tmp_path, lr_schedule="wsd", epochs=5)  # 15 updates
    second.resume()
    assert capsys.readouterr().err == "learning rate at step 13: 0.002, was 0.003 before\n"
    second.fit()
    rates = [r.lr / 3e-3 for r in second.history]
    assert rates[2:12] == [1.0] * 10 and rates[12:] == pytest.approx([2 / 3, 1 / 3, 0])


@pytest.mark.parametrize("epochs, line", [
    (3, ""), (6, "learning rate at step 10: 0.0015, was 0 before"),
])  # fmt: skip
def test_extending_a_finished_run_says_that_the_learning_rate_rises(epochs, line):
    done, longer = pipeline(), pipeline(epochs=epochs)
    assert describe_change(9, 3, done.config, longer.config) == line
