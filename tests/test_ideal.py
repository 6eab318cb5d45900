"""The ideal denoiser: brute force, closed forms, limits, and its use in place of a network."""

import math

import numpy as np
import pytest
import torch

from ddpm_helpers.diffusion import SAMPLERS, DiffusionUtils, IdealDenoiser, ideal

PROCESSES = {
    "eps": DiffusionUtils(50),
    "x_0": DiffusionUtils(50, "linear", prediction="x_0", rescale_zero_snr=True),
    "v": DiffusionUtils(50, prediction="v", rescale_zero_snr=True),
    "flow": DiffusionUtils(50, "flow", prediction="flow"),
}


def bytes_of_images(n=30, shape=(3, 4, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)


def noised(d, images, t, seed=1):
    """x_t of the first images at the timesteps t, in float64."""
    x_0 = images[: len(t)].double()
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return d.add_noise(x_0, t, eps)[0]


def by_hand(d, images, x_t, t):
    """Weights and mean of one x_t, term by term from the definition; t in 1..T."""
    bar = d.alpha_bar[t].item()
    distances = [(x_t - math.sqrt(bar) * x).square().sum().item() for x in images.double()]
    powers = [math.exp(-(one - min(distances)) / (2 * (1 - bar))) for one in distances]
    w = torch.tensor(powers, dtype=torch.float64) / sum(powers)
    return w, sum(share * x for share, x in zip(w, images.double(), strict=True))


@pytest.mark.parametrize("prediction", PROCESSES)
@pytest.mark.parametrize("given", ["uint8", "float"])
def test_weights_and_predictions_are_those_of_the_definition(prediction, given, monkeypatch):
    monkeypatch.setattr(ideal, "BLOCK", 7 * 48)  # 30 images in blocks of 7
    monkeypatch.setattr(ideal, "ROWS", 4)
    d, pixels = PROCESSES[prediction], bytes_of_images()
    x = pixels.double() / 127.5 - 1
    model = IdealDenoiser(d, pixels if given == "uint8" else x)
    t = torch.tensor([1, 2, 5, 20, 35, 45, 48, 49, 50])
    x_t = noised(d, x, t)
    weights, output = model.weights(x_t, t), model(x_t, t)
    for k, step in enumerate(t.tolist()):
        w, mean = by_hand(d, x, x_t[k], step)
        assert torch.allclose(weights[k], w, rtol=1e-9, atol=1e-12)
        assert torch.allclose(model.mean(x_t, t)[k], mean, atol=1e-10)
        bar = d.alpha_bar[step]
        eps = (x_t[k] - bar.sqrt() * mean) / (1 - bar).sqrt()
        right = {"eps": eps, "x_0": mean, "flow": eps - mean,
                 "v": bar.sqrt() * eps - (1 - bar).sqrt() * mean}  # fmt: skip
        assert torch.allclose(output[k], right[prediction], atol=1e-9)
        entropy = -(w[w > 0] * w[w > 0].log()).sum()
        assert model.possible(x_t, t)[k].item() == pytest.approx(math.exp(entropy), rel=1e-9)
    assert model(x_t.float(), t).dtype == torch.float32


@pytest.mark.parametrize("prediction", PROCESSES)
def test_at_0_the_nearest_image_is_left_and_at_T_all_of_them(prediction):
    d, pixels = PROCESSES[prediction], bytes_of_images()
    x = pixels.float() / 127.5 - 1
    model = IdealDenoiser(d, pixels)
    near = (x[:5] + 0.1 * torch.sin(torch.arange(48.0)).reshape(3, 4, 4)).clamp(-1, 1)
    zero, last = torch.zeros(5, dtype=torch.int64), torch.full((5,), 50)
    assert torch.allclose(model.mean(near, zero), x[:5], atol=1e-7)
    assert torch.equal(model.weights(near, zero).argmax(1), torch.arange(5))
    assert torch.equal(model.possible(near, zero), torch.ones(5, dtype=torch.float64))
    target = d.target(x[:5], torch.zeros_like(near), zero)
    assert torch.allclose(model(near, zero), target, atol=1e-7)  # eps is 0: x_0 holds no noise
    if d.alpha_bar[-1] == 0:
        assert torch.allclose(model.mean(near, last), x.mean(0).expand(5, -1, -1, -1), atol=1e-6)
        assert torch.allclose(model.possible(near, last), torch.tensor(30.0).double())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PROCESSES)
def test_every_sampler_ends_at_an_image_of_the_set(sampler, prediction):
    pixels = bytes_of_images(20, (3, 8, 8))
    model = IdealDenoiser(PROCESSES[prediction], pixels)
    drawn = model.diffusion.sample(model, 6, sampler=sampler, seed=0)
    x = pixels.float() / 127.5 - 1
    distance = (drawn[:, None] - x[None]).flatten(2).abs().amax(2)  # (6, 20)
    assert distance.amin(1).max() < 1e-5
    assert len(distance.argmin(1).unique()) > 1


