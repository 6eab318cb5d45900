"""The learning rate of each update."""

import math

import pytest

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.training import learning_rate


def test_cosine_in_closed_form():
    config = TrainConfig(lr=1.0, warmup_steps=10)
    rates = [learning_rate(k, 110, config) for k in range(1, 111)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[59] == pytest.approx(0.5) and rates[-1] == pytest.approx(0)
    assert rates[34] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(200, 110, config) == rates[-1]  # beyond the end


def test_wsd_is_constant_and_then_linear_to_0_over_the_last_fifth():
    config = TrainConfig(lr=1.0, warmup_steps=10, lr_schedule="wsd")
    rates = [learning_rate(k, 100, config) for k in range(1, 101)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[9:80] == [1.0] * 71
    assert rates[80:] == pytest.approx([1 - k / 20 for k in range(1, 21)])  # 0.95 ... 0
    assert learning_rate(200, 100, config) == 0
    longer = [learning_rate(k, 200, config) for k in range(1, 81)]
    assert longer == rates[:80]  # what was trained before the decay serves any later end


def test_the_warm_up_takes_at_most_a_third_of_a_short_run():
    config = TrainConfig(lr=1.0, warmup_steps=200)
    rates = [learning_rate(k, 30, config) for k in range(1, 31)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] == pytest.approx(0)
    assert learning_rate(1, 1, config) <= 1
