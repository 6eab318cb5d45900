"""What a training step costs at 128×128: FLOPs, and images for each second of processor time.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_sizes.py

Processor time, because it says the same on a machine that others use too; on random pictures.
"""

import argparse
import time

import torch
from bench_tools import RandomImages, forward_flops

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.model import count_parameters
from ddpm_helpers.training import TrainingPipeline, build_diffusion, build_model


def images_per_second(config: TrainConfig, batch: int) -> float:
    """Without the first step, which warms up."""
    data = RandomImages(batch, config.image_size)
    pipeline = TrainingPipeline(build_model(config, 10), build_diffusion(config), data, config)
    marks = [time.process_time() for _ in pipeline.steps()]
    return (len(marks) - 1) * batch / (marks[-1] - marks[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, batches of {args.batch_size}")
    for stem_stride in (4, 2):
        for width in (32, 64):
            config = TrainConfig.preset(
                "laptop", image_size=args.image_size, stem_stride=stem_stride, width=width,
                batch_size=args.batch_size, epochs=args.steps, warmup_steps=0,
            )  # fmt: skip
            parameters = count_parameters(build_model(config, 10)) / 1e6
            speed = images_per_second(config, args.batch_size)
            print(f"stem_stride {stem_stride}, width {width}: {parameters:.1f} million parameters, "
                  f"{forward_flops(config) / 1e9:.2f} GFLOP forward, {speed:.1f} images/s",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
