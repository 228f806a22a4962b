"""Class means of the projected features, their distance to the prototypes, and a map of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacs.distributed import sum_over_ranks
from bacs.losses import functional
from bacs.losses.detection import detector_of
from bacs.model import Model
from bacs.randomness import derive_seed
from bacs.stream import Stream

PERPLEXITY = 30.0


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """After one step; everything on the CPU."""

    means: NDArray[np.float64]
    """(K, P) the mean projected feature of each internal label over the validation images."""
    counts: NDArray[np.float64]
    """(K,) locations behind each mean; 0: the class is not shown, its mean says nothing."""
    prototypes: NDArray[np.float64]
    """(R, P) one a step, or a class."""
    prototype_of_class: NDArray[np.int64]
    """(K,) row of each label's prototype, -1 for background."""

    def distances(self) -> dict[int, float]:
        """L1 distance ``sum_c |mean_c - prototype_c|`` of each shown foreground label to its prototype."""
        shown = np.flatnonzero((self.counts > 0) & (self.prototype_of_class >= 0))
        gaps = np.abs(self.means[shown] - self.prototypes[self.prototype_of_class[shown]]).sum(axis=1)
        return dict(zip(shown.tolist(), gaps.tolist(), strict=True))


@torch.no_grad()
def class_means(stream: Stream, model: Model, step: int, batch_size: int) -> ClassMeans:
    """Over all images of the validation view of ``step``, in eval mode. Must be called by every rank."""
    model.eval()
    detector = detector_of(model)
    n_classes = stream.split.classes_seen(step)
    device = stream.numerics.device
    total = torch.zeros(n_classes, detector.channels + 1, dtype=torch.float64, device=device)
    for batch in stream.in_order(stream.seen_view("val", step), batch_size):
        with stream.numerics.autocast():
            projected = detector.project(model(batch.images).bottleneck)
        total += _class_sums(projected, batch.labels, n_classes)
    packed = sum_over_ranks(total).cpu().numpy()
    sums, counts = packed[:, :-1], packed[:, -1]
    return ClassMeans(
        sums / np.maximum(counts, 1)[:, None],
        counts,
        detector.prototypes.values.double().cpu().numpy(),
        detector.row_of_class(stream.split.step_of_class()[:n_classes]),
    )


def _class_sums(features: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """(K, P + 1) float64: sums of the features (B, P, h, w) by label, the number of locations in the last column.

    The labels (B, H, W) are brought to (h, w) by nearest neighbour, as for the prototypes.
    """
    small = functional.resize_labels(labels, (features.shape[-2], features.shape[-1]))
    counted = small < n_classes
    rows = features.permute(0, 2, 3, 1)[counted].double()
    rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    return rows.new_zeros(n_classes, rows.shape[1]).index_add_(0, small[counted], rows)


def embed(points: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Places (N, P) points in the plane by t-SNE (van der Maaten and Hinton 2008): (N, 2).

    Only neighbourhood means something: positions have no scale, axes no unit, and two pictures cannot be laid over each
    other. The perplexity, an effective number of neighbours, is 30, with fewer points a third of the others; t-SNE asks
    that it be smaller than N. One point alone stays at the origin.
    """
    if len(points) < 2:
        return np.zeros((len(points), 2))
    from sklearn.manifold import TSNE  # takes seconds to import

    perplexity = min(PERPLEXITY, max(1.0, (len(points) - 1) / 3))
    # "exact": the approximation saves nothing at so few points. "random": a start by PCA needs two features.
    method = TSNE(perplexity=perplexity, method="exact", init="random", random_state=derive_seed("t-SNE", seed) % 2**32)
    return method.fit_transform(points).astype(np.float64)
