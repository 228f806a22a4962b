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
