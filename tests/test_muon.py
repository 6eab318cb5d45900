"""Muon: matrices are orthogonalised, and AdamW takes the rest."""

import copy

import pytest
import torch
from toy_training import pipeline, same

from ddpm_helpers.training.muon import COEFFICIENTS, RMS, Muon, orthogonalize, split_parameters


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_orthogonalize_keeps_directions_and_levels_their_lengths(shape):
    U, _, V = torch.linalg.svd(random(*shape), full_matrices=False)
    lengths = torch.logspace(0, -1.5, 8 if 8 in shape else 16, dtype=torch.float64)  # 30 to 1
    O = U.T @ orthogonalize(U * lengths @ V) @ V.T  # noqa: E741
    assert torch.allclose(O, O.diag().diag(), atol=1e-9)  # the same singular vectors
    assert 0.77 < O.diag().min() and O.diag().max() < 1.21


def test_orthogonalize_is_the_iteration_of_its_docstring():
    G = random(6, 20)
    X = G / G.norm()
    for a, b, c in COEFFICIENTS:
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    assert torch.allclose(orthogonalize(G), X, atol=1e-6)
    assert torch.allclose(orthogonalize(G, -0.25), -0.25 * X, atol=1e-6)


def test_each_polynomial_is_the_best_of_its_interval():
    """Of odd polynomials of degree 5, the one that differs from 1 equally much at four points."""
    low, high = 0.003, 1.0
    for k, (a, b, c) in enumerate(COEFFICIENTS):
        x = torch.linspace(low, high, 200_001, dtype=torch.float64)
        x = 1.01 * x if k < 3 else x  # the first three shrink their argument by 1 %
        off = a * x + b * x**3 + c * x**5 - 1
        turns = off[1:-1][(off[1:-1] - off[:-2]) * (off[2:] - off[1:-1]) <= 0]
        worst = off.abs().max()
        found = torch.cat([off[:1], turns, off[-1:]]) / worst
        assert torch.allclose(found, torch.tensor([-1.0, 1, -1, 1]).double(), atol=1e-3)
        low, high = float(1 - worst), float(1 + worst)
    assert 0.19 < worst < 0.2


@pytest.mark.parametrize("shape", [(64, 576), (96, 32), (48, 48)])
def test_several_matrices_at_once_are_each_on_its_own(shape):
    G = torch.stack([random(*shape, seed=k) * 10**k for k in range(3)])
    one_by_one = torch.stack([orthogonalize(each) for each in G])
    assert torch.allclose(orthogonalize(G), one_by_one, atol=1e-9)


def test_orthogonalize_of_nothing_is_nothing():
    assert not orthogonalize(torch.zeros(4, 9)).any()


def test_matrices_are_those_inside_and_every_parameter_has_one_place():
    net = pipeline().model
    matrices, others = split_parameters(net)
    assert sorted(map(id, matrices + others)) == sorted(map(id, net.parameters()))
    names = {id(p): name for name, p in net.named_parameters()}
    inside, outside = ({names[id(p)] for p in part} for part in (matrices, others))
    assert {"encoder.stages.0.block1.conv1.weight", "decoder.upsamples.0.weight"} <= inside
    assert {"encoder.stages.0.attention.qkv.weight", "time.mlp.0.weight"} <= inside
    ends = {"encoder.stem.1.weight", "decoder.to_pixels.weight", "gate.weight", "label.weight"}
    assert ends | {"decoder.norm.weight", "time.mlp.0.bias"} <= outside


def test_two_updates_are_those_of_the_docstring_and_of_adamw():
    net = pipeline().model
    twin, lr, decay = copy.deepcopy(net), 0.01, 0.1
    muon = Muon(net, lr, weight_decay=decay)
    adamw = torch.optim.AdamW(twin.parameters(), lr, weight_decay=decay)
    W = net.encoder.stages[1].block1.conv1.weight  # (16, 8, 3, 3)
    expected, m = W.detach().clone(), torch.zeros_like(W)
    for seed in (1, 2):
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            p.grad = random(*p.shape, seed=seed).float()
            q.grad = p.grad.clone()
        m = 0.95 * m + 0.05 * W.grad
        ahead = (0.05 * W.grad + 0.95 * m).reshape(16, 72)
        step = RMS * 72**0.5 * orthogonalize(ahead).reshape(W.shape)
        expected -= lr * (decay * expected + step)
        muon.step(), adamw.step()
    assert torch.allclose(W, expected, atol=1e-6)
    assert abs(step.square().mean().sqrt() / RMS - 1) < 0.2
    matrices, others = map(lambda part: set(map(id, part)), split_parameters(net))
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert p.equal(q) == (id(p) in others)


def test_a_parameter_without_a_gradient_stays():
    net = pipeline().model
    before = copy.deepcopy(net)
    Muon(net, 0.1).step()
    assert same(net, before)
