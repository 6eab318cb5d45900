"""The samplers and the noise of draw.html beside Python's, run by Node: no browser, no network."""

import math

import javascript
import numpy as np
import pytest
import torch

from ddpm_helpers.diffusion import DiffusionUtils, picture_noise
from ddpm_helpers.diffusion.editing import sdedit

pytestmark = javascript.needs_node
SHAPE = (3, 8, 8)
SIZE = math.prod(SHAPE)


def node(script, **given):
    imports = {"js": "draw/samplers.js", "noises": "draw/noise.js"}
    return javascript.node(script, imports, **given)


class Toy(torch.nn.Module):
    """A network in closed form, which both languages can write: it uses x_t, t and y."""

    image_shape, num_classes = SHAPE, 10

    def forward(self, x_t, t, y=None):
        y = torch.full_like(t, -1) if y is None else y
        a, b = torch.cos(t / 7.0 + y)[:, None, None, None], torch.sin(t / 9.0 - y)
        return a * x_t * 0.5 + torch.tanh(2 * x_t) * b[:, None, None, None]


TOY = """
const network = async (x, t, labels) => {
  const n = x.length / labels.length;
  return x.map((v, i) => {
    const y = labels[Math.floor(i / n)] ?? -1;
    return Math.cos(t / 7 + y) * v * 0.5 + Math.tanh(2 * v) * Math.sin(t / 9 - y);
  });
};
const last = async (walk) => { let x; for await (const { x_t } of walk) x = x_t; return x; };
"""
WALK = (
    TOY
    + """
const noise = noises.pictureNoise(seed, 0, size);
const denoise = js.denoiser(network, { bar, prediction }, y, guidance);
const ts = js.subSequence(start_step ?? bar.length - 1, steps);
const eps = noise();
const start = doodle ? js.addNoise(bar, new Float32Array(doodle), start_step, eps) : eps;
const x = await last(js.SAMPLERS[sampler](bar, denoise, start, ts, noise));
console.log(JSON.stringify(Array.from(x)));
"""
)


@pytest.mark.parametrize("seed, picture", [(0, 0), (7, 3), (2**32 - 1, 1), (2**40 + 5, 12)])
@pytest.mark.parametrize("size", [16, 27, 3072])
def test_a_seed_gives_the_noise_that_it_gives_in_python(seed, picture, size):
    found = node(
        "const noise = noises.pictureNoise(seed, picture, size);"
        "console.log(JSON.stringify([noise(), noise()].map((z) => Array.from(z))));",
        seed=seed, picture=picture, size=size,
    )  # fmt: skip
    draw = picture_noise(seed, 1, (1, 1, size), torch.device("cpu"), first=picture)
    np.testing.assert_allclose(found, [draw().flatten().numpy() for _ in range(2)], atol=2e-6)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpm++"])
@pytest.mark.parametrize(
    "diffusion, y, guidance",
    [
        (DiffusionUtils(60, prediction="v"), 4, 2.5),
        (DiffusionUtils(60, "shifted_cosine", prediction="x_0"), 1, 1.0),
        (DiffusionUtils(60, "linear", prediction="eps"), None, 1.0),
        (DiffusionUtils(60, prediction="v", rescale_zero_snr=True), 2, 2.0),
    ],
    ids=["guided", "labelled", "no labels", "zero terminal SNR"],
)
def test_samplers_take_the_same_steps_as_in_python(sampler, diffusion, y, guidance):
    options = {"sampler": sampler, "steps": 15, "guidance": guidance, "seed": 5}
    found = walked(diffusion, y, options)
    wanted = diffusion.sample(Toy(), 1, y=y, **options).flatten().numpy()
    assert np.abs(wanted).mean() > 0.05
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def walked(diffusion, y, options, doodle=None, start=None):
    return node(
        WALK, y=y, bar=diffusion.alpha_bar.tolist(), prediction=diffusion.prediction,
        size=SIZE, doodle=doodle, **options, start_step=start,
    )  # fmt: skip


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++"])
def test_a_doodle_is_redrawn_as_sdedit_does(sampler):
    diffusion = DiffusionUtils(60, prediction="v")
    doodle = torch.linspace(-1, 1, SIZE).reshape(1, *SHAPE)
    options = {"sampler": sampler, "steps": 9, "guidance": 2.0, "seed": 3}
    found = walked(diffusion, 6, options, doodle.flatten().tolist(), 41)
    wanted = sdedit(diffusion, Toy(), doodle, 41, y=6, **options).flatten().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_the_samplers_can_be_read_in_one_sitting(root):
    lines = (root / "docs/web/draw/samplers.js").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 110
