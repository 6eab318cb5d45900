"""CIFAR-10, MNIST and Fashion-MNIST: tiny files in torchvision's layout, served by this machine."""

import gzip
import hashlib
import pickle
import struct
import tarfile

import numpy as np
import pytest
from albums import caches, load
from torchvision import datasets

from ddpm_helpers import cli
from ddpm_helpers.commands.train import read_config
from ddpm_helpers.config import settings
from ddpm_helpers.data import balanced_order
from ddpm_helpers.data.cartoons import CLASSES

BATCHES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
DIGITS = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}
COUNTS = {"train": 12, "t10k": 5}


def md5(raw):
    return hashlib.md5(raw).hexdigest()


def idx(array):
    """An array of bytes in IDX: two zeros, the code of uint8, the number of sides, the sides."""
    sides = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sides + array.tobytes()


@pytest.fixture
def digits(monkeypatch):
    """{source: {file: array}}, with the checksums that torchvision asks for, and no mirror."""
    rng, made = np.random.default_rng(0), {}
    for name, reader in DIGITS.items():
        made[name] = {}
        for stem, n in COUNTS.items():
            pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
            made[name][f"{stem}-images-idx3-ubyte"] = pixels
            made[name][f"{stem}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
        sums = [(f"{file}.gz", md5(packed(array))) for file, array in made[name].items()]
        monkeypatch.setattr(reader, "resources", sums)
        monkeypatch.setattr(reader, "mirrors", [])
    return made


def packed(array):
    return gzip.compress(idx(array), mtime=0)


def write(root, files, name):
    raw = root / DIGITS[name].__name__ / "raw"
    raw.mkdir(parents=True)
    for file, array in files[name].items():
        (raw / file).write_bytes(idx(array))
    return raw


def opened(tmp_path, name="mnist", size=32, **options):
    return load(name, tmp_path, size, root=tmp_path / "root", **options)


@pytest.mark.parametrize("name", DIGITS)
def test_digits_on_disk_are_read_without_a_network(name, digits, tmp_path):
    write(tmp_path / "root", digits, name)
    for split, stem in (("train", "train"), ("test", "t10k")):
        ds = opened(tmp_path, name, split=split)
        pixels, labels = (
            digits[name][f"{stem}-{kind}"] for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        )
        order = balanced_order(labels)
        inside = np.array(ds.images)
        np.testing.assert_array_equal(inside[:, 0, 2:30, 2:30], pixels[order])
        inside[:, :, 2:30, 2:30] = 0
        assert inside.shape == (COUNTS[stem], 1, 32, 32) and not inside.any()
        assert ds.labels.tolist() == labels[order].tolist()
        assert ds.classes == tuple(DIGITS[name].classes) and ds.source == name
        assert ds.settings == {"source": name, "root": str(tmp_path / "root")}


def test_other_places_sizes_and_colour(digits, tmp_path):
    raw = write(tmp_path / "cache", digits, "mnist")
    grey, colour = load("mnist", tmp_path, 32), load("mnist", tmp_path, 32, channels=3)
    assert load("mnist", tmp_path, 16).images.shape == (12, 1, 16, 16)
    assert colour.images.shape == (12, 3, 32, 32) and (colour.images == grey.images).all()
    for file in raw.iterdir():
        file.unlink()
    assert (load("mnist", tmp_path, 32).images == grey.images).all()  # a cache needs no files


def test_digits_are_downloaded_once(digits, file_server, tmp_path, monkeypatch):
    folder, address = file_server
    for file, array in digits["mnist"].items():
        (folder / f"{file}.gz").write_bytes(packed(array))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/"])
    assert opened(tmp_path, split="test").labels.tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [])
    assert len(opened(tmp_path)) == 12


@pytest.fixture
def photos(monkeypatch):
    """CIFAR-10's files, four images in each: {name: (content, pixels (4, 3072), labels)}."""
    rng, files = np.random.default_rng(0), {}
    for name in BATCHES:
        pixels, labels = rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, 10, 4)
        content = pickle.dumps({"data": pixels, "labels": labels.tolist()}, protocol=4)
        files[name] = (content, pixels, labels)
    files["batches.meta"] = (pickle.dumps({"label_names": list(CLASSES)}), None, None)
    *train, test, meta = [[name, md5(content)] for name, (content, _, _) in files.items()]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [test])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": meta[1]})
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/c")  # nobody listens there
    return files


def write_photos(root, photos):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, (content, _, _) in photos.items():
        (folder / name).write_bytes(content)
    return folder


def test_cifar10_on_disk_is_read_and_found_by_auto(photos, tmp_path, capsys):
    write_photos(tmp_path / "root", photos)
    for split, names in (("train", BATCHES[:5]), ("test", BATCHES[5:])):
        ds = opened(tmp_path, "cifar10", split=split)
        pixels, labels = (np.concatenate([photos[name][i] for name in names]) for i in (1, 2))
        order = balanced_order(labels)
        np.testing.assert_array_equal(ds.images.reshape(len(order), 3072), pixels[order])
        np.testing.assert_array_equal(ds.labels, labels[order])
        assert ds.classes == CLASSES
    assert opened(tmp_path, "auto").source == "cifar10"
    assert "source auto: cifar10 (CIFAR-10 is on disk)" in capsys.readouterr().out


def test_an_archive_with_another_checksum_is_not_unpacked(
    photos, file_server, tmp_path, monkeypatch
):
    folder, address = file_server
    archive = folder / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(write_photos(folder, photos), "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}/{archive.name}")
    with pytest.raises(OSError, match="CIFAR10 could not be read or downloaded .*corrupted"):
        opened(tmp_path, "cifar10")
    assert not (tmp_path / "root" / "cifar-10-batches-py").exists() and not caches(tmp_path)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive.read_bytes()))
    assert len(opened(tmp_path, "cifar10")) == 20


def test_a_pickle_that_is_not_cifar10s_is_never_opened(photos, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    for file in write_photos(tmp_path / "root", photos).iterdir():
        whole = file.read_bytes()
        file.write_bytes(pickle.dumps({"data": Evil()}))
        with pytest.raises(OSError, match="CIFAR10 could not be read"):
            opened(tmp_path, "cifar10")
        file.write_bytes(whole)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_files_that_cannot_be_had_are_one_line(damaged, digits, tmp_path):
    if damaged:
        raw = write(tmp_path / "root", digits, "mnist")
        (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08")
    with pytest.raises(OSError, match="MNIST could not be read or downloaded") as caught:
        opened(tmp_path)
    text = str(caught.value)
    assert "\n" not in text and str(tmp_path / "root" / "MNIST" / "raw") in text
    assert "cartoons" in text and not caches(tmp_path)


def test_settings_and_the_command_line_know_what_digits_need(digits, tmp_path, monkeypatch, capsys):
    write(tmp_path / "cache", digits, "mnist")
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DDPM_DATA", "mnist")
    known = settings()
    assert known.data == "mnist" and known.train.channels == 1 and not known.train.flip
    assert cli.main(["data", "mnist"]) == 0
    assert "12 grey images of 32×32" in (said := capsys.readouterr().out) and "7 - seven" in said
    for more, wanted in (("", (1, False)), ("--channels 3 --flip", (3, True))):
        args = cli.build_parser().parse_args(["train", "--preset", "ci", *more.split()])
        _, config = read_config(args, "laptop", "mnist")
        assert (config.channels, config.flip) == wanted
