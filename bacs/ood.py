"""The detector on a dataset of classes that the run never meets: every pixel of it should be unseen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacs.components import Component
from bacs.config import as_ood
from bacs.data import IGNORE, Scenes, SegmentationData
from bacs.distributed import sum_over_ranks
from bacs.errors import RequestError
from bacs.losses.detection import detector_of, size_of
from bacs.model import Model
from bacs.stream import Stream
from bacs.training_config import DEBUG_IMAGES

THRESHOLD = 0.5
"""Seen probability up to which a pixel is called unseen."""


@dataclass(frozen=True, slots=True)
class AllImages:
    """The images of a subset with their full masks, whatever they show."""

    scenes: Scenes
    count: int
    """The first of them only."""

    def __len__(self) -> int:
        return self.count

    def batch(self, positions: NDArray[np.int64], draws: NDArray[np.int64] | None = None) -> tuple[Tensor, Tensor]:
        """uint8 images (B, C, H, W) and uint8 class ids (B, H, W), 255 ignored."""
        return self.scenes.read(positions, draws)


class OodTest:
    """The test images of the group ``ood``, in their deterministic view, normalised like the training images.

    ``dataset.evaluation`` of that group does not matter: the view is always the one that ``crop_val`` scores.
    """

    def __init__(self, dataset: Component, stream: Stream) -> None:
        """Opens the dataset.

        Raises:
            RequestError: with its faults, under the names of the group ``ood``.
        """
        try:
            data: SegmentationData = dataset.factory(dataset.settings)
        except RequestError as error:
            raise RequestError([as_ood(fault) for fault in error.faults]) from None
        count = len(data.test)
        self.images = AllImages(data.test, min(DEBUG_IMAGES, count) if stream.training.debug else count)
        self.stream = stream

    @torch.no_grad()
    def measure(self, model: Model, step: int) -> dict[str, float]:
        """How well the head of ``step``, the last one, calls all valid pixels unseen. Must be called by every rank.

        Returns:
            ``ood/f1`` (positive: unseen) and ``ood/accuracy`` at a seen probability of 0.5, ``ood/seen_mean`` and
            ``ood/seen_var`` of the probability over the pixels. Empty if no pixel is valid.
        """
        model.eval()
        device = self.stream.numerics.device
        sums = torch.zeros(4, dtype=torch.float64, device=device)  # pixels, called unseen, probability, its square
        for batch in self.stream.in_order(self.images, self.stream.training.eval_batch_size):
            seen = self._seen(model, batch.images, step)[batch.labels != IGNORE].double()
            unseen = (seen <= THRESHOLD).double()
            sums += torch.stack([torch.ones_like(seen).sum(), unseen.sum(), seen.sum(), seen.square().sum()])
        return ood_metrics(*sum_over_ranks(sums).tolist())

    def _seen(self, model: Model, images: Tensor, step: int) -> Tensor:
        """(B, H, W) in [0, 1]."""
        detector = detector_of(model)
        with self.stream.numerics.autocast():
            projected = detector.project(model(images).bottleneck)
            return torch.sigmoid(detector.logits(projected, step, size_of(images)))


def ood_metrics(pixels: float, unseen: float, total: float, squares: float) -> dict[str, float]:
    """From sums over the valid pixels, none of which is seen in truth, so that there are no false positives.

    Args:
        pixels: their number.
        unseen: how many of them are called unseen.
        total: sum of their seen probabilities.
        squares: sum of the squares of these.
    """
    if pixels == 0:
        return {}
    mean = total / pixels
    return {
        "ood/f1": 2 * unseen / (pixels + unseen),
        "ood/accuracy": unseen / pixels,
        "ood/seen_mean": mean,
        "ood/seen_var": max(0.0, squares / pixels - mean**2),
    }
