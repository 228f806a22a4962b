"""The data of a run, step by step: what is trained on, validated on and tested on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bacs.config import RunConfig
from bacs.data import SegmentationData, StepView, normalise, parse_split
from bacs.errors import RequestError
from bacs.losses.base import Batch
from bacs.precision import Numerics
from bacs.randomness import epoch_order


class Stream:
    """Views of a dataset under a task split. Images are normalised and put on the device batch by batch."""

    def __init__(self, config: RunConfig, data: SegmentationData, numerics: Numerics) -> None:
        training = config.training
        self.data = data
        self.numerics = numerics
        self.seed = training.seed
        asked = parse_split(training.split, data.class_names, shuffle=training.shuffle_classes, seed=training.seed)
        joint = training.mode == "joint"
        self.base_classes = asked.heads[0]
        """Foreground classes that count as base in the metrics: those of the split's first step, in joint mode too."""
        self.split = asked.joint() if joint else asked
        self.mode = "overlap" if joint else training.mode
        self._check_not_empty()

    def training_view(self, step: int) -> StepView:
        return StepView(self.data.train, self.split, step, mode=self.mode, purpose="train")

    def seen_view(self, subset: str, step: int) -> StepView:
        """``val`` or ``test`` images that show a class of steps 0..step, with the labels of all those classes."""
        return StepView(getattr(self.data, subset), self.split, step, mode=self.mode, purpose="seen")

    def class_name(self, label: int) -> str:
        """The name of an internal label."""
        return "background" if label == 0 else self.data.class_names[self.split.class_order[label - 1] - 1]

    def shuffled(self, view: StepView, n_batches: int, batch_size: int, *place: int) -> Iterator[Batch]:
        """Batches of one epoch; ``place`` is (step, epoch)."""
        order = epoch_order(len(view), n_batches * batch_size, self.seed, *place)
        for start in range(0, len(order), batch_size):
            yield self.batch(view, order[start : start + batch_size])

    def in_order(self, view: StepView, batch_size: int) -> Iterator[Batch]:
        """Every image once."""
        for start in range(0, len(view), batch_size):
            yield self.batch(view, np.arange(start, min(start + batch_size, len(view))))

    def batch(self, view: StepView, positions: np.ndarray) -> Batch:
        images, labels = view.batch(positions)
        return Batch(self.to_device(images), labels.to(self.numerics.device))

    def to_device(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> normalised float32 on the device, channels last."""
        ready = normalise(images.to(self.numerics.device), self.data.mean, self.data.std)
        return ready.to(memory_format=torch.channels_last)

    def _check_not_empty(self) -> None:
        for step in range(self.split.n_steps):
            if len(self.training_view(step)) == 0:
                raise RequestError.of(
                    "training.split",
                    f"is {self.split.name}, but no training image falls into step {step} in mode {self.mode}",
                    "choose another split or mode, or more training images",
                )
