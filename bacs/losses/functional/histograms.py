"""Histograms of scores in [0, 1], in which medians and rankings of any number of pixels are found."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bacs.losses.functional.reductions import check_same_shape


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
