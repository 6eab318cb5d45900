"""Our training step beside other networks of the same forward FLOPs, and beside the peak.

All in one run, round by round, so that a busy machine is as bad for each; the medians count.
diffusers' UNet2DModel, and lucidrains' Unet where `denoising_diffusion_pytorch` is installed, train
as their users do: a plain loop in fp32. With --fast-peers also compiled and in bf16, the fair
comparison on a graphics card. The peak is that of a 3x3 convolution, forward and
backward, bf16 and channels_last where this processor has bf16.

    python tests/benchmarks/bench_training.py --batch 16 --rounds 5
    python tests/benchmarks/bench_training.py --ours --preset laptop --batch 32 --rounds 200
    python tests/benchmarks/bench_training.py --ours --preset laptop --image-size 64 --width 32 \
        --stem-stride 2 --batch 128 --optimizer muon
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from bench_tools import RandomImages
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

from ddpm_helpers import DiffusionUtils, TrainConfig, TrainingPipeline
from ddpm_helpers.device import best_device, bf16_is_fast
from ddpm_helpers.training import build_diffusion, build_model, update_ema
from ddpm_helpers.training.draws import augment, draw_t_and_eps

Net = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Runner:
    """One contestant: `step()` trains on a batch; `flops` is forward, per picture."""

    name: str
    flops: float
    step: Callable[[], object]


def count_flops(net: Net, size: int) -> float:
    """Forward operations for one picture, a multiply-add being two."""
    x = torch.zeros(1, 3, size, size, device=best_device())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x, torch.ones(1, dtype=torch.int64, device=x.device))
    return counter.get_total_flops()


def wait() -> None:
    """A GPU is still busy when a step returns."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def endless(pipeline: TrainingPipeline) -> Iterator[object]:
    while True:
        pipeline.step = 0
        yield from pipeline.steps()


