"""What the sampling loop costs beyond the bare calls of the network; the aim is under 2 %.

    python tests/benchmarks/bench_sampling.py

Loop and bare calls take turns in one run, and the medians are compared.
"""

import argparse
import statistics
import time

import torch

from ddpm_helpers import load_pretrained
from ddpm_helpers.diffusion import SAMPLERS, network_calls


def seconds(run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="cartoons")
    parser.add_argument("--n", type=int, default=32, help="pictures at a time")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    model, diffusion = load_pretrained(args.weights)
    x, t = torch.randn(args.n, *model.image_shape), torch.full((args.n,), diffusion.T)
    y = torch.arange(args.n) % model.num_classes

    def calls(k: int) -> None:
        for _ in range(k):
            model(x, t, y)

    print(f"{args.n} pictures, {args.steps} steps, median of {args.rounds} rounds")
    for name in SAMPLERS:
        looks = network_calls(diffusion, args.steps, name)
        options = {"y": y, "seed": 0, "sampler": name, "steps": args.steps}
        diffusion.sample(model, args.n, **options)  # the first run is slower
        ratios = [
            seconds(lambda options=options: diffusion.sample(model, args.n, **options))
            / seconds(lambda looks=looks: calls(looks))
            for _ in range(args.rounds)
        ]
        print(f"{name:6} {100 * (statistics.median(ratios) - 1):+.1f} % beyond {looks} bare calls")


if __name__ == "__main__":
    main()
