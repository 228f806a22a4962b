"""A small network with its detector at the end of a step, and as many validation pixels for it as one likes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from bacs.losses.base import Batch, StepContext
from bacs.losses.detection import Detection, DetectionSettings
from bacs.losses.functional import IGNORE
from tests.bacs.losses.toy import context_at, unet

SIDE = 512
PIXELS = SIDE**2
"""Of a batch."""


def finished_step() -> tuple[Detection, StepContext]:
    """Step 0; the seen probabilities of the detector are spread widely."""
    network = unet()
    detection = Detection(DetectionSettings())
    detector = detection.build(network)
    context = context_at(0, network, detector)
    with torch.no_grad():
        detector.projector[1].weight.fill_(40)
        detector.heads[0].weight.uniform_(-30, 30)
    context.model.eval()
    return detection, context


def batches(count: int) -> Iterator[Batch]:
    """One image each, far smaller than its labels, so that what follows the network takes most of the time."""
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(1, 1, 16, 16, generator=generator)
        blocks = torch.tensor([0, 0, 0, 1, 2, IGNORE])[torch.randint(6, (1, 16, 16), generator=generator)]
        scale = SIDE // 16
        yield Batch(image, blocks.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2))


def peak_mb() -> float:
    """Most memory that this process has ever held, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
