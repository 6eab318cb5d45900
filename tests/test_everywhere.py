"""Machines that are poorer than a developer's: other disks, little shared memory, little memory."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_helpers.data import ImageDataset

SHARED = Path("/dev/shm")


def python(code, *arguments, before=(), **env):
    """The output of a fresh process."""
    done = subprocess.run(
        [*before, sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not os.access(SHARED, os.W_OK), reason="no second file system to write to")
@pytest.mark.parametrize("cache_on_it", [True, False])
def test_cache_and_temporary_files_on_different_disks(tmp_path, cache_on_it, monkeypatch):
    with tempfile.TemporaryDirectory(dir=SHARED) as other:
        if os.stat(other).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("both places are on one file system")
        cache, temporary = (other, tmp_path) if cache_on_it else (tmp_path, other)
        monkeypatch.setenv("TMPDIR", str(temporary))
        monkeypatch.setattr(tempfile, "tempdir", None)  # read TMPDIR again
        ds = ImageDataset("cartoons", 16, cache_dir=Path(cache) / "here", limit=20)
        assert len(ds) == 20 and Path(cache) in Path(ds.images.filename).parents
        del ds


@pytest.mark.slow
def test_a_folder_of_large_images_is_read_in_bounded_memory(tmp_path):
    """40 images of 9 megapixels are 1 GB decoded; a few at a time are a fraction of that."""
    folder = tmp_path / "large"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8)
    Image.fromarray(noise).resize((3000, 3000)).save(folder / "0.jpg")
    for k in range(1, 40):
        shutil.copy(folder / "0.jpg", folder / f"{k}.jpg")
    code = """
import resource, sys
from ddpm_helpers.data import ImageDataset
import PIL.Image, torch, tqdm.auto
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ds = ImageDataset(sys.argv[1], 16, cache_dir=sys.argv[2])
print(len(ds), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    pytest.importorskip("resource")
    *_, count, megabytes = python(code, folder, tmp_path / "cache").split()
    assert count == "36" and float(megabytes) < 500


def little_shared_memory():
    """The words that run a command with 64 MB of /dev/shm; None where that is not allowed."""
    words = ["unshare", "-m", "sh", "-c",
             'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]  # fmt: skip
    if shutil.which("unshare") is None:
        return None
    return words if subprocess.run([*words, "true"], capture_output=True).returncode == 0 else None


@pytest.mark.slow
def test_64_megabytes_of_shared_memory_are_enough(tmp_path):
    """What containers give by default. Three epochs of batches are 74 MB, a worker's too."""
    before = little_shared_memory()
    if before is None:
        pytest.skip("this user may not mount a smaller /dev/shm")
    code = """
import os, sys, torch
from ddpm_helpers.data import ImageDataset
size = os.statvfs("/dev/shm")
assert size.f_frsize * size.f_blocks == 64 * 2**20
ds = ImageDataset("cartoons", 64, cache_dir=sys.argv[1], limit=500)
kept = [x for epoch in range(3) for x, _ in ds.batches(50, seed=0, epoch=epoch)]
loader = torch.utils.data.DataLoader(ds, 50, num_workers=1)
print(len(kept), sum(len(x) for _ in range(3) for x, _ in loader))
"""
    assert python(code, tmp_path, before=before).split() == ["30", "1500"]
