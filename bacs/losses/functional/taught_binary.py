"""Binary cross-entropy whose targets come from a teacher (iCaRL, Rebuffi et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def taught_binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None = None,
    *,
    teach_background: bool = True,
    teacher_weight: float = 1.0,
    reduction: Reduction = "mean",
    denominator: Denominator = "valid",
) -> Tensor:
    """One sigmoid a class; the teacher speaks for its classes, the labels for the rest (iCaRL, Rebuffi et al. 2017).

    ``-sum_c w_c [t_c log s_c + (1 - t_c) log(1 - s_c)]`` with s = sigmoid(z); t = sigmoid of the teacher and w =
    ``teacher_weight`` for the classes that it speaks for, else t = 1 where y = c and w = 1 (Algorithm 3).

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W).
        teacher_logits: (B, O, H, W), O <= K; no gradient flows into them. Left out, labels speak for every class.
        teach_background: whether the teacher speaks for background too.
        teacher_weight: of the classes that the teacher speaks for.
        reduction: "none" gives (B, H, W): a sum over the classes, never a mean.
        denominator: what "mean" divides by. "all" is the official code of MiB and of BACS, where moreover ignored
            pixels are not ignored: they are pixels of no class, of which the teacher speaks as of any other.
    """
    z, y = exact(logits), labels.long()
    ignored = y == IGNORE
    target = torch.zeros_like(z).scatter_(1, y.masked_fill(ignored, 0).unsqueeze(1), 1.0)
    target = target.masked_fill(ignored.unsqueeze(1), 0.0)
    weight = z.new_ones(z.shape[1])
    if teacher_logits is not None:
        check_old_classes(teacher_logits.shape[1], z.shape[1])
        taught = slice(0 if teach_background else 1, teacher_logits.shape[1])
        target[:, taught] = exact(teacher_logits.detach()).to(z).sigmoid()[:, taught]
        weight[taught] = teacher_weight
    loss = F.binary_cross_entropy_with_logits(z, target, reduction="none")
    loss = (loss * weight[:, None, None]).sum(dim=1)
    if denominator == "valid":
        loss = loss.masked_fill(ignored, 0.0)
    return reduce(loss, pixel_count(y, denominator), reduction)
