"""Distillation of logits and of features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bacs.distributed import mean_share, world_size
from bacs.losses.functional.reductions import (
    Reduction,
    check_old_classes,
    check_same_shape,
    exact,
    reduce,
)

COSINE_FLOOR = 1e-12


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


def masked_distillation(
    features: Tensor,
    teacher_features: Tensor,
    mask: Tensor,
    mode: str = "ref",
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Keeps features g near the teacher's where the mask Q holds (BACS, before lambda).

    - "ref": ``sqrt(sum_j ((Q g_old)^2 - (Q g)^2)^2)`` along the width j. Its gradient is 0 where the norm is 0.
    - "l2": ``Q ||g_old - g||^2 / C``.
    - "cos": ``Q (1 - cos(g_old, g))``.

    Args:
        features: g, (B, C, h, w).
        teacher_features: g_old, (B, C, h, w). No gradient flows into them.
        mask: Q, (B, h, w), bool or in [0, 1], at the resolution of the features (`resize_mask`).
        mode: "ref", "l2" or "cos".
        reduction: "none" gives (B, C, h) for "ref", else (B, h, w); "mean" divides by all B * C * h norms for "ref",
            else by |Q| + 1.
    """
    check_same_shape("features", features, "teacher_features", teacher_features)
    check_same_shape("mask", mask, "one feature channel", features[:, 0])
    g, g_old = exact(features), exact(teacher_features.detach())
    q = mask.to(g)
    if mode == "ref":
        channels = q.unsqueeze(1)
        difference = (g_old * channels).square() - (g * channels).square()
        norms = torch.linalg.vector_norm(difference, dim=-1)
        return norms.mean() if reduction == "mean" else reduce(norms, norms.numel(), reduction)
    if mode == "l2":
        distance = (g_old - g).square().mean(dim=1)
    elif mode == "cos":
        distance = 1 - cosine(g, g_old)
    else:
        raise ValueError(f"mode ({mode!r}) must be 'ref', 'l2' or 'cos'")
    if reduction == "mean":
        return (q * distance).sum() / (mean_share(q.sum()) + 1 / world_size())
    return reduce(q * distance, 1, reduction)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine over axis 1; 0 without gradient where a vector vanishes (the usual floor gives huge ones)."""
    length = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    vanishes = length <= COSINE_FLOOR
    return ((a * b).sum(dim=1) / length.masked_fill(vanishes, 1.0)).masked_fill(vanishes, 0.0)


def resize_mask(mask: Tensor, size: tuple[int, int], share: float = 0.5) -> Tensor:
    """The mask at the resolution of a feature map: True where more than ``share`` of the area is.

    Area down-sampling, so that no map is computed at full resolution.

    Args:
        mask: (B, H, W) bool.
        size: (h, w).
        share: in [0, 1); the comparison is strict.

    Returns:
        (B, h, w) bool.
    """
    return F.adaptive_avg_pool2d(mask.float().unsqueeze(1), size).squeeze(1) > share
