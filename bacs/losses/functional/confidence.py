"""How sure a teacher is of its prediction, and the labels that follow from it (PLOP, Douillard et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacs.losses.functional.cross_entropy import cross_entropy
from bacs.losses.functional.reductions import (
    IGNORE,
    Denominator,
    Reduction,
    check_same_shape,
    exact,
    pixel_count,
    reduce,
)


def prediction_entropy(logits: Tensor, *, class_mean: bool = False) -> Tensor:
    """Entropy of the prediction over its largest value, ``-sum_c p_c log p_c / log O``, in [0, 1].

    Args:
        logits: (B, O, H, W), O >= 2. Has no gradient.
        class_mean: the mean over the classes in the place of the sum, as in the official code of PLOP; at most 1 / O.

    Returns:
        (B, H, W).
    """
    n_classes = logits.shape[1]
    if n_classes < 2:
        raise ValueError(f"logits have {n_classes} channel(s), but must have background and a class")
    log_p = exact(logits.detach()).log_softmax(dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1) / math.log(n_classes)
    return entropy / n_classes if class_mean else entropy


def score_histogram(scores: Tensor, predicted: Tensor, mask: Tensor, n_classes: int, n_bins: int) -> Tensor:
    """How many pixels of each predicted class have their score in each of ``n_bins`` equal parts of [0, 1].

    Args:
        scores: (B, H, W) in [0, 1].
        predicted: (B, H, W) integers below ``n_classes``.
        mask: (B, H, W) bool, which pixels count.
        n_classes: O, rows.
        n_bins: columns.

    Returns:
        (O, n_bins) int64. Histograms of further images, or of other ranks, are added to it.
    """
    check_same_shape("predicted", predicted, "scores", scores)
    check_same_shape("mask", mask, "scores", scores)
    bins = (scores[mask] * n_bins).long().clamp(min=0, max=n_bins - 1)
    counts = torch.bincount(predicted[mask].long() * n_bins + bins, minlength=n_classes * n_bins)
    return counts.reshape(n_classes, n_bins)


def histogram_median(histogram: Tensor, *, official: bool = False) -> Tensor:
    """The median of every row of `score_histogram`, interpolated within its bin.

    Args:
        histogram: (O, n_bins) counts of equal parts of [0, 1].
        official: as the official code of PLOP searches: what it adds up on the way is the number of each bin, not what
            the bin holds. That is the median only where the first bin holds half of a row. Where no bin alone does, the
            result is infinite (or, in rows of few pixels, minus infinite).

    Returns:
        (O,) float64; 0 for a row without pixels.
    """
    if official:
        medians = [_official_median(row) for row in histogram.cpu().tolist()]
        return torch.tensor(medians, dtype=torch.float64, device=histogram.device)
    up_to = histogram.cumsum(dim=1).double()
    half = up_to[:, -1] / 2
    index = (up_to < half.unsqueeze(1)).sum(dim=1, keepdim=True)
    count = histogram.gather(1, index).squeeze(1)
    below = up_to.gather(1, index).squeeze(1) - count
    return (index.squeeze(1) + (half - below) / count.clamp(min=1)) / histogram.shape[1]


def _official_median(row: list[int]) -> float:
    half, below, n_bins = sum(row) / 2, 0.0, len(row)
    index = count = 0
    for index in range(n_bins):
        # It goes from lower border to lower border, and rounding makes it read bin 28 for 29, 56 for 57, 57 for 58.
        count = row[int(index / n_bins * n_bins)]
        if below <= half <= below + count:
            break
        below += index / n_bins * n_bins
    gap = half - below
    if count > 0:
        return (index + gap / count) / n_bins
    if half == 0:
        return 0.0
    return math.copysign(math.inf, gap) if gap else math.nan


def confident_labels(labels: Tensor, predicted: Tensor, certain: Tensor, replaced: Tensor) -> Tensor:
    """Labels completed by the teacher (PLOP, section 3.3): its prediction where it is certain, else ``IGNORE``.

    Args:
        labels: (B, H, W).
        predicted: (B, H, W), the teacher's classes; background is one of them.
        certain: (B, H, W) bool.
        replaced: (B, H, W) bool, the pixels in question; all others keep their label.

    Returns:
        (B, H, W), new.
    """
    for name, x in (("predicted", predicted), ("certain", certain), ("replaced", replaced)):
        check_same_shape(name, x, "labels", labels)
    completed = predicted.to(labels.dtype).masked_fill(~certain, IGNORE)
    return torch.where(replaced, completed, labels)


def certain_share(certain: Tensor, replaced: Tensor, *, official: bool = False) -> Tensor:
    """nu, the share of an image's replaced pixels of which the teacher is certain (PLOP, section 3.3).

    Args:
        certain: (B, H, W) bool.
        replaced: (B, H, W) bool.
        official: an image without such pixels gets 0, and so no loss at all; else 1, for nothing in it is in doubt.

    Returns:
        (B,) float32 in [0, 1].
    """
    check_same_shape("certain", certain, "replaced", replaced)
    count = replaced.sum(dim=(1, 2)).float()
    share = (certain & replaced).sum(dim=(1, 2)).float() / (count + 1e-6 if official else count.clamp(min=1))
    return share if official else share.masked_fill(count == 0, 1.0)


def completed_cross_entropy(
    logits: Tensor,
    completed: Tensor,
    factors: Tensor,
    labels: Tensor,
    *,
    reduction: Reduction = "mean",
    denominator: Denominator = "valid",
) -> Tensor:
    """Cross-entropy on labels that a teacher has completed, image by image weighed (PLOP, Douillard et al. 2021).

    ``-nu_b log softmax(z)_y``.

    Args:
        logits: (B, K, H, W).
        completed: (B, H, W), y as of `confident_labels`; what is ``IGNORE`` there costs nothing.
        factors: (B,), nu as of `certain_share`.
        labels: (B, H, W), as they were before.
        reduction: "none" gives (B, H, W).
        denominator: what "mean" divides by. "valid": the pixels that are not ignored in ``labels``, so those that the
            teacher is unsure of count. "all": every pixel, as in the official code.
    """
    check_same_shape("labels", labels, "completed", completed)
    loss = cross_entropy(logits, completed, reduction="none")
    return reduce(loss * factors.to(loss)[:, None, None], pixel_count(labels, denominator), reduction)
