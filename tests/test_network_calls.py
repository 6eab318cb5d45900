"""How often the samplers call the network, against a network that counts."""

import numpy as np
import pytest

from ddpm_helpers.diffusion import SAMPLERS, DiffusionUtils, network_calls

SHAPE = (1, 2, 2)


@pytest.mark.parametrize(
    ("sampler", "calls"), [("ddpm", 10), ("ddim", 10), ("dpm++", 10), ("heun", 19)]
)
def test_the_number_of_network_calls_on_even_noise_levels(sampler, calls):
    d, seen = DiffusionUtils(100, "linear"), []

    def model(x_t, t):
        seen.append(int(t[0]))
        return x_t

    d.sample(model, 1, sampler=sampler, steps=10, seed=0, shape=SHAPE)
    assert len(seen) == calls and min(seen) == 10 and max(seen) == 100  # never at t = 0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_network_calls_counts_what_the_sampler_asks(sampler, schedule):
    d, seen = DiffusionUtils(500, schedule), []

    def model(x_t, t):
        seen.append(int(t[0]))
        return x_t

    for steps in (1, 2, 5, 10, 20, 50, [490, 480, 300, 20, 1], np.array([400, 30])):
        for spacing in ("trailing", "leading"):
            seen.clear()
            options = {"sampler": sampler, "steps": steps, "spacing": spacing}
            d.sample(model, 1, seed=0, shape=SHAPE, **options)
            assert network_calls(d, steps, sampler, spacing) == len(seen), (steps, spacing)


def test_network_calls_refuses_what_a_walk_refuses():
    d = DiffusionUtils(10)
    for arguments, words in (((11,), "in 1..10, got 11"), ((5, "euler"), "unknown sampler")):
        with pytest.raises(ValueError, match=words):
            network_calls(d, *arguments)
