"""A student and its teacher at step 1 of a stream, small enough for tests of methods."""

from __future__ import annotations

import numpy as np
import torch

from bacs.detector import Detector
from bacs.losses.base import Batch, StepContext
from bacs.model import Model
from bacs.networks import SegmentationNetwork, UNet, UNetConfig

N_OLD, N_CLASSES = 3, 5
"""Background and two classes, then two more."""


def unet() -> SegmentationNetwork:
    torch.manual_seed(0)
    return UNet(UNetConfig(width=4, num_layers=2), n_channels=1)


def context_at(
    step: int, network: SegmentationNetwork, detector: Detector | None = None, *, old_labels_shown: bool = False
) -> StepContext:
    """Step 0 or 1, with heads for two classes a step."""
    model = Model(network, detector)
    model.grow(2, "random")
    teacher = None
    if step == 1:
        teacher = model.snapshot()
        model.grow(2, "random")
    return StepContext(
        step=step,
        epoch=0,
        epochs=1,
        model=model.train(),
        teacher=teacher,
        n_classes=N_CLASSES if step else N_OLD,
        old_classes=N_OLD if step else 0,
        step_of_class=np.array([-1, 0, 0, 1, 1])[: N_CLASSES if step else N_OLD],
        old_labels_shown=old_labels_shown,
    )


def batch_of(*labels: int, count: int = 3, side: int = 16, channels: int = 1) -> Batch:
    """Random images; every pixel is labelled with one of ``labels``, at random."""
    generator = torch.Generator().manual_seed(1)
    picks = torch.randint(len(labels), (count, side, side), generator=generator)
    return Batch(torch.randn(count, channels, side, side, generator=generator), torch.tensor(labels)[picks])
