"""MNIST and Fashion-MNIST: tiny files in torchvision's layout, and a download from this machine."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch
from torchvision import datasets

from ddpm_helpers import cli
from ddpm_helpers.config import settings
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.pretrained import load_pretrained

KINDS = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}
COUNTS = {"train": 12, "t10k": 5}


def idx(array):
    """An array of bytes in IDX: two zeros, the code of uint8, the number of sides, the sides."""
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


@pytest.fixture
def made(monkeypatch):
    """Files of both data sets, by name: archives with the checksums that torchvision asks for."""
    rng = np.random.default_rng(0)
    arrays, archives = {}, {}
    for name, reader in KINDS.items():
        files = {}
        for stem, n in COUNTS.items():
            files[f"{stem}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
            files[f"{stem}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
        packed = {f"{file}.gz": gzip.compress(idx(array), mtime=0) for file, array in files.items()}
        sums = [(file, hashlib.md5(raw).hexdigest()) for file, raw in packed.items()]
        monkeypatch.setattr(reader, "resources", sums)
        monkeypatch.setattr(reader, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
        arrays[name], archives[name] = files, packed
    return arrays, archives


def write(root, made, name, form):
    raw = root / KINDS[name].__name__ / "raw"
    raw.mkdir(parents=True)
    for file, array in made[0][name].items():
        if form == "raw":
            (raw / file).write_bytes(idx(array))
        else:
            (raw / f"{file}.gz").write_bytes(made[1][name][f"{file}.gz"])
    return raw


def load(tmp_path, name="mnist", size=32, **options):
    return ImageDataset(name, size, root=tmp_path / "root", cache_dir=tmp_path / "cache", **options)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("form", ["raw", "gz"])
def test_files_on_disk_are_read_without_a_network(name, form, made, tmp_path):
    write(tmp_path / "root", made, name, form)
    for split, stem in (("train", "train"), ("test", "t10k")):
        ds = load(tmp_path, name, split=split)
        assert ds.channels == 1 and ds.images.shape == (COUNTS[stem], 1, 32, 32)
        inside = made[0][name][f"{stem}-images-idx3-ubyte"]
        order = {picture.tobytes(): k for k, picture in enumerate(inside)}
        rows = [order[x.tobytes()] for x in ds.images[:, 0, 2:30, 2:30]]  # whatever their order
        assert sorted(rows) == list(range(COUNTS[stem]))
        assert ds.labels.tolist() == [row % 10 for row in rows]
        border = np.array(ds.images)
        border[:, :, 2:30, 2:30] = 0
        assert not border.any()
        assert ds.classes == tuple(KINDS[name].classes) and ds.source == name


def test_files_in_the_cache_folder_are_found_too(made, tmp_path):
    write(tmp_path / "cache", made, "mnist", "raw")
    assert len(load(tmp_path)) == 12
    assert len(ImageDataset("mnist", 16, cache_dir=tmp_path / "cache")) == 12


def test_other_sizes_and_colour(made, tmp_path):
    write(tmp_path / "root", made, "mnist", "raw")
    small, colour = load(tmp_path, size=16), load(tmp_path, channels=3)
    assert small.images.shape == (12, 1, 16, 16)
    assert colour.images.shape == (12, 3, 32, 32)
    assert (colour.images == load(tmp_path).images).all()  # three equal channels


def test_a_ready_cache_needs_no_files(made, tmp_path):
    raw = write(tmp_path / "root", made, "mnist", "gz")
    before = np.array(load(tmp_path).images)
    for file in raw.iterdir():
        file.unlink()
    np.testing.assert_array_equal(load(tmp_path).images, before)
    np.testing.assert_array_equal(
        ImageDataset("mnist", 32, cache_dir=tmp_path / "cache").images, before
    )


@pytest.mark.parametrize("change", [lambda raw: raw[:-100], lambda raw: b"", lambda raw: raw[:3]])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_damaged_files_are_one_line(change, file, made, tmp_path):
    path = write(tmp_path / "root", made, "mnist", "raw") / file
    path.write_bytes(change(path.read_bytes()) if "images" in file else b"")
    with pytest.raises(ValueError, match="delete that folder") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value) and str(path.parent) in str(caught.value)


def test_files_of_something_else_are_refused(made, tmp_path):
    raw = write(tmp_path / "root", made, "mnist", "raw")
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(np.full(12, 26, np.uint8)))
    with pytest.raises(ValueError, match="does not hold MNIST's pictures of 28×28 and labels 0..9"):
        load(tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_a_download_tries_the_next_mirror(name, made, file_server, tmp_path, monkeypatch):
    folder, address = file_server
    for file, raw in made[1][name].items():
        (folder / file).write_bytes(raw)
    monkeypatch.setattr(KINDS[name], "mirrors", [f"{address}/missing/", f"{address}/"])
    ds = load(tmp_path, name, split="test")
    assert ds.labels.tolist() == [0, 1, 2, 3, 4]
    assert (tmp_path / "root" / KINDS[name].__name__ / "raw" / "t10k-labels-idx1-ubyte.gz").exists()
    monkeypatch.setattr(KINDS[name], "mirrors", [])  # nothing is downloaded twice
    assert len(load(tmp_path, name)) == 12
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    assert len(load(tmp_path, name)) == 12
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2  # and no cache is made twice


@pytest.mark.parametrize("content", [None, b"another file"])
def test_a_failed_download_says_where_to_put_the_files(
    content, made, file_server, tmp_path, monkeypatch
):
    folder, address = file_server
    if content:
        (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/"])
    with pytest.raises(
        OSError, match="MNIST could not be downloaded .*train-images-idx3-ubyte.gz, .*"
    ) as caught:
        load(tmp_path)
    text = str(caught.value)
    assert "\n" not in text and f"into {tmp_path / 'root' / 'MNIST' / 'raw'}" in text
    assert "cartoons" in text and not list((tmp_path / "cache").glob("*.npy"))


def test_settings_and_the_command_line_train_on_digits(made, tmp_path, monkeypatch, capsys):
    cache = tmp_path / "cache"
    write(cache, made, "mnist", "gz")
    monkeypatch.setenv("DDPM_CACHE", str(cache))
    monkeypatch.setenv("DDPM_DATA", "mnist")
    known = settings()
    assert known.data == "mnist" and known.train.channels == 1 and not known.train.flip
    assert cli.main(["data", "mnist"]) == 0
    assert "12 grey pictures of 32×32" in (said := capsys.readouterr().out) and "7 - seven" in said
    words = "--preset ci --image-size 16 --width 8 --timesteps 10 --batch-size 4 --warmup-steps 1"
    for k, more in enumerate(("", "--data mnist --channels 3 --flip")):
        run = tmp_path / f"run{k}"
        assert cli.main(["train", *words.split(), *more.split(), "--out", str(run)]) == 0
        channels, flip = (3, True) if more else (1, False)
        config = torch.load(run / "checkpoint.pt", weights_only=True)["config"]
        assert (config["channels"], config["flip"]) == (channels, flip)
        assert load_pretrained(run)[0].image_shape == (channels, 16, 16)
    evaluate = ["evaluate", "--weights", str(tmp_path / "run0"), "--n", "5", "--steps", "2"]
    assert cli.main(evaluate) == 0
    assert cli.main(["sample", "--weights", str(tmp_path / "run0"), "--y", "7", "--n", "1",
                     "--steps", "2", "--out", str(tmp_path / "x.png")]) == 0  # fmt: skip
