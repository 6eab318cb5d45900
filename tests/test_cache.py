"""The cache: built once, found again, rebuilt when damaged, or one clear line."""

import errno
import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from filelock import Timeout

from ddpm_helpers.data import cache
from ddpm_helpers.data.collection import Collection

SHAPE = (3, 4, 4)


class Counting:
    """A collection of three images that counts how often it is read."""

    def __init__(self, count=3, **identity):
        self.count, self.reads = count, 0
        identity = {"kind": "test", **identity}
        self.collection = Collection("test", identity, self.read, balance=False)

    def read(self, size):
        self.reads += 1
        images = (np.full((1, 3, size, size), i % 256, np.uint8) for i in range(self.count))
        return ("a", "b"), ((image, np.array([i % 2])) for i, image in enumerate(images))


def check(found):
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert found.labels.tolist() == [0, 1, 0] and found.classes == ("a", "b")


def test_the_second_load_reads_the_cache_from_disk_and_needs_no_lock(tmp_path, monkeypatch):
    images = Counting()
    check(cache.load(images.collection, SHAPE, tmp_path))
    monkeypatch.setattr("filelock.FileLock", None)
    found = cache.load(images.collection, SHAPE, tmp_path)
    check(found)
    assert images.reads == 1 and isinstance(found.images, np.memmap)
    assert not list(tmp_path.glob("*.part"))


def test_every_setting_that_changes_a_pixel_changes_the_caches_name(tmp_path, monkeypatch):
    first = Counting(version=1).collection
    paths = {
        cache.load(collection, shape, tmp_path).path
        for collection, shape in ((first, SHAPE), (first, (3, 8, 8)), (first, (1, 4, 4)),
                                  (Counting(version=2).collection, SHAPE))
    }  # fmt: skip
    monkeypatch.setattr(cache, "VERSION", 99)
    assert len(paths | {cache.load(first, SHAPE, tmp_path).path}) == 5


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "of another manifest": lambda path: np.save(path, np.zeros((2, *SHAPE), np.uint8)),
    "manifest truncated": lambda path: path.with_suffix(".json").write_text('{"labels": '),
    "manifest lost": lambda path: path.with_suffix(".json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_rebuilt_silently(damage, tmp_path, capsys):
    images = Counting()
    DAMAGE[damage](cache.load(images.collection, SHAPE, tmp_path).path)
    check(cache.load(images.collection, SHAPE, tmp_path))
    assert images.reads == 2 and capsys.readouterr().out == ""


def test_a_drive_that_cannot_map_files_is_read(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(np, "memmap", refused)
    monkeypatch.setattr(np.lib.format, "open_memmap", refused)
    images = Counting()
    for _ in range(2):
        check(cache.load(replace(images.collection, balance=True), SHAPE, tmp_path))
    assert images.reads == 1


def test_a_drive_without_locks_has_caches_too(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(handle, what):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filelock's own
        check(cache.load(Counting().collection, SHAPE, tmp_path))


def test_an_old_cache_that_cannot_be_removed_yet_is_removed_later(tmp_path, monkeypatch):
    def load(version):
        return cache.load(replace(Counting().collection, state=version), SHAPE, tmp_path).path

    def refused(path, missing_ok=False):
        if path == old:  # as Windows does while the file is open
            raise PermissionError(errno.EACCES, "in use", str(path))
        unlink(path, missing_ok)

    unlink, old = Path.unlink, load("1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        newer = load("2")
    assert set(tmp_path.glob("*.npy")) == {old, newer}
    new = load("3")
    assert list(tmp_path.glob("*.npy")) == [new]


def test_a_waiting_process_can_print_names_that_are_not_text(tmp_path, monkeypatch, capsys):
    acquire = Mock(side_effect=[Timeout("a.lock"), None])
    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with cache.locked(tmp_path / "a.lock", "reading \udcff"):
        assert "reading \\udcff: waiting" in capsys.readouterr().out


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_reason_to_fill_another(tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(cache, "open", lambda p, *a, **k: open("/dev/full", *a, **k), raising=False)
    with pytest.raises(OSError, match="no room for the cache in .*DDPM_CACHE"):
        cache.load(Counting().collection, (3, 64, 64), tmp_path)
    assert not any(temporary.iterdir())


@pytest.mark.parametrize("stops", [KeyboardInterrupt, None])
def test_an_interrupted_build_or_one_without_images_leaves_nothing_behind(stops, tmp_path):
    def chunks():
        if stops:
            yield np.zeros((1, *SHAPE), np.uint8), np.array([0])
            raise stops

    with pytest.raises(stops or ValueError):
        collection = Collection("test", {"kind": "test"}, lambda size: (("a",), chunks()))
        cache.load(collection, SHAPE, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}


def test_where_the_folder_cannot_be_written_a_temporary_one_is_used(tmp_path, temporary, capsys):
    (tmp_path / "file").write_text("in the way")
    images = Counting()
    for _ in range(2):
        found = cache.load(images.collection, SHAPE, tmp_path / "file" / "cache")
        said = capsys.readouterr().out
        assert "cannot write to the folder" in said and "DDPM_CACHE" in said
        assert said.count("\n") == 1 and str(temporary) in said
    assert found.path.is_relative_to(temporary) and images.reads == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows gives each user an own one")
def test_another_users_temporary_folder_is_not_trusted(tmp_path, temporary, monkeypatch):
    ours = cache.temporary_folder()
    assert ours == cache.temporary_folder() and ours.parent == temporary
    me = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: me)
    theirs = temporary / f"ddpm_helpers-{me}"
    theirs.mkdir()
    assert cache.temporary_folder() != theirs
    theirs.rmdir()
    theirs.symlink_to(tmp_path)
    assert cache.temporary_folder().resolve() != tmp_path
