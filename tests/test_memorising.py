"""Nearest training images, and which samples are copies."""

import torch

from ddpm_helpers.data import ImageDataset
from ddpm_helpers.evaluation import find_copies, memorising, nearest_neighbours, take


def images(n=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)


def floats(x):
    return x.float() / 127.5 - 1


def test_nearest_neighbours_agree_with_a_plain_search(monkeypatch):
    monkeypatch.setattr(memorising, "CHUNK", 16)
    x, data = floats(images(5, seed=1)), images()
    apart = (x[:, None] - floats(data)).square().mean((2, 3, 4)).sqrt()  # (5, 50)
    want = apart.sort(1)
    for given in (data, data.numpy(), floats(data)):
        found = nearest_neighbours(x, given, k=3)
        assert torch.equal(found.index, want.indices[:, :3])
        torch.testing.assert_close(found.distance, want.values[:, :3])
    same = nearest_neighbours(data[[7, 31]], data)  # uint8 on both sides
    assert same.index[:, 0].tolist() == [7, 31] and same.distance.max() < 1e-3


def test_copies_are_found_under_noise_and_blends_are_none():
    data = images()
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    near = floats(data[[4, 9, 30]]) + 0.1 * noise
    blend = (floats(data[:1]) + floats(data[1:2])) / 2  # as far from one as from the other
    found = find_copies(torch.cat([near, blend]), data)
    assert found.copied.tolist() == [True, True, True, False] and found.share == 0.75
    assert found.index[:3].tolist() == [4, 9, 30]
    torch.testing.assert_close(found.distance[0], 0.1 * noise[0].square().mean().sqrt())
    assert not find_copies(near, data, ratio=0.05).copied.any()


def test_a_duplicate_in_the_training_images_hides_no_copy():
    data = torch.cat([images(10), images(10)[3:4].expand(20, -1, -1, -1)])
    found = find_copies(floats(data[[3]]), data)
    assert found.share == 1 and found.index.tolist() == [3] and found.second > 0.5


def test_hardly_a_new_image_passes_for_a_copy():
    train, test = (ImageDataset("cartoons", 32, split=s, limit=1000) for s in ("train", "test"))
    assert find_copies(take(test, 100)[0], train.images).share <= 0.02
    assert find_copies(take(train, 20)[0], train.images).share == 1
