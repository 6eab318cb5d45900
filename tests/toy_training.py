"""A training whose updates take milliseconds, for tests, also in processes of their own."""

import os
import signal

import torch

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.training import TrainingPipeline, build_diffusion, build_model

# What a process of its own need not import again: DDP takes _dynamo along.
PRELOAD = ["toy_training", "accelerate", "tqdm.auto", "torch._dynamo"]
TINY = "--image-size 16 --width 8 --timesteps 10 --limit 16 --batch-size 8 --warmup-steps 0"


class TwoColours:
    """Twelve flat images, no two alike: class 0 is dark, 1 is bright."""

    classes, name, image_shape = ("dark", "bright"), "two colours", (3, 16, 16)

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


def same_run(a, b):
    """Whether two pipelines have equal weights, averages, optimiser states and losses."""
    a_state, b_state = (p.optimizer.state_dict()["state"] for p in (a, b))
    equal = all(a_state[k][n].equal(v) for k in b_state for n, v in b_state[k].items())
    losses = [[repr((r.step, r.loss, r.lr)) for r in p.history] for p in (a, b)]
    return equal and same(a.model, b.model) and same(a.ema_model, b.ema_model) and (
        losses[0] == losses[1]
    )  # fmt: skip


def stop_after(p, step):
    """Train up to an update, and leave the loop."""
    for record in p.steps():
        if record.step == step:
            return p


def change_loss(p, change):
    """Let `change(loss)`, called with a function, replace every loss."""
    loss = p.diffusion.loss
    p.diffusion.loss = lambda *args, **options: change(lambda: loss(*args, **options))


def spoil(p, steps):
    """Make the loss of these batches, counted from 0, not finite."""
    change_loss(p, lambda loss: loss() * (float("nan") if p.step in steps else 1))


def fail_at(p, step, error):
    """Raise once, in the loss of the update after this one."""
    left = [error]

    def failing(loss):
        if p.step == step and left:
            raise left.pop()
        return loss()

    change_loss(p, failing)


def strike_at(p, step, how=signal.SIGINT):
    """Send this process a signal in the middle of the update after this one, twice."""

    def struck(loss):
        if p.step == step:
            os.kill(os.getpid(), how)
            os.kill(os.getpid(), how)
        return loss()

    change_loss(p, struck)


def run_to_the_end(out_dir, step, changes):
    """Continue from the newest checkpoint; `step` (a shared number) says how far it is."""
    p = pipeline(out_dir, **changes)
    p.resume("auto")

    def note(pipeline, record):
        step.value = record.step

    p.fit(watch=note)


def be(rank, world, port):
    """What `torchrun` tells each process about itself and the others."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip


def run_as(rank, world, port, out_dir, stop, changes):
    """Be process `rank` of `world`: train, stop and save after update `stop`, or go to the end."""
    be(rank, world, port)
    p = pipeline(out_dir, **changes)
    assert p.accelerator.num_processes == world and p.is_main == (rank == 0)
    p.resume("auto")
    stop_after(p, stop)
    p.save()
    if world > 1:
        torch.distributed.destroy_process_group()


def be_struck(rank, world, port, out_dir, how):
    """The last process gets a signal at update 2, by itself."""
    be(rank, world, port)

    def strike(pipeline, record):
        if record.step == 2 and rank == world - 1:
            os.kill(os.getpid(), how)

    pipeline(out_dir).fit(watch=strike)
