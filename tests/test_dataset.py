"""ImageDataset against values worked out by hand, on the built-in cartoons."""

import itertools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_helpers.data import ImageDataset, cache, dataset
from ddpm_helpers.data.cartoons import CLASSES, draw, resize


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def ds(place):
    return ImageDataset("cartoons", 32, cache_dir=place, limit=100)


def test_images_are_the_cartoons_between_minus_one_and_one(ds):
    images, labels = draw("train", 100)
    assert isinstance(ds.images, np.memmap)
    np.testing.assert_array_equal(ds.images, images)
    np.testing.assert_array_equal(ds.labels, labels)
    assert ds.classes == CLASSES and len(ds) == 100
    x, y = ds[7]
    assert x.dtype == torch.float32 and x.shape == (3, 32, 32) and y == labels[7]
    expected = images[7].astype(np.float64) / 255 * 2 - 1
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)
    ends = dataset.to_float(torch.tensor([0, 255], dtype=torch.uint8))
    assert ends.tolist() == [-1.0, 1.0]  # exact


def test_a_batch_is_the_images_one_by_one(ds):
    batches = list(ds.batches(32, seed=0, shuffle=False))
    assert [len(y) for _, y in batches] == [32, 32, 32, 4]
    x = torch.cat([x for x, _ in batches])
    assert torch.equal(x, torch.stack([ds[i][0] for i in range(100)]))
    assert torch.equal(torch.cat([y for _, y in batches]), torch.from_numpy(ds.labels))


def test_shuffling_gives_every_image_once_with_its_label(ds):
    x, y = (torch.cat(parts) for parts in zip(*ds.batches(32, seed=3), strict=True))
    found = {image.numpy().tobytes(): label for image, label in zip(x, y.tolist(), strict=True)}
    assert len(found) == 100
    assert all(found[ds[i][0].numpy().tobytes()] == ds[i][1] for i in range(100))


def test_the_order_depends_on_seed_and_epoch_alone(ds):
    def first(seed, epoch, size=100):
        return torch.cat([y for _, y in ds.batches(size, seed=seed, epoch=epoch)])

    torch.manual_seed(1)
    one = first(1, 2)
    torch.manual_seed(2)
    assert torch.equal(one, first(1, 2, size=7))
    assert not torch.equal(one, first(1, 3)) and not torch.equal(one, first(2, 2))
    assert not torch.equal(one, first(2, 1))


def test_drop_last_leaves_out_only_the_rest(ds):
    assert [len(y) for _, y in ds.batches(40, seed=0, drop_last=True)] == [40, 40]
    assert list(ds.batches(101, seed=0, drop_last=True)) == []


def test_resizing_matches_pillow_and_leaves_no_stripes(place):
    large = ImageDataset("cartoons", 64, cache_dir=place, limit=20)
    for small, grown in zip(draw("train", 20)[0], large.images, strict=True):
        image = Image.fromarray(small.transpose(1, 2, 0)).resize((64, 64), Image.BICUBIC)
        error = np.abs(np.asarray(image).transpose(2, 0, 1) - grown.astype(int))
        assert error.max() <= 1
    stripes = np.zeros((1, 3, 32, 32), np.uint8)
    stripes[..., ::2] = 255
    assert np.abs(resize(stripes, 8)[..., 1:-1].astype(int) - 127.5).max() < 10


def test_a_data_loader_with_a_spawned_worker_sees_the_same_images(ds):
    again = pickle.loads(pickle.dumps(ds))
    assert len(pickle.dumps(ds)) < 10_000  # the path, not the pixels
    assert isinstance(again.images, np.memmap) and torch.equal(again[5][0], ds[5][0])
    assert again.image_shape == (3, 32, 32)
    x, y = next(iter(torch.utils.data.DataLoader(ds, batch_size=10)))
    assert x.shape == (10, 3, 32, 32) and y.dtype == torch.int64


@pytest.mark.skipif(os.name == "nt", reason="mapped files cannot be removed there")
def test_a_pickled_dataset_finds_its_cache_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ds = ImageDataset("cartoons", 8, limit=4, cache_dir="here")
    packed = pickle.dumps(ds)
    monkeypatch.chdir("/")
    assert torch.equal(pickle.loads(packed)[3][0], ds[3][0])


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no file that is open")
def test_a_cache_that_another_process_removes_stays_open(tmp_path, monkeypatch):
    load = cache.load

    def load_and_lose(*args):
        found = load(*args)
        found.path.unlink()
        return found

    monkeypatch.setattr(cache, "load", load_and_lose)
    assert len(list(ImageDataset("cartoons", 8, limit=4, cache_dir=tmp_path))) == 4


def test_auto_says_what_it_took(capsys, tmp_path):
    ds = ImageDataset("auto", 32, cache_dir=tmp_path, limit=1)
    assert ds.source == "cartoons" and repr(ds).endswith("train: 1 image of 32×32, 10 classes)")
    assert capsys.readouterr().out == "source auto: cartoons (CIFAR-10 is not on disk)\n"


def test_negative_indices_and_the_end(ds):
    assert torch.equal(ds[-1][0], ds[99][0])
    for outside in (100, -101):
        with pytest.raises(IndexError, match=f"{outside} is out of bounds .* 100"):
            ds[outside]
    assert len(list(itertools.islice(ds, 1000))) == 100


REFUSED = [
    ("source", "imagenet", "choose cartoons, cifar10, mnist, fashion_mnist, auto or"),
    ("source", Path("mnist"), "or a folder that exists"),  # a Path is always a folder
    ("source", "", "or a folder that exists"),  # not the folder that you are in
    ("image_size", 32.0, "whole number at least 1"),
    ("split", "valid", "choose from train, test"),
    ("limit", 0, "whole number at least 1"),
    ("fit", "stretch", "choose from crop, pad"),
    ("channels", 2, r"must be 1 \(grey\) or 3 \(colour\)"),
]


def test_a_bad_argument_is_refused_by_name_and_value(ds, tmp_path):
    for name, value, choices in REFUSED:
        with pytest.raises(ValueError, match=choices) as caught:
            ImageDataset(**{"source": "cartoons", "cache_dir": tmp_path, name: value})
        text = str(caught.value)
        assert name in text and repr(value) in text and "\n" not in text
    for arguments in ({"batch_size": 0, "seed": 0}, {"batch_size": 1, "seed": -1}):
        with pytest.raises(ValueError, match="at least"):
            ds.batches(**arguments)  # at the call, not at the first batch


def test_pixels_that_stay_on_a_gpu_give_the_same_batches(monkeypatch, place):
    cartoons = ImageDataset("cartoons", 32, cache_dir=place, limit=100)
    host = list(cartoons.batches(7, seed=3, epoch=1, device="cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 1000, 10_000))
    gpu = torch.device("cuda")
    assert dataset._has_room(gpu, 1000) and not dataset._has_room(gpu, 1001)
    monkeypatch.setattr(dataset, "_has_room", lambda device, needed: True)
    there = list(cartoons.batches(7, seed=3, epoch=1, device="cpu"))
    for (x, y), (x_there, y_there) in zip(host, there, strict=True):
        assert torch.equal(x, x_there) and torch.equal(y, y_there)
    assert "_resident" not in cartoons.__getstate__()  # no worker gets a copy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_a_gpu_is_never_waited_for_while_batches_are_made(place):
    cartoons = ImageDataset("cartoons", 32, cache_dir=place, limit=100)
    next(iter(cartoons.batches(7, seed=3, device="cuda")))
    batches = iter(cartoons.batches(7, seed=3, device="cuda"))
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        x, y = next(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.is_cuda and y.is_cuda
