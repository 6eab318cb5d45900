"""Networks in other precisions than float32: sampling, loss, likelihood and editing."""

import pytest
import torch

from ddpm_helpers.diffusion import SAMPLERS, DiffusionUtils
from ddpm_helpers.diffusion.editing import ddim_invert, inpaint, sdedit
from ddpm_helpers.diffusion.likelihood import bits_per_dim
from ddpm_helpers.model import DiffusionNet

# What comes back, and how far it may be from float32: a few of the dtype's own roundings.
KINDS = [(torch.float64, torch.float64, 1e-5), (torch.float16, torch.float32, 2e-2),
         (torch.bfloat16, torch.float32, 1e-1)]  # fmt: skip
D = DiffusionUtils(50, prediction="v")


def network(kind=torch.float32):
    net = DiffusionNet(16, width=8, num_classes=2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    net.classes = ("cat", "dog")
    return net.to(kind).eval()


def images(kind=torch.float32):
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(kind) * 2 - 1


@pytest.mark.parametrize(("kind", "result", "far"), KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_the_same_images_in_every_precision(kind, result, far, sampler):
    options = {"y": ["cat", "dog"], "guidance": 2.0, "seed": 0, "steps": 4, "sampler": sampler}
    want, seen = D.sample(network(), 2, **options), []
    net = network(kind)
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    got = D.sample(net, 2, **options)
    assert got.dtype == result and set(seen) == {kind}
    torch.testing.assert_close(got, want.to(result), rtol=0, atol=far)


@pytest.mark.parametrize(("kind", "result", "far"), KINDS)
@pytest.mark.parametrize("given", ["float32", "the network's"])
def test_loss_and_its_gradient_in_every_precision(kind, result, far, given):
    t, eps, net = torch.tensor([3, 40]), images().flip(0), network(kind)
    want = D.loss(network(), images(), t, eps, torch.tensor([0, 1]))
    x_0, eps = (x.to(torch.float32 if given == "float32" else kind) for x in (images(), eps))
    got = D.loss(net, x_0, t, eps, ["cat", "dog"])
    assert got.dtype == (result if given != "float32" else torch.float32)
    torch.testing.assert_close(got, want.to(got), rtol=far, atol=0)
    got.sum().backward()
    assert net.gate.weight.grad.dtype == kind and net.gate.weight.grad.any()


@pytest.mark.parametrize(("kind", "result", "far"), KINDS)
def test_likelihood_and_editing_in_every_precision(kind, result, far):
    x, net = images(), network(kind)
    bits = bits_per_dim(D, net, x, "dog", ts=[5])
    want = bits_per_dim(D, network(), x, 1, ts=[5])
    torch.testing.assert_close(bits.total, want.total, rtol=2 * far, atol=0)
    hidden = torch.ones(16, 16)
    for function, more in ((sdedit, [20]), (inpaint, [hidden]), (ddim_invert, [])):
        options = {"steps": 3, "y": "dog"} | ({} if function is ddim_invert else {"seed": 0})
        got, want_x = (function(D, one, x, *more, **options) for one in (net, network()))
        assert got.dtype == result
        torch.testing.assert_close(got, want_x.to(result), rtol=0, atol=2 * far)


def test_a_model_without_parameters_works_in_the_precision_of_its_start():
    x_T = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    assert D.sample(lambda x, t: x, 1, x_T=x_T, seed=0).dtype == torch.float64
    assert D.sample(lambda x, t: x, 1, x_T=x_T.half(), seed=0).dtype == torch.float32
