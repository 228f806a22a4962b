"""The loss of the background-shift detector, and its threshold as a prototype margin."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bacs.losses.functional.reductions import (
    Reduction,
    check_same_shape,
    exact,
    reduce,
)


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Binary focal loss of the detector (Lin et al. 2017, eq. 4 and 5).

    ``a (1-p_t)^gamma ce`` with ce = BCE(logits, targets), p_t = exp(-ce), a = alpha on positives, 1 - alpha
    on negatives (1 without alpha).

    Args:
        logits: any shape, such as (B, H, W).
        targets: the same shape, bool or 0/1.
        mask: the same shape, True where an entry counts; left out, all do.
        gamma: exponent, at least 0.
        alpha: weight of the positives, in [0, 1].
        reduction: "none" keeps the shape; "mean" divides by the entries of the mask.
    """
    check_same_shape("targets", targets, "logits", logits)
    z = exact(logits)
    t = targets.to(z)
    ce = F.binary_cross_entropy_with_logits(z, t, reduction="none")
    # The floor keeps the gradient of the power finite for 0 < gamma < 1.
    loss = (-torch.expm1(-ce)).clamp(min=torch.finfo(z.dtype).tiny).pow(gamma) * ce
    if alpha is not None:
        loss = loss * (alpha * t + (1 - alpha) * (1 - t))
    if mask is None:
        return reduce(loss, loss.numel(), reduction)
    check_same_shape("mask", mask, "logits", logits)
    counts = mask.bool()
    return reduce(loss.masked_fill(~counts, 0.0), counts.sum(), reduction)


def detector_weight(epoch: int, epochs: int) -> float:
    """``max(0, 1 - exp(e - E))``, the official weight of BACS's detector loss.

    About 1 for most of a step, it fades in the last epochs.

    Args:
        epoch: e, counted from 0.
        epochs: E, how many there are.
    """
    return -math.expm1(min(epoch - epochs, 0))


def margin_to_threshold(margin: float) -> float:
    """A prototype margin m (logit units) as detector threshold ``tau = sigmoid(m)``."""
    if margin >= 0:
        return 1 / (1 + math.exp(-margin))
    odds = math.exp(margin)
    return odds / (1 + odds)


def threshold_to_margin(threshold: float) -> float:
    """``m = ln(tau / (1 - tau))``, the inverse of `margin_to_threshold`; tau strictly between 0 and 1."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold ({threshold}) must lie strictly between 0 and 1")
    return math.log(threshold) - math.log1p(-threshold)