def test_its_loss_is_the_least_that_any_network_can_reach():
    """Against the best linear function of x_t, on the same noise: every x_0 often enough."""
    d, pixels = DiffusionUtils(100, prediction="x_0"), bytes_of_images(8, (1, 2, 2))
    x = (pixels.float() / 127.5 - 1).repeat(500, 1, 1, 1)
    model = IdealDenoiser(d, pixels)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    mean, variance = x.mean(0), x.var(0)
    for step in (30, 60, 80, 95):
        t, bar = torch.full((len(x),), step), float(d.alpha_bar[step])
        best = math.sqrt(bar) * variance / (bar * variance + 1 - bar)

        def linear(x_t, t, bar=bar, best=best):
            return mean + best * (x_t - math.sqrt(bar) * mean)

        ours = d.loss(model, x, t, eps).mean()
        others = [linear, lambda x_t, t: 0.9 * model(x_t, t), lambda x_t, t: model(x_t, t) + 0.05]
        assert all(ours < d.loss(other, x, t, eps).mean() for other in others), step


def test_labels_restrict_the_set():
    d, pixels = PROCESSES["v"], bytes_of_images(12)
    labels = torch.tensor([0, 1, 2] * 3 + [-1, -1, -1])
    model = IdealDenoiser(d, pixels, labels.tolist())
    model.classes = ("cat", "dog", "ship")
    x_t, t = noised(d, pixels.float() / 127.5 - 1, torch.tensor([45, 47, 49])), None
    t = torch.tensor([45, 47, 49])
    for k in range(3):
        alone = IdealDenoiser(d, pixels[labels == k])
        assert torch.allclose(model(x_t, t, torch.full((3,), k)), alone(x_t, t), atol=1e-12)
        assert torch.equal(model.weights(x_t, t, k)[:, labels != k], torch.zeros(3, 9).double())
    whole = IdealDenoiser(d, pixels)(x_t, t)
    assert torch.equal(model(x_t, t), whole)
    assert torch.equal(model(x_t, t, torch.full((3,), -1)), whole)
    mixed = model(x_t, t, torch.tensor([2, -1, 0]))
    assert torch.allclose(mixed[1], whole[1], atol=1e-12)
    assert torch.equal(model.weights(x_t, t, ["ship"] * 3), model.weights(x_t, t, 2))
    drawn = d.sample(model, 4, y="dog", guidance=1.5, sampler="ddim", seed=0)
    x = pixels.float() / 127.5 - 1
    nearest = (drawn[:, None] - x[None]).flatten(2).square().sum(2).argmin(1)
    assert (labels[nearest] == 1).all()


def test_a_memory_map_is_not_copied(tmp_path):
    pixels = bytes_of_images(9).numpy()
    np.save(tmp_path / "images.npy", pixels)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    model = IdealDenoiser(PROCESSES["eps"], mapped)
    assert model.images.data_ptr() == mapped.ctypes.data
    x_t, t = torch.zeros(1, 3, 4, 4), torch.tensor([40])
    assert torch.equal(model(x_t, t), IdealDenoiser(PROCESSES["eps"], pixels)(x_t, t))


def test_refuses_wrong_arguments():
    d, pixels, x, t = PROCESSES["eps"], bytes_of_images(), torch.zeros(2, 3, 4, 4), torch.arange(2)
    model, labelled = IdealDenoiser(d, pixels), IdealDenoiser(d, pixels, [0, 2] * 15)
    for call, words in (
        (lambda: IdealDenoiser(d, pixels[:0]), r"images .* \(0, 3, 4, 4\)"),
        (lambda: IdealDenoiser(d, pixels[0]), r"images .* \(3, 4, 4\)"),
        (lambda: IdealDenoiser(d, pixels.long()), "images .*int64"),
        (lambda: IdealDenoiser(d, pixels.float() * torch.nan), "images .* NaN"),
        (lambda: IdealDenoiser(d, pixels, [0, 1]), r"\(30,\), one label per image; got \(2,\)"),
        (lambda: IdealDenoiser(d, pixels, torch.zeros(30)), "float32"),
        (lambda: IdealDenoiser(d, pixels, [-2] * 30), "-2"),
        (lambda: model(x[:, :1], t), r"x_t must be \(B, 3, 4, 4\)"),
        (lambda: model.weights(x, t + 50), "t must lie in 0..50, got 50..51"),
        (lambda: model(x, t, 0), "takes no labels"),
        (lambda: labelled(x, t, 1), "label 1"),
        (lambda: labelled(x, t, [0, 2, 0]), r"y must be \(2,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
