"""The cache: made once, found again, made again when damaged, and honest where it cannot be."""

import json

import numpy as np
import pytest

from ddpm_helpers.data import cache


class Counting:
    """A source of three pictures that counts how often it is read."""

    def __init__(self, count=3, **identity):
        self.count, self.reads = count, 0
        identity = {"kind": "test", **identity}
        self.source = cache.Source("test", identity, ("a", "b"), self.chunks)

    def chunks(self, size):
        self.reads += 1
        for i in range(self.count):
            yield np.full((1, 3, size, size), i % 256, np.uint8), np.array([i % 2])


def test_the_second_time_is_read_from_disk(tmp_path):
    pictures = Counting()
    for _ in range(2):
        found = cache.load(pictures.source, 4, tmp_path)
        assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2]
        assert found.labels.tolist() == [0, 1, 0] and found.classes == ("a", "b")
    assert pictures.reads == 1 and isinstance(found.images, np.memmap)
    assert not list(tmp_path.glob("*.part"))


def test_what_changes_a_pixel_changes_the_name(tmp_path, monkeypatch):
    cache.load(Counting(version=1).source, 4, tmp_path)
    for other, size in ((Counting(version=2), 4), (Counting(version=1), 8)):
        cache.load(other.source, size, tmp_path)
        assert other.reads == 1
    monkeypatch.setattr(cache, "FILTER", "another")
    other = Counting(version=1)
    cache.load(other.source, 4, tmp_path)
    assert other.reads == 1 and len(list(tmp_path.glob("*.npy"))) == 4


def truncate(pixels, manifest):
    pixels.write_bytes(pixels.read_bytes()[:-1])


def lengthen(pixels, manifest):
    pixels.write_bytes(pixels.read_bytes() + b"\0")


def replace_pixels(pixels, manifest):
    np.save(pixels, np.zeros((3, 4, 4, 3), np.uint8))


def lose_labels(pixels, manifest):
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(found | {"labels": found["labels"][:-1]}))


def foreign_key(pixels, manifest):
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(found | {"key": {}}))


def cut_manifest(pixels, manifest):
    manifest.write_text(manifest.read_text()[:-5])


def lose_manifest(pixels, manifest):
    manifest.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        truncate, lengthen, replace_pixels, lose_labels, foreign_key, cut_manifest, lose_manifest,
    ],
)  # fmt: skip
def test_a_damaged_cache_is_made_again(damage, tmp_path):
    pictures = Counting()
    path = cache.load(pictures.source, 4, tmp_path).path
    damage(path, path.with_suffix(".json"))
    found = cache.load(pictures.source, 4, tmp_path)
    assert pictures.reads == 2 and found.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_an_interrupted_build_leaves_nothing_behind(tmp_path):
    def chunks(size):
        yield np.zeros((1, 3, size, size), np.uint8), np.array([0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.load(cache.Source("test", {"kind": "test"}, ("a",), chunks), 4, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}


def test_a_ready_cache_needs_no_lock(tmp_path, monkeypatch):
    pictures = Counting()
    cache.load(pictures.source, 4, tmp_path)
    monkeypatch.setattr("filelock.FileLock", None)
    assert len(cache.load(pictures.source, 4, tmp_path).labels) == 3


def test_headers_hold_any_number_of_pictures(tmp_path):
    found = cache.load(Counting(count=1234).source, 1, tmp_path)
    assert np.load(found.path).shape == (1234, 3, 1, 1)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to the cache folder .*DDPM_CACHE") as caught:
        cache.load(Counting().source, 4, tmp_path / "file" / "cache")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_pictures_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no pictures"):
        cache.load(Counting(count=0).source, 4, tmp_path)
