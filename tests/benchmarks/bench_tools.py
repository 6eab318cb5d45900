"""What several benchmarks share: the FLOPs of a network, and random images to train it on."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ddpm_helpers.config import TrainConfig
from ddpm_helpers.data.dataset import to_float
from ddpm_helpers.training import build_model


def forward_flops(config: TrainConfig) -> int:
    """Count the network's floating-point operations per image; a multiply-add is two."""
    net = build_model(config, 10).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *net.image_shape), torch.ones(1, dtype=torch.int64))
    return counter.get_total_flops()


class RandomImages:
    """One batch of random colour images with labels, in the form of `TrainingData`."""

    classes, name = tuple("0123456789"), "noise"

    def __init__(self, n: int, size: int) -> None:
        self.images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
        self.image_shape = tuple(self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, *, seed: int, epoch: int = 0, device: Any = None) -> Any:
        """Yield the batch, as `ImageDataset.batches` does."""
        y = torch.arange(len(self)) % 10
        yield to_float(self.images).to(device), y.to(device)
