"""How far `bacs.metrics.auroc_ap` of a histogram may be from that of the scores, by the formulas that it states."""

from __future__ import annotations

import torch
from torch import Tensor


def auroc_error(histogram: Tensor) -> float:
    """The largest difference of AUROC that the order within the bins can make."""
    negatives, positives = histogram.double()
    return float((negatives * positives).sum() / (2 * negatives.sum() * positives.sum()))


def ap_range(histogram: Tensor) -> tuple[float, float]:
    """The least and the largest AP that the order within the bins can give."""
    n, p = histogram[:, histogram[1] > 0].double()
    f, t = (row.flip(0).cumsum(0).flip(0)[histogram[1] > 0] for row in histogram.double())
    # sum_{i<p} (t - i) / (t - i + f) is p - f sum_{i<p} 1 / (t - i + f), a piece of the harmonic series.
    worst = p - f * (torch.digamma(t + f + 1) - torch.digamma(t - p + f + 1))
    best = p * t / (t + f - n)
    return float(worst.sum() / p.sum()), float(best.sum() / p.sum())
