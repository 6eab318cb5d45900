"""128×128: a folder as ImageNet's, and the documented command for it."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image

from ddpm_helpers import cli
from ddpm_helpers.data import ImageDataset
from ddpm_helpers.pretrained import load_pretrained

CLASSES = ("n01440764", "n02102040", "n03394916")


@pytest.fixture
def imagenet(tmp_path):
    """Large and small, wide and high, grey and CMYK JPEGs named as ImageNet names them."""
    sizes, modes = [(500, 375), (333, 500), (130, 90)], ["RGB", "L", "CMYK"]
    for split, n in (("train", 3), ("val", 2)):
        for name in CLASSES:
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for k in range(n):
                picture = Image.new("RGB", sizes[k], (200, 60 * k, 30)).convert(modes[k])
                picture.save(folder / f"{name}_{k}.JPEG")
    return tmp_path / "imagenet"


def test_a_folder_as_imagenets(imagenet, tmp_path):
    ds = ImageDataset(imagenet / "train", 128, cache_dir=tmp_path / "cache")
    assert ds.classes == CLASSES and ds.images.shape == (9, 3, 128, 128)
    assert np.bincount(ds.labels).tolist() == [3, 3, 3]
    middles = {tuple(x[:, 64, 64].tolist()) for x in ds.images}
    grey = round(0.299 * 200 + 0.587 * 60 + 0.114 * 30)
    for wanted in ((200, 0, 30), (grey, grey, grey), (200, 120, 30)):
        assert min(max(abs(np.subtract(found, wanted))) for found in middles) <= 3


def test_the_documented_command_trains_at_128(imagenet, root, tmp_path, monkeypatch):
    text = (root / "docs" / "pictures.md").read_text("utf-8")
    (line,) = re.findall(r"^ddpm (train --data imagenet .*)$", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    small = "--width 8 --limit 4 --batch-size 2 --timesteps 10 --epochs 1 --sample-every 0"
    assert cli.main(shlex.split(line) + small.split()) == 0
    model, diffusion = load_pretrained(tmp_path / "runs" / "i")
    assert model.image_shape == (3, 128, 128) and model.config["stem_stride"] == 4
    assert diffusion.config["schedule"] == "shifted_cosine"
