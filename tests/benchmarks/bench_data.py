"""What the data cost: drawing the cartoons, opening a cache, and pictures per second.

    python tests/benchmarks/bench_data.py

Batches are compared with what they replace, torchvision's ImageFolder and two workers, and with
the plainest way there is: rows of a tensor in memory, indexed and converted. Linux only.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ddpm_helpers.data import ImageDataset, cartoons

OPEN = """
import sys, time
from ddpm_helpers.data import ImageDataset
import torch
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
before = resident()
started = time.perf_counter()
ds = ImageDataset("cartoons", int(sys.argv[1]), cache_dir=sys.argv[2])
seconds = time.perf_counter() - started
print(f"{len(ds)} {seconds:.4f} {resident() - before:.1f}")
"""


def seconds(run, tries: int = 3) -> float:
    """The best of several tries: other programs only ever add time."""
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def folder_of_pngs(ds: ImageDataset, folder: Path, n: int) -> Path:
    """The first n pictures as PNG files in class folders, at 32×32 as CIFAR-10 has them."""
    for i in range(n):
        place = folder / ds.classes[ds.labels[i]]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(ds.images[i]).transpose(1, 2, 0)
        Image.fromarray(pixels).resize((32, 32)).save(place / f"{i:05}.png")
    return folder


def torchvision_rate(folder: Path, size: int, batch: int) -> float:
    """Pictures a second of the usual pipeline: decode, resize, normalise, in two workers."""
    from torchvision import datasets, transforms

    steps = [transforms.Resize(size), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    data = datasets.ImageFolder(folder, transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(data, batch, shuffle=True, num_workers=2)
    return len(data) / seconds(lambda: [x.shape for x, _ in loader], tries=2)


def tensor_rate(images: np.ndarray, batch: int) -> float:
    """Pictures a second of indexing a tensor that lies in memory, and converting the rows."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    pixels = torch.from_numpy(np.array(images))

    def run() -> None:
        for rows in order.split(batch):
            pixels[rows].float().div_(127.5).sub_(1)

    return len(images) / seconds(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--files", type=int, default=5000, help="PNG files for ImageFolder")
    args = parser.parse_args()
    drawing = sum(
        seconds(lambda s=split, n=n: cartoons.draw(s, n), tries=1)
        for split, n in cartoons.COUNTS.items()
    )
    print(f"60,000 cartoons drawn                 {drawing:10.1f} s")
    with tempfile.TemporaryDirectory() as place:
        ds = ImageDataset("cartoons", args.image_size, cache_dir=place)
        command = [sys.executable, "-c", OPEN, str(args.image_size), place]
        n, opening, memory = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.split()
        print(f"opening the cache of {n} pictures  {1000 * float(opening):10.1f} ms")
        print(f"resident memory that it adds          {float(memory):10.1f} MB")
        folder = folder_of_pngs(ds, Path(place) / "png", args.files)
        rates = {
            "ImageFolder, 2 workers": torchvision_rate(folder, args.image_size, args.batch_size),
            "ds.batches": len(ds)
            / seconds(lambda: [x.shape for x, _ in ds.batches(args.batch_size, seed=0)]),
            "rows of a tensor": tensor_rate(ds.images, args.batch_size),
        }
    for name, rate in rates.items():
        ratio = rate / rates["ImageFolder, 2 workers"]
        print(f"{name:24} {rate:12,.0f} pictures/s {ratio:8.1f} times ImageFolder")


if __name__ == "__main__":
    main()
