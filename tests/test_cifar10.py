"""CIFAR-10's two forms, made small here, and its download, from a server on this machine."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from ddpm_helpers.data import ImageDataset, balanced_order, cifar10

NAMES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]


@pytest.fixture
def batches():
    """Six batches of four pictures: name -> (pixels (4, 3072), labels (4,))."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, 10, 4))
        for name in NAMES
    }


def binary(pixels, labels):
    return np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes()


def write_python(folder, batches, monkeypatch):
    folder.mkdir(parents=True)
    files = {
        name: {"data": pixels, "labels": labels.tolist()}
        for name, (pixels, labels) in batches.items()
    }
    sums = []
    for name, content in (files | {"batches.meta": {"label_names": []}}).items():
        (folder / name).write_bytes(raw := pickle.dumps(content, protocol=4))
        sums.append([name, hashlib.md5(raw).hexdigest()])
    *train, test, meta = sums
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [test])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta[1]})


def write_archive(path, batches, monkeypatch):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, batch in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(raw := binary(*batch))
            archive.addfile(member, io.BytesIO(raw))
    raw = path.read_bytes()
    monkeypatch.setattr(cifar10, "ARCHIVE_BYTES", len(raw))
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(raw).hexdigest())


FORMS = [
    ("cifar-10-batches-py", write_python),
    ("cifar-10-binary.tar.gz", write_archive),
]


def load(tmp_path, source="cifar10", **options):
    cache = tmp_path / "cache"
    return ImageDataset(source, 32, root=tmp_path / "root", cache_dir=cache, **options)


@pytest.mark.parametrize(("name", "write"), FORMS)
def test_every_file_format_gives_the_same_pictures(name, write, batches, tmp_path, monkeypatch):
    write(tmp_path / "root" / name, batches, monkeypatch)
    train, test = load(tmp_path), load(tmp_path, split="test")
    for ds, names in ((train, NAMES[:5]), (test, NAMES[5:])):
        pixels, labels = (np.concatenate([batches[name][i] for name in names]) for i in (0, 1))
        order = balanced_order(labels)
        np.testing.assert_array_equal(ds.images.reshape(len(order), 3072), pixels[order])
        np.testing.assert_array_equal(ds.labels, labels[order])
    assert train.classes[0] == "airplane" and train.classes[9] == "truck"


def test_auto_takes_cifar10_where_it_is_on_disk(batches, tmp_path, monkeypatch, capsys):
    write_archive(tmp_path / "root" / cifar10.ARCHIVE, batches, monkeypatch)
    assert load(tmp_path, "auto").source == "cifar10"
    assert capsys.readouterr().out == "source auto: cifar10 (found on disk)\n"


@pytest.mark.parametrize(("name", "write"), FORMS)
def test_damaged_files_are_refused(name, write, batches, tmp_path, monkeypatch):
    place = tmp_path / "root" / name
    write(place, batches, monkeypatch)
    file = place if place.is_file() else next(place.glob("data_batch_1*"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is damaged \(not CIFAR-10's"):
        load(tmp_path)


def test_a_pickle_that_is_not_cifar10s_is_never_opened(batches, tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    place = tmp_path / "root" / "cifar-10-batches-py"
    write_python(place, batches, monkeypatch)
    for file in place.iterdir():
        whole = file.read_bytes()
        file.write_bytes(pickle.dumps({"data": Evil()}))
        with pytest.raises(ValueError, match=r"is damaged \(not CIFAR-10's"):
            load(tmp_path)
        file.write_bytes(whole)
    assert not (tmp_path / "written").exists()


def test_download_tries_the_next_address_and_verifies(file_server, batches, tmp_path, monkeypatch):
    folder, address = file_server
    write_archive(folder / cifar10.ARCHIVE, batches, monkeypatch)
    urls = (f"{address}/missing", f"{address}/{cifar10.ARCHIVE}")
    monkeypatch.setattr(cifar10, "URLS", urls)
    found = {pixels.tobytes() for pixels in load(tmp_path).images}
    assert all(pixels.tobytes() in found for pixels in batches["data_batch_1"][0])
    assert [path.name for path in (tmp_path / "root").glob("c*")] == [cifar10.ARCHIVE]


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw[:-1] + b"x"])
def test_a_wrong_download_is_never_renamed(change, file_server, batches, tmp_path, monkeypatch):
    folder, address = file_server
    write_archive(folder / cifar10.ARCHIVE, batches, monkeypatch)
    raw = (folder / cifar10.ARCHIVE).read_bytes()
    (folder / cifar10.ARCHIVE).write_bytes(change(raw))
    monkeypatch.setattr(cifar10, "URLS", [f"{address}/{cifar10.ARCHIVE}"])
    with pytest.raises(OSError, match="could not be downloaded.*cartoons") as caught:
        cifar10.download(tmp_path / "root")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "root").glob("c*"))
