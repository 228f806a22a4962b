"""The terms of BACS that ask the detector where background hides classes of earlier steps."""

from __future__ import annotations

import torch
from torch import Tensor

from bacs.distributed import mean_share, world_size
from bacs.losses.functional.reductions import (
    IGNORE,
    Denominator,
    Reduction,
    check_same_shape,
    cosine,
    exact,
    pixel_count,
    reduce,
)
from bacs.losses.functional.unbiased import unbiased_cross_entropy


def seen_weight(seen: Tensor, threshold: float) -> Tensor:
    """How surely a pixel shows a class of an earlier step: w of BACS.

    The largest probability over the heads, raised to 1 where it is strictly above the threshold. Has no
    gradient.

    Args:
        seen: (B, R, H, W) probabilities of the detector heads, or (B, H, W) when already reduced.
        threshold: tau, in [0, 1].

    Returns:
        (B, H, W), in [0, 1].
    """
    s = exact(seen.detach())
    if s.dim() == 4:
        s = s.amax(dim=1)
    return s.masked_fill(s > threshold, 1.0)


def background_foreground_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | None,
    gamma: float,
    *,
    reduction: Reduction = "mean",
    denominator: Denominator = "valid",
) -> Tensor:
    """Background against foreground, doubtful background weighed down: term A of BACS.

    ``-(1-w)^gamma log p_0`` on background, ``-log(1-p_0)`` on foreground, p = softmax(z). With gamma = 0
    every weight is 1, also where w = 1.

    Args:
        logits: (B, K, H, W), K >= 2.
        labels: (B, H, W).
        weight: (B, H, W), w in [0, 1] as of `seen_weight`; None stands for 0 everywhere. No gradient flows
            into it.
        gamma: exponent, at least 0.
        reduction: "none" gives (B, H, W).
        denominator: what "mean" divides by.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"logits have {logits.shape[1]} channel(s), but must have background and a class")
    z = exact(logits)
    background = labels == 0
    score = torch.where(background, z[:, 0], z[:, 1:].logsumexp(dim=1))
    loss = z.logsumexp(dim=1) - score
    if weight is not None:
        check_same_shape("weight", weight, "labels", labels)
        doubt = (1 - weight.detach().to(z)).clamp(min=0).pow(gamma)
        loss = loss * doubt.masked_fill(~background, 1.0)
    loss = loss.masked_fill(labels == IGNORE, 0.0)
    return reduce(loss, pixel_count(labels, denominator), reduction)


def bacs_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    seen: Tensor,
    old_classes: int,
    *,
    gamma: float = 2.0,
    threshold: float = 0.5,
    ukd: bool = True,
    keep_old_labels: bool = False,
    reduction: Reduction = "mean",
    denominator: Denominator = "valid",
) -> Tensor:
    """The background-aware cross-entropy of BACS: terms A + B.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W).
        seen: (B, R, H, W) or (B, H, W), probabilities of the detector; no gradient flows into them.
        old_classes: O, background included.
        gamma: exponent of the background weight (1-w).
        threshold: tau; above it a pixel counts as certainly seen.
        ukd: whether background pixels enter term B.
        keep_old_labels: see `unbiased_cross_entropy`.
        reduction: "none" gives (B, H, W).
        denominator: what "mean" divides by. "all" is the official code.
    """
    z = exact(logits)
    weight = seen_weight(seen, threshold)
    term_a = background_foreground_cross_entropy(z, labels, weight, gamma, reduction="none")
    term_b = unbiased_cross_entropy(
        z, labels, old_classes, include_background=ukd, keep_old_labels=keep_old_labels, reduction="none"
    )
    return reduce(term_a + term_b, pixel_count(labels, denominator), reduction)


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
