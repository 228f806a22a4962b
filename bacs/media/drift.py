"""How far the features of images of the step before move while a step is trained."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bacs.model import Model
from bacs.randomness import generator
from bacs.stream import Stream

EVERY = 4
"""Optimisation steps between two measurements, counted over the continual step."""
IMAGES = 10
DRAWN = 2000
"""Most measurements of a continual step that are kept to be drawn."""

Measurement = tuple[int, float]
"""Optimisation steps done in the continual step, and the change of the features since it began."""


class Drift:
    """Mean absolute change of bottleneck features, each location's vector scaled to length 1.

    Looks at the model in eval mode, without gradients or random numbers, so that training does not notice.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.measured: list[Measurement] = []
        """Of the step under way, at equal distances; survives in snapshots."""
        self._distance = EVERY
        self._total, self._count = 0.0, 0  # of the epoch under way
        self._images: Tensor | None = None
        self._before: Tensor

    def begin_step(self, step: int, model: Model, iterations: int) -> None:
        """Keeps the features as they are before anything of ``step`` is learnt; in step 0 there is nothing to keep.

        Growing by new classes does not move them, so the model may have grown already.

        Args:
            step: 0-based.
            model: of the step before.
            iterations: optimisation steps that the continual step will have.
        """
        self.measured, self._images = [], None
        self._distance = EVERY * math.ceil(iterations / (EVERY * DRAWN))
        self._total, self._count = 0.0, 0
        if step == 0:
            return
        view = self.stream.training_view(step - 1)
        rng = generator(self.stream.training.seed, "drift", step)
        positions = np.sort(rng.choice(len(view), size=min(IMAGES, len(view)), replace=False))
        self._images = self.stream.batch(view, positions).images
        self._before = self._features(model, self._images)

    def trained(self, done: int, model: Model) -> None:
        """Measures, if it is due. Args: done: optimisation steps of the continual step so far."""
        if self._images is None or done % EVERY != 0:
            return
        change = float((self._features(model, self._images) - self._before).abs().mean())
        self._total, self._count = self._total + change, self._count + 1
        if done % self._distance == 0:
            self.measured.append((done, change))

    def end_epoch(self) -> float | None:
        """The mean of the measurements of the epoch that ends; ``None`` if there are none."""
        mean = self._total / self._count if self._count else None
        self._total, self._count = 0.0, 0
        return mean

    @torch.no_grad()
    def _features(self, model: Model, images: Tensor) -> Tensor:
        """(B, C, h, w) float32."""
        training = model.training
        model.eval()
        with self.stream.numerics.autocast():
            features = model(images).bottleneck.float()
        model.train(training)
        return functional.normalize(features, dim=1)
