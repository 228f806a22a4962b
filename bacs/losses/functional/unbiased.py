"""The terms of MiB, in which background stands for classes of other steps (Cermelli et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from bacs.losses.functional.reductions import (
    IGNORE,
    Denominator,
    Reduction,
    check_old_classes,
    exact,
    pixel_count,
    reduce,
)


def unbiased_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    old_classes: int,
    *,
    include_background: bool = True,
    keep_old_labels: bool = False,
    reduction: Reduction = "mean",
    denominator: Denominator = "valid",
) -> Tensor:
    """Cross-entropy where background stands for every old class too (MiB, Cermelli et al. 2020, eq. 5).

    ``-log sum_{c<O} p_c`` for labels below O, ``-log p_y`` for the classes of this step: term B of BACS
    and the classification loss of MiB.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W).
        old_classes: O, background included.
        include_background: False lets the pixels that would be folded into background contribute 0 (``ukd``
            off). They still count in the mean.
        keep_old_labels: fold label 0 only; a pixel labelled with an old class gets ordinary cross-entropy.
            For the sequential mode, where old classes are labelled.
        reduction: "none" gives (B, H, W).
        denominator: what "mean" divides by. "all" is the official code of MiB and of BACS.
    """
    check_old_classes(old_classes, logits.shape[1])
    z, y = exact(logits), labels.long()
    y_or_zero = y.masked_fill(y == IGNORE, 0)
    folded = y_or_zero == 0 if keep_old_labels else y_or_zero < old_classes
    own = z.gather(1, y_or_zero.unsqueeze(1)).squeeze(1)
    score = torch.where(folded, z[:, :old_classes].logsumexp(dim=1), own)
    loss = z.logsumexp(dim=1) - score
    left_out = y == IGNORE if include_background else folded
    loss = loss.masked_fill(left_out, 0.0)
    return reduce(loss, pixel_count(y, denominator), reduction)


def unbiased_distillation(logits: Tensor, teacher_logits: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Distillation where new classes are background to the teacher (MiB, Cermelli et al. 2020).

    ``-(1/O) [q_0 log(p_0 + sum_{c>=O} p_c) + sum_{1<=c<O} q_c log p_c]``, q = softmax of the teacher, p of
    the student (MiB, Cermelli et al. 2020, eq. 8, with the 1/O of the official code).

    Args:
        logits: (B, K, H, W).
        teacher_logits: (B, O, H, W), O <= K. No gradient flows into them.
        reduction: "none" gives (B, H, W); "mean" divides by all pixels, for no label is read.
    """
    old_classes = teacher_logits.shape[1]
    check_old_classes(old_classes, logits.shape[1])
    z = exact(logits)
    q = exact(teacher_logits.detach()).softmax(dim=1)
    background = torch.cat([z[:, :1], z[:, old_classes:]], dim=1).logsumexp(dim=1)
    old = (q[:, 1:] * z[:, 1:old_classes]).sum(dim=1)
    # q sums to 1, so the log-normaliser of p is subtracted once.
    loss = (z.logsumexp(dim=1) - q[:, 0] * background - old) / old_classes
    return reduce(loss, loss.numel(), reduction)
