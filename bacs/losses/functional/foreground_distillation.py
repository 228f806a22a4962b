"""Distillation of the old foreground classes alone."""

from __future__ import annotations

from torch import Tensor

from bacs.losses.functional.reductions import Reduction, check_old_classes, exact, reduce


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
    old_classes = teacher_logits.shape[1]
    check_old_classes(old_classes, logits.shape[1])
    log_p = exact(logits)[:, :old_classes].log_softmax(dim=1)
    q = exact(teacher_logits.detach()).softmax(dim=1)
    loss = -(q * log_p)[:, 1:].sum(dim=1)
    return reduce(loss, loss.numel(), reduction)
