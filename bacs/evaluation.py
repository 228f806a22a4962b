"""What a model scores on the images of the classes (or domains) seen so far."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bacs.distributed import sum_over_ranks
from bacs.metrics import ConfusionMatrix
from bacs.model import Model
from bacs.stream import Stream

WINDOW_STRIDE = 2 / 3
"""Step of the sliding window, as a share of its size."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Quality after one continual step; plain numbers, so that checkpoints can hold them."""

    iou: list[float]
    """(K,) over all images; NaN for a class without a pixel in the ground truth, or what the evaluator says instead."""
    matrix: list[list[int]]
    """(K, K) pixels of all images, rows = ground truth, columns = prediction."""
    by_domain: list[list[float]] = field(default_factory=list)
    """In a stream of domains: (K,) for the domains of each step 0..t alone."""


class Evaluator:
    """Measures on the deterministic view of every image, or at its original resolution (``dataset.evaluation``)."""

    def __init__(self, stream: Stream, batch_size: int, absent: float = math.nan) -> None:
        """Args: absent: the IoU of a class without a pixel in the ground truth."""
        self.stream = stream
        self.batch_size = batch_size
        self.absent = absent

    def measure(self, model: Model, subset: str, step: int) -> Scores:
        """Scores after ``step``. Args: subset: ``val`` or ``test``."""
        if not self.stream.by_domain:
            return self._scores(self.matrix(model, subset, step))
        parts = [self.matrix(model, subset, earlier) for earlier in range(step + 1)]
        total = ConfusionMatrix(parts[0].n_classes)
        for part in parts:
            total.matrix = total.matrix + part.matrix.cpu()
        return self._scores(total, parts)

    def _scores(self, matrix: ConfusionMatrix, by_domain: Sequence[ConfusionMatrix] = ()) -> Scores:
        return Scores(self._iou(matrix), matrix.matrix.tolist(), [self._iou(part) for part in by_domain])

    def _iou(self, matrix: ConfusionMatrix) -> list[float]:
        return matrix.iou(self.absent).tolist()

    @torch.no_grad()
    def matrix(self, model: Model, subset: str, step: int) -> ConfusionMatrix:
        """Pixel counts over ``Stream.seen_view``, of all ranks together."""
        model.eval()
        stream = self.stream
        matrix = ConfusionMatrix(stream.split.classes_seen(step))
        view = stream.seen_view(subset, step)
        whole = stream.data.evaluation == "full"
        for batch in stream.whole(view) if whole else stream.in_order(view, self.batch_size):
            logits = self.over(batch.images, lambda images: model(images).logits)
            matrix.update(logits.argmax(dim=1), batch.labels)
        matrix.matrix = sum_over_ranks(matrix.matrix.to(stream.numerics.device))
        return matrix

    def over(self, images: Tensor, maps: Callable[[Tensor], Tensor]) -> Tensor:
        """Applies ``maps``, which keeps (H, W), to normalised images in the way in which images are scored: at once,
        or, where whole images are scored, to windows."""
        with self.stream.numerics.autocast():
            data = self.stream.data
            return sliding(images, maps, data.window) if data.evaluation == "full" else maps(images)


def sliding(images: Tensor, maps: Callable[[Tensor], Tensor], window: tuple[int, int]) -> Tensor:
    """The mean of the maps of overlapping windows of an image.

    Args:
        images: (1, C', H, W).
        maps: (1, C', h, w) -> (1, C, h, w).
        window: (h, w), that of the training crop; where the image is smaller, its own size.

    Returns:
        (1, C, H, W).
    """
    _, _, height, width = images.shape
    high, wide = min(height, window[0]), min(width, window[1])
    total: Tensor | None = None
    count = images.new_zeros(1, 1, height, width)
    for top, left in itertools.product(window_starts(height, high), window_starts(width, wide)):
        place = (..., slice(top, top + high), slice(left, left + wide))
        found = maps(images[place]).float()
        if total is None:
            total = found.new_zeros(1, found.shape[1], height, width)
        total[place] += found
        count[place] += 1
    assert total is not None, "every image has a window"
    return total / count


def window_starts(size: int, window: int) -> list[int]:
    """First pixel of each window along one axis: overlapping, from border to border."""
    stride = max(1, int(window * WINDOW_STRIDE))
    return [*range(0, size - window, stride), size - window]
