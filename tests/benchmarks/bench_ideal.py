"""What one query of the ideal denoiser costs; the aims: 0.2 s on two cores, and 1 GB of memory.

    python tests/benchmarks/bench_ideal.py
    python tests/benchmarks/bench_ideal.py --memory     # 60,000 random images of 64×64, from a file

Processor time, because it says the same on a machine that others use too: 50,000 cartoons at
32×32, at early and late timesteps. On two cores it takes little more than half of it.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ddpm_helpers import DiffusionUtils, ImageDataset
from ddpm_helpers.diffusion import IdealDenoiser


def peak() -> float:
    """The most memory that this process has had so far, in MB; memory maps count too."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def speed(rounds: int) -> None:
    data, diffusion = ImageDataset("cartoons", 32), DiffusionUtils(500)
    started = time.process_time()
    model = IdealDenoiser(diffusion, data.images, data.labels)
    print(f"{len(data)} images, "
          f"set up in {time.process_time() - started:.2f} s")  # fmt: skip
    x_0 = torch.stack([data[k][0] for k in range(20)])
    for n in (1, 20):
        for step in (490, 450, 300):
            t = torch.full((n,), step)
            x_t, _ = diffusion.add_noise(x_0[:n], t)
            took = []
            for _ in range(rounds):
                started = time.process_time()
                model(x_t, t)
                took.append(time.process_time() - started)
            print(f"{n:2} noisy images at t = {step}: {statistics.median(took):.3f} s", flush=True)


def memory() -> None:
    shape = (60_000, 3, 64, 64)
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        written = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        for start in range(0, len(written), 1000):
            written[start : start + 1000] = np.random.default_rng(start).integers(
                0, 256, (1000, *shape[1:]), np.uint8
            )
        del written
        model = IdealDenoiser(DiffusionUtils(500), np.load(path, mmap_mode="r"))
        t = torch.full((100,), 490)
        model(torch.randn(100, *shape[1:]), t)
    print(f"peak {peak():,.0f} MB for 100 noisy images: {before:,.0f} MB before, the mapped file's "
          f"{np.prod(shape) / 1e6:,.0f} MB, and the denoiser's own")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    memory() if args.memory else speed(args.rounds)


if __name__ == "__main__":
    main()
