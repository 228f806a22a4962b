"""Softmax cross-entropy over the pixels that are labelled."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bacs.distributed import mean_share
from bacs.losses.functional.reductions import (
    IGNORE,
    Denominator,
    Reduction,
    exact,
    pixel_count,
    reduce,
)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Denominator = "valid",
) -> Tensor:
    """Softmax cross-entropy ``-w_y log softmax(z)_y`` (with weights: DER++, Buzzega et al. 2020, eq. 6).

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W), integers in 0..K-1 or ``IGNORE``.
        class_weights: (K,), one weight per class; left out, every weight is 1.
        reduction: "none" gives (B, H, W).
        denominator: what "mean" divides by. "valid": the non-ignored pixels or, with ``class_weights``, their
            summed weight (0 if that is 0). "all": every pixel.
    """
    z, y = exact(logits), labels.long()
    weights = None if class_weights is None else class_weights.to(z)
    loss = F.cross_entropy(z, y, weight=weights, ignore_index=IGNORE, reduction="none")
    if weights is None or denominator == "all" or reduction != "mean":
        return reduce(loss, pixel_count(y, denominator), reduction)
    ignored = y == IGNORE
    total = mean_share(weights[y.masked_fill(ignored, 0)].masked_fill(ignored, 0.0).sum())
    return loss.sum() / total.masked_fill(total == 0, 1.0)
