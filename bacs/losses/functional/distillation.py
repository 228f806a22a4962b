"""Distillation of logits and of features."""

from __future__ import annotations

from torch import Tensor

from bacs.losses.functional.reductions import (
    Reduction,
    check_old_classes,
    check_same_shape,
    exact,
    reduce,
)


def logit_distillation(logits: Tensor, teacher_logits: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Distillation over the teacher's classes alone, new ones left out (LwF, Li and Hoiem 2016, eq. 2).

    ``-(1/O) sum_{c<O} q_c log p_c``, q = softmax of the teacher, p = softmax of the student's first O logits, at
    temperature 1 and with the 1/O of MiB's code, to which the published weights of LwF and ILT belong.

    Args:
        logits: (B, K, H, W).
        teacher_logits: (B, O, H, W), O <= K. No gradient flows into them.
        reduction: "none" gives (B, H, W); "mean" divides by all pixels, for no label is read.
    """
    loss = _cross_entropies(logits, teacher_logits).mean(dim=1)
    return reduce(loss, loss.numel(), reduction)


def foreground_distillation(logits: Tensor, teacher_logits: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """``-sum_{1<=c<O} q_c log p_c``, q and p the softmax of teacher and student over the first O channels each.

    The background's term is dropped after both softmaxes, and no 1/O is taken. The new classes of the student take
    no part. From the digit notebook (MNIST-Extended, "output distillation"); the form is that of LwF (Li & Hoiem
    2016, eq. 2) at temperature 1.

    Args:
        logits: (B, K, H, W).
        teacher_logits: (B, O, H, W), O <= K. No gradient flows into them.
        reduction: "none" gives (B, H, W); "mean" divides by all pixels, for no label is read.
    """
    loss = _cross_entropies(logits, teacher_logits)[:, 1:].sum(dim=1)
    return reduce(loss, loss.numel(), reduction)


def _cross_entropies(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """(B, O, H, W) ``-q_c log p_c``, both softmaxes over the first O channels."""
    old_classes = teacher_logits.shape[1]
    check_old_classes(old_classes, logits.shape[1])
    log_p = exact(logits)[:, :old_classes].log_softmax(dim=1)
    return -(exact(teacher_logits.detach()).softmax(dim=1) * log_p)


def feature_distillation(features: Tensor, teacher_features: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """``(g - g_old)^2`` (the encoder term of ILT, Michieli and Zanuttigh 2019).

    Args:
        features: g, (B, C, h, w).
        teacher_features: g_old, of the same shape. No gradient flows into them.
        reduction: "none" keeps the shape; "mean" divides by all B * C * h * w entries.
    """
    check_same_shape("features", features, "teacher_features", teacher_features)
    loss = (exact(features) - exact(teacher_features.detach())).square()
    return reduce(loss, loss.numel(), reduction)
