"""The cache: built once, found again, rebuilt when damaged, or one clear line."""

import errno
import json
import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ddpm_helpers.data import cache, manage


class Counting:
    """A source of three images that counts how often it is read."""

    def __init__(self, count=3, **identity):
        self.count, self.reads = count, 0
        identity = {"kind": "test", **identity}
        self.source = cache.Source("test", identity, ("a", "b"), self.chunks)

    def chunks(self, size):
        self.reads += 1
        for i in range(self.count):
            yield np.full((1, 3, size, size), i % 256, np.uint8), np.array([i % 2])


def test_the_second_load_reads_the_cache_from_disk(tmp_path):
    images = Counting()
    for _ in range(2):
        found = cache.load(images.source, 4, tmp_path)
        assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2]
        assert found.labels.tolist() == [0, 1, 0] and found.classes == ("a", "b")
    assert images.reads == 1 and isinstance(found.images, np.memmap)
    assert not list(tmp_path.glob("*.part"))


def test_every_setting_that_changes_a_pixel_changes_the_caches_name(tmp_path, monkeypatch):
    cache.load(Counting(version=1).source, 4, tmp_path)
    for other, size in ((Counting(version=2), 4), (Counting(version=1), 8)):
        cache.load(other.source, size, tmp_path)
        assert other.reads == 1
    monkeypatch.setattr(cache, "FORMAT", 99)
    other = Counting(version=1)
    cache.load(other.source, 4, tmp_path)
    assert other.reads == 1 and len(list(tmp_path.glob("*.npy"))) == 4


def truncate(pixels, manifest):
    pixels.write_bytes(pixels.read_bytes()[:-1])


def flip_a_bit(pixels, manifest):
    raw = bytearray(pixels.read_bytes())
    raw[-20] ^= 16
    pixels.write_bytes(raw)


def lose_labels(pixels, manifest):
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(found | {"labels": found["labels"][:-1]}))


def another_version(pixels, manifest):
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(found | {"key": found["key"] | {"format": 3}}))


def cut_manifest(pixels, manifest):
    manifest.write_text(manifest.read_text()[:-5])


def lose_manifest(pixels, manifest):
    manifest.unlink()


DAMAGE = [truncate, flip_a_bit, lose_labels, another_version, cut_manifest, lose_manifest]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_rebuilt_silently(damage, tmp_path, capsys):
    images = Counting()
    path = cache.load(images.source, 4, tmp_path).path
    damage(path, path.with_suffix(".json"))
    found = cache.load(images.source, 4, tmp_path)
    assert images.reads == 2 and found.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert capsys.readouterr().out == ""


def test_a_drive_that_cannot_map_files_is_read(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(np, "memmap", refused)
    monkeypatch.setattr(np.lib.format, "open_memmap", refused)
    images = Counting()
    for _ in range(2):
        found = cache.load(replace(images.source, interleave=True), 4, tmp_path)
        assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2] and images.reads == 1


@pytest.mark.parametrize("how", ["as today", "as filelock 3.13"])
def test_a_drive_without_locks_has_caches_too(how, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refused(handle, what):
        if how == "as today":
            raise OSError(errno.ENOSYS, "Function not implemented")
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(fcntl, "flock", refused)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filelock's own
        found = cache.load(Counting().source, 4, tmp_path)
        assert len(found.labels) == 3
        manage.clear(tmp_path)
    assert not manage.caches(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_reason_to_fill_another(tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(cache, "open", lambda p, *a, **k: open("/dev/full", *a, **k), raising=False)
    with pytest.raises(OSError, match="cannot write to the cache folder .*No space left"):
        cache.load(Counting().source, 64, tmp_path)
    assert not any(temporary.iterdir())


def test_an_interrupted_build_leaves_nothing_behind(tmp_path):
    def chunks(size):
        yield np.zeros((1, 3, size, size), np.uint8), np.array([0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.load(cache.Source("test", {"kind": "test"}, ("a",), chunks), 4, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}


def test_a_ready_cache_needs_no_lock(tmp_path, monkeypatch):
    images = Counting()
    cache.load(images.source, 4, tmp_path)
    monkeypatch.setattr("filelock.FileLock", None)
    assert len(cache.load(images.source, 4, tmp_path).labels) == 3


def test_the_checksum_is_read_only_when_the_file_was_touched(tmp_path, monkeypatch):
    images, read = Counting(count=1234), []
    path = cache.load(images.source, 1, tmp_path).path
    checksum = cache._checksum
    monkeypatch.setattr(cache, "_checksum", lambda *a: read.append(a) or checksum(*a))
    cache.load(images.source, 1, tmp_path)
    assert not read
    os.utime(path, ns=(1, 1))  # as after copying it from another machine
    for _ in range(2):
        cache.load(images.source, 1, tmp_path)
    assert len(read) == 1 and images.reads == 1


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_where_the_folder_cannot_be_written_a_temporary_one_is_used(tmp_path, temporary, capsys):
    (tmp_path / "file").write_text("in the way")
    images = Counting()
    for _ in range(2):
        found = cache.load(images.source, 4, tmp_path / "file" / "cache")
        said = capsys.readouterr().out
        assert "cannot write to the cache folder" in said and "DDPM_CACHE" in said
        assert said.count("\n") == 1 and str(temporary) in said
    assert found.path.is_relative_to(temporary) and images.reads == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows gives each user an own one")
def test_another_users_temporary_folder_is_not_trusted(tmp_path, temporary):
    theirs = temporary / f"ddpm_helpers-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    assert cache.temporary_folder() != theirs
    theirs.rmdir()
    theirs.symlink_to(tmp_path)
    assert cache.temporary_folder().resolve() != tmp_path


def test_caches_that_cannot_be_removed_are_reported(tmp_path, capsys, monkeypatch):
    path = cache.load(Counting().source, 4, tmp_path).path

    def refuse(self, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="1 of 1 cache in .* could not be removed"):
        manage.clear(tmp_path)
    assert "Permission denied" in capsys.readouterr().out and path.exists()


def test_clear_removes_caches_and_nothing_else(tmp_path, capsys):
    path = cache.load(Counting().source, 4, tmp_path).path
    path.with_name(path.stem + "1.part").touch()  # no name of ours
    path.with_suffix(".part").touch()
    archive = "cifar-10-python.tar.gz"
    kept = {archive, "my-64.npy", path.stem + "1.part"}
    for name in kept:
        (tmp_path / name).touch()
    manage.clear(tmp_path)
    left = {p.name for p in tmp_path.iterdir() if p.suffix != ".lock"}
    assert left == kept and "0.0 MB freed" in capsys.readouterr().out
    manage.clear(tmp_path / "nowhere")


def test_no_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        cache.load(Counting(count=0).source, 4, tmp_path)
