"""The network: shapes, what it must depend on, and the two traps at full resolution."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

from ddpm_helpers.model import (
    Decoder,
    DiffusionNet,
    Encoder,
    ResBlock,
    SelfAttention,
    TimeEmbedding,
    Upsample,
    count_parameters,
    timestep_embedding,
)


def small_net(size=32, **options):
    torch.manual_seed(0)
    return DiffusionNet(size, width=8, **options)


def wake(net):
    """Give the zero-initialised layers values, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return net


@pytest.mark.parametrize("size, channels", [(16, 3), (32, 1), (64, 3)])
def test_output_has_the_shape_of_the_input(size, channels):
    net = small_net(size, channels=channels)
    x = torch.randn(2, channels, size, size)
    assert net.image_shape == (channels, size, size)
    assert net(x, torch.tensor([1, 500])).shape == x.shape


def test_stem_of_stride_4_works_at_resnet18s_own_resolution():
    net = small_net(64, stem_stride=4)
    maps = net.encoder(torch.zeros(1, 3, 64, 64), torch.zeros(1, 32))
    assert [m.shape[-1] for m in maps] == [16, 16, 8, 4, 2]
    assert net(torch.zeros(2, 3, 64, 64), torch.tensor([1, 9])).shape == (2, 3, 64, 64)
    resnet = torchvision.models.resnet18()
    theirs = resnet.maxpool(resnet.conv1(torch.zeros(1, 3, 64, 64)))
    assert maps[1].shape[-1] == theirs.shape[-1]


def test_encoder_maps_follow_resnet18():
    maps = Encoder(64, width=64)(torch.zeros(1, 3, 64, 64), torch.zeros(1, 256))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4),
    ]  # fmt: skip


def test_encoder_has_resnet18s_convolutions():
    def kernels(net):
        return [tuple(p.shape) for n, p in net.named_parameters() if p.ndim == 4]

    ours = [k for k in kernels(Encoder(64, width=64, attention_size=0).stages)]
    theirs = [k for k in kernels(torchvision.models.resnet18())[1:]]
    assert sorted(ours) == sorted(theirs)


def test_a_fresh_network_outputs_zero():
    out = small_net()(torch.randn(2, 3, 32, 32), torch.tensor([3, 400]))
    assert torch.equal(out, torch.zeros_like(out))


def test_output_depends_on_the_step_and_on_the_label():
    net = wake(small_net(num_classes=10)).eval()
    x = torch.randn(1, 3, 32, 32).expand(3, -1, -1, -1)
    by_t = net(x, torch.tensor([1, 2, 400]))
    assert (by_t[0] - by_t[1]).abs().max() > 1e-4
    assert (by_t[0] - by_t[2]).abs().max() > 1e-2
    t = torch.tensor([5, 5, 5])
    by_y = net(x, t, torch.tensor([-1, 0, 9]))
    assert (by_y[0] - by_y[1]).abs().max() > 1e-3
    assert (by_y[1] - by_y[2]).abs().max() > 1e-3
    assert torch.allclose(by_y[0], net(x, t, None)[0], atol=1e-5)


def test_images_of_a_batch_do_not_influence_each_other():
    net = wake(small_net())
    x, t = torch.randn(4, 3, 32, 32), torch.tensor([1, 20, 300, 500])
    together = net(x, t)
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


def normalised(x, norm):
    """GroupNorm with 8 channels a group, from the definition."""
    groups = x.reshape(len(x), -1, 8 * x.shape[2] * x.shape[3])  # (B, C/8, 8*H*W)
    mean, variance = groups.mean(2, keepdim=True), groups.var(2, keepdim=True, unbiased=False)
    scale, shift = (p.reshape(1, -1, 1, 1) for p in (norm.weight, norm.bias))
    return ((groups - mean) / (variance + norm.eps).sqrt()).reshape(x.shape) * scale + shift


def random_weights(module):
    torch.manual_seed(0)
    for p in module.double().parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module


@pytest.mark.parametrize("channels", range(8, 129, 8))
def test_attention_equals_torchs_own_at_every_width(channels):
    net, x = random_weights(SelfAttention(channels)), torch.randn(2, channels, 3, 4).double()
    assert channels % 32 or net.heads == channels // 32  # as in the shipped networks
    shape = (2, net.heads, channels // net.heads, 12)
    qkv = F.conv2d(normalised(x, net.norm), net.qkv.weight, net.qkv.bias)
    q, k, v = (part.reshape(shape).mT for part in qkv.chunk(3, dim=1))
    h = F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape)
    torch.testing.assert_close(net(x), x + F.conv2d(h, net.out.weight, net.out.bias))
    assert (net(x) - x).abs().max() > 0.1