def ours(config: TrainConfig) -> tuple[Runner, ...]:
    """`TrainingPipeline.steps()`, what any loop of the same training does, and less and less of it.

    "written out" draws, clips and averages as well, but saves, counts and checks nothing; "bare" is
    forward, backward and optimiser; "optimiser" steps with the same gradients again. Not compiled.
    """
    config = replace(config, compile=False)
    diffusion = build_diffusion(config)
    data = RandomImages(config.batch_size, config.image_size)
    pipeline = TrainingPipeline(build_model(config, 10), diffusion, data, config)
    steps = endless(pipeline)
    net, optimizer = pipeline.model, pipeline.optimizer
    x, y = next(iter(data.batches(config.batch_size, seed=0, device=pipeline.device)))
    x = x.contiguous(memory_format=torch.channels_last)
    t = torch.ones(len(x), dtype=torch.int64, device=x.device)

    def bare() -> None:
        with pipeline.autocast():
            loss = net(x, t, y).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def written_out() -> None:
        x_0, labels = augment(x, y, config, generator)
        t, eps = draw_t_and_eps(x_0, diffusion.alpha_bar, generator)
        with pipeline.autocast():
            loss = diffusion.loss(net, x_0, t, eps, labels).mean()
        loss.backward()
        clip_grad_norm_(net.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(pipeline.ema_model, net, config.ema_decay)

    generator = torch.Generator(pipeline.device).manual_seed(0)
    gradients = [(p, torch.randn_like(p)) for p in net.parameters()]

    def optimiser() -> None:
        for p, gradient in gradients:
            p.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    flops = count_flops(lambda x, t: net(x, t), config.image_size)
    return (
        Runner("ours: steps()", flops, lambda: next(steps)),
        Runner("ours: written out", flops, written_out),
        Runner("ours: bare step", flops, bare),
        Runner("ours: optimiser", flops, optimiser),
    )


def ours_compiled(config: TrainConfig, flops: float) -> Runner:
    """`TrainingPipeline.steps()` of a network that torch.compile has been over."""
    diffusion = build_diffusion(config)
    data = RandomImages(config.batch_size, config.image_size)
    config = replace(config, compile=True)
    steps = endless(TrainingPipeline(build_model(config, 10), diffusion, data, config))
    return Runner("ours: compiled", flops, lambda: next(steps))


def plain_loop(name: str, net: nn.Module, call: Net, config: TrainConfig, fast: bool) -> Runner:
    """The loop of most tutorials: fp32, AdamW, no averaged weights; fast: compiled, in bf16."""
    net.to(best_device())
    flops = count_flops(call, config.image_size)
    if fast:
        name, net = f"{name}, fast", net.to(memory_format=torch.channels_last)
        call = torch.compile(call, dynamic=False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    diffusion = DiffusionUtils(config.timesteps)
    data = RandomImages(config.batch_size, config.image_size)
    x_0, _ = next(iter(data.batches(config.batch_size, seed=0, device=best_device())))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(best_device().type, torch.bfloat16, enabled=fast):
            loss = diffusion.training_loss(call, x_0)
        loss.backward()
        optimizer.step()

    return Runner(name, flops, step)


def nearest(make: Callable[[int], nn.Module], call: Callable, widths: range, want: float,
            size: int) -> nn.Module:  # fmt: skip
    """Of the widths that `make` takes, the network whose forward FLOPs are nearest to ours."""

    def gap(width: int) -> float:
        net = make(width).to(best_device())
        return abs(count_flops(lambda x, t: call(net, x, t), size) / want - 1)

    return make(min(widths, key=gap))


def diffusers_unet(config: TrainConfig, want: float, fast: bool = False) -> Runner:
    """diffusers' UNet2DModel with our four widths and attention at 8x8 and below."""
    from diffusers import UNet2DModel

    def make(width: int) -> nn.Module:
        return UNet2DModel(
            sample_size=config.image_size, in_channels=3, out_channels=3, layers_per_block=2,
            block_out_channels=(width, 2 * width, 4 * width, 8 * width), norm_num_groups=8,
            down_block_types=("DownBlock2D",) * 3 + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * 3,
        )  # fmt: skip

    def call(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        return net(x, t).sample

    net = nearest(make, call, range(8, 65, 8), want, config.image_size)
    return plain_loop("diffusers UNet2DModel", net, lambda x, t: call(net, x, t), config, fast)


def lucidrains_unet(config: TrainConfig, want: float, fast: bool = False) -> Runner:
    from denoising_diffusion_pytorch import Unet

    net = nearest(
        lambda width: Unet(width), lambda net, x, t: net(x, t), range(8, 65, 8), want,
        config.image_size,
    )  # fmt: skip
    return plain_loop("lucidrains Unet", net, net, config, fast)


def convolution(batch: int) -> Runner:
    """A 3x3 convolution of 256 channels at 32x32, trained: three times its forward FLOPs."""
    device = best_device()
    dtype = torch.bfloat16 if bf16_is_fast(device) else torch.float32
    conv = nn.Conv2d(256, 256, 3, padding=1, bias=False).to(device, dtype)
    conv = conv.to(memory_format=torch.channels_last)
    x = torch.randn(batch, 256, 32, 32, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn_like(x)

    def step() -> None:
        conv(x).backward(grad)

    return Runner(f"3x3 convolution, {str(dtype)[6:]}", 2 * 256 * 256 * 9 * 32 * 32, step)


def measure(runners: list[Runner], rounds: int) -> dict[str, float]:
    """Median seconds of a step; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for k in range(rounds + 1):
        for runner in runners:
            wait()
            started = time.perf_counter()
            runner.step()
            wait()
            if k:
                seconds[runner.name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="classic")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--optimizer", default="adamw", help="of our training: adamw or muon")
    for name in ("image-size", "width", "stem-stride"):
        parser.add_argument(f"--{name}", type=int, help="instead of the preset's")
    parser.add_argument(
        "--ours",
        action="store_true",
        help="only what `steps()` and the optimiser cost, without other networks",
    )
    parser.add_argument("--fast-peers", action="store_true", help="compiled, in bf16, as well")
    args = parser.parse_args()
    config = TrainConfig.preset(
        args.preset, batch_size=args.batch, epochs=100, warmup_steps=0, optimizer=args.optimizer
    )
    given = {name: getattr(args, name) for name in ("image_size", "width", "stem_stride")}
    config = replace(config, **{name: value for name, value in given.items() if value})
    mine, written_out, bare, optimiser = runners = [*ours(config)]
    if args.ours:
        seconds = measure(runners, args.rounds)
        for other in (written_out, bare):
            extra = seconds[mine.name] / seconds[other.name] - 1
            print(f"{mine.name} takes {extra:.1%} more than {other.name}")
        share = seconds[optimiser.name] / seconds[mine.name]
        print(f"of steps(), the optimiser ({config.optimizer}) takes {share:.1%}")
        return
    runners = [mine, bare, ours_compiled(config, mine.flops)]
    peers = [diffusers_unet]
    if importlib.util.find_spec("denoising_diffusion_pytorch"):
        peers.append(lucidrains_unet)
    for peer in peers:
        kinds = (False, True) if args.fast_peers else (False,)
        runners += [peer(config, mine.flops, fast) for fast in kinds]
    runners.append(convolution(args.batch))
    seconds = measure(runners, args.rounds)
    print(f"{config.image_size}x{config.image_size}, batch {args.batch}, {best_device().type}, "
          f"{torch.get_num_threads()} threads, median of {args.rounds} rounds")  # fmt: skip
    print(f"{'':24} {'GFLOP fwd':>9} {'images/s':>9} {'GFLOP/s':>8} "
          f"{'steps() is':>10} {'compiled':>9}")  # fmt: skip
    rate = {r.name: 3 * r.flops * args.batch / seconds[r.name] / 1e9 for r in runners}
    for r in runners:
        ratio, compiled = (rate[n] / rate[r.name] for n in (mine.name, "ours: compiled"))
        print(f"{r.name:24} {r.flops / 1e9:9.2f} {args.batch / seconds[r.name]:9.1f} "
              f"{rate[r.name]:8.0f} {ratio:9.2f}x {compiled:8.2f}x")  # fmt: skip
    extra = seconds[mine.name] / seconds[bare.name] - 1
    print(f"steps() takes {extra:.1%} more than forward, backward and optimiser alone")


if __name__ == "__main__":
    main()
