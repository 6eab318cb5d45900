"""A training whose steps take milliseconds, for tests, also in processes of their own."""

import contextlib
import os
import signal
import sys

import torch

from ddpm_helpers import cli
from ddpm_helpers.config import TrainConfig
from ddpm_helpers.training import TrainingPipeline, build_diffusion, build_model

# What a process of its own need not import again: DDP takes _dynamo along.
PRELOAD = ["toy_training", "accelerate", "tqdm.auto", "torch._dynamo"]


class TwoColours:
    """Twelve flat pictures, no two alike: class 0 is dark, 1 is bright. As an ImageDataset is."""

    classes = ("dark", "bright")
    source = "two colours"

    def __init__(self):
        self.labels = torch.arange(12) % 2
        own = 3 * torch.arange(12)
        self.images = torch.where(self.labels == 0, 25 + own, 230 - own).to(torch.uint8)
        self.images = self.images[:, None, None, None].expand(-1, 3, 16, 16)

    def __len__(self):
        return 12

    def batches(self, batch_size, *, seed, epoch=0, device=None):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed + 1000 * epoch))
        for rows in order.split(batch_size):
            yield (self.images[rows].float() / 127.5 - 1).to(device), self.labels[rows].to(device)


CONFIG = TrainConfig(
    image_size=16, timesteps=50, epochs=3, batch_size=5, lr=3e-3, width=8, warmup_steps=2,
    prediction="v", precision="fp32", sample_every=0,
)  # fmt: skip


def pipeline(out_dir=None, overwrite=False, **changes):
    config = TrainConfig(**(CONFIG.to_dict() | changes))
    parts = build_model(config, 2), build_diffusion(config), TwoColours()
    return TrainingPipeline(*parts, config, out_dir, overwrite=overwrite)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a)


def spoil(p, steps):
    """Make the loss of these batches, counted from 0, not finite."""
    loss = p.diffusion.loss

    def spoiled(*args, **options):
        bad = p.step in steps
        return loss(*args, **options) * (float("nan") if bad else 1)

    p.diffusion.loss = spoiled


def run_legs(out_dir, step, changes):
    """Go on from the newest checkpoint to the end; `step` (a shared number) says how far it is."""
    for number in (signal.SIGINT, signal.SIGTERM):  # outside fit, a late one must not end us
        signal.signal(number, lambda *late: None)
    p = pipeline(out_dir, **changes)
    p.resume("auto")
    step.value = p.step

    def note(pipeline, record):
        step.value = record.step

    p.fit(watch=note)
    step.value = p.step


def be(rank, world, port):
    """What `accelerate launch` tells each process about itself and the others."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip


def run_as(rank, world, port, out_dir, stop, changes):
    """Be process `rank` of `world`: train, stop and save after step `stop`, or go to the end."""
    be(rank, world, port)
    p = pipeline(out_dir, **changes)
    assert p.accelerator.num_processes == world and p.is_main == (rank == 0)
    p.resume("auto")
    for record in p.steps():
        if record.step == stop:
            break
    p.save()
    if world > 1:
        torch.distributed.destroy_process_group()


def be_struck(rank, world, port, out_dir, how):
    """The last process gets a signal at step 2, by itself; status 3 if `fit` returned early."""
    be(rank, world, port)

    def strike(pipeline, record):
        if record.step == 2 and rank == world - 1:
            os.kill(os.getpid(), how)

    p = pipeline(out_dir)
    p.fit(watch=strike)
    torch.distributed.destroy_process_group()
    sys.exit(3 if p.step == 3 else 0)


def run_command(rank, world, port, out, words):
    """`accelerate launch -m ddpm_helpers ...` in process `rank`; each has a folder of its own."""
    be(rank, world, port)
    os.environ["DDPM_CACHE"] = f"{out}/cache"
    with open(f"{out}/said_{rank}", "w") as said, contextlib.redirect_stdout(said):
        status = cli.main([*words, "--out", f"{out}/{rank}"])
    torch.distributed.destroy_process_group()
    sys.exit(status)