@pytest.mark.parametrize("width", [56, 88, 104, 120])
def test_attention_works_at_widths_that_32_does_not_divide(width):
    sizes = {"width": width, "t_dim": 16, "attention_size": 8}
    encoder, decoder = Encoder(16, **sizes), Decoder(16, **sizes)
    assert isinstance(encoder.stages[0].attention, SelfAttention)
    with torch.no_grad():
        out = decoder(encoder(torch.zeros(1, 3, 16, 16), torch.zeros(1, 16)), torch.zeros(1, 16))
    assert out.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(16, 16, 1), (8, 24, 1), (16, 16, 2)])
def test_a_basic_block_computes_its_equations(c_in, c_out, stride):
    net = random_weights(ResBlock(c_in, c_out, 5, stride))
    x, t_emb = torch.randn(2, c_in, 6, 4).double(), torch.randn(2, 5).double()

    def silu(a):
        return a / (1 + (-a).exp())

    h = F.conv2d(silu(normalised(x, net.norm1)), net.conv1.weight, net.conv1.bias, stride, 1)
    rows = (silu(t_emb) @ net.time.weight.T + net.time.bias)[:, :, None, None]
    h = normalised(h, net.norm2) * (1 + rows[:, :c_out]) + rows[:, c_out:]
    h = F.conv2d(silu(h), net.conv2.weight, net.conv2.bias, padding=1)
    shortcut = x
    if c_in != c_out or stride > 1:
        weight, kept = net.shortcut.weight[:, :, 0, 0], x[..., ::stride, ::stride]
        shortcut = torch.einsum("oi,bihw->bohw", weight, kept) + net.shortcut.bias[:, None, None]
    torch.testing.assert_close(net(x, t_emb), h + shortcut)


def test_the_time_embedding_is_computed_in_float32_for_a_network_of_lower_precision():
    """In bfloat16, steps above 256 would run into each other."""
    net, t = random_weights(TimeEmbedding(32)).bfloat16(), torch.tensor([256, 257])
    seen = []
    net.mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    assert net(t).dtype == torch.bfloat16
    torch.testing.assert_close(seen[0], timestep_embedding(t, 32).bfloat16())
    assert not torch.equal(seen[0][0], seen[0][1])


def test_noise_of_single_pixels_can_be_learned_at_full_resolution():
    """White noise shares nothing between neighbours: a lossy stem cannot bring it back."""
    net = small_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    torch.manual_seed(0)
    t = torch.full((16,), 100)
    for _ in range(60):
        x = torch.randn(16, 3, 32, 32)
        loss = (net(x, t) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize("factor", [2, 4])
def test_upsample_leaves_no_checkerboard(factor):
    """A constant map must stay constant inside, where no border is near."""
    up = Upsample(4, 6, factor)
    out = up(torch.ones(1, 4, 8, 8))
    assert out.shape[-1] == 8 * factor
    out = out[..., factor:-factor, factor:-factor]
    spread = out.amax((2, 3)) - out.amin((2, 3))
    assert spread.max() < 1e-5
    bad = torch.nn.ConvTranspose2d(4, 6, 3, 2, padding=1, output_padding=1)
    out = bad(torch.ones(1, 4, 8, 8))[..., 2:-2, 2:-2]
    assert (out.amax((2, 3)) - out.amin((2, 3))).max() > 0.05


def test_timestep_embedding_closed_form():
    emb = timestep_embedding(torch.tensor([0, 7]), 6)
    w = [1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)]
    expected = [math.sin(7 * k) for k in w] + [math.cos(7 * k) for k in w]
    assert torch.allclose(emb[1], torch.tensor(expected), atol=1e-6)
    assert torch.equal(emb[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))


def test_parameter_count_of_the_classic_network():
    assert count_parameters(torch.nn.Linear(3, 4)) == 16
    assert 19e6 < count_parameters(DiffusionNet(64, num_classes=10)) < 24e6


def test_refuses_wrong_arguments():
    net, x, t = small_net(num_classes=3), torch.zeros(1, 3, 32, 32), torch.tensor([1])
    for call, words in (
        (lambda: DiffusionNet(40), "image_size must be a multiple of 16.* 40"),
        (lambda: DiffusionNet(0), "image_size must be a multiple of 16.* 0"),
        (lambda: DiffusionNet(48, stem_stride=4), "image_size must be a multiple of 32.* 48"),
        (lambda: DiffusionNet(64, stem_stride=3), "stem_stride must be 2 or 4, got 3"),
        (lambda: DiffusionNet(32, width=28), "width must be a multiple of 8, got 28"),
        (lambda: DiffusionNet(32, width=8, num_classes=0), "num_classes .* 0"),
        (lambda: timestep_embedding(t, 5), "dim .* 5"),
        (lambda: net(x[..., :16], t), "x_t .* 32, 32.* 32, 16"),
        (lambda: net(x.repeat(2, 1, 1, 1), t), r"t must be \(2,\).* \(1,\)"),
        (lambda: small_net()(x, t, t), "no labels"),
        (lambda: net(x, t, torch.tensor([3])), "y must lie in 0..2 .* 3"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
