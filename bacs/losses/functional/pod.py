"""Local POD: distillation of feature maps pooled over strips of several sizes (PLOP, Douillard et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bacs.losses.functional.reductions import Reduction, check_old_classes, check_same_shape, exact, reduce

POD_SCALES = (1, 2, 4)
"""Regions a side, of each scale."""


def local_pod_embedding(features: Tensor, scales: Sequence[int] = POD_SCALES) -> Tensor:
    """Means over the width and over the height of the regions of a map (PLOP, section 3.2).

    At scale s the map is cut into s x s regions of floor(h / s) x floor(w / s) locations, without what is left over at
    the borders. A map with fewer than s locations a side has no such regions, and the scale is left out.

    Args:
        features: (B, C, h, w).
        scales: s of each scale.

    Returns:
        (B, E). By scale, then by region (row by row): the means over the width, (C, floor(h / s)), then those over
        the height, (C, floor(w / s)).
    """
    x = exact(features)
    b, c, height, width = x.shape
    parts = []
    for s in scales:
        k, m = height // s, width // s
        if k == 0 or m == 0:
            continue
        regions = x[..., : s * k, : s * m].reshape(b, c, s, k, s, m)
        over_width = regions.mean(dim=5).permute(0, 2, 4, 1, 3).reshape(b, s * s, c * k)
        over_height = regions.mean(dim=3).permute(0, 2, 3, 1, 4).reshape(b, s * s, c * m)
        parts.append(torch.cat([over_width, over_height], dim=2).flatten(1))
    return torch.cat(parts, dim=1)


def local_pod(
    features: Tensor, teacher_features: Tensor, *, scales: Sequence[int] = POD_SCALES, reduction: Reduction = "mean"
) -> Tensor:
    """``||E(g^2) - E(g_old^2)||``, E the embedding of `local_pod_embedding` (PLOP, section 3.2).

    The maps are squared entry by entry, and the norm is not, both as in the official code. The gradient is 0 where the
    norm is 0.

    Args:
        features: g, (B, C, h, w).
        teacher_features: g_old, (B, C, h, w). No gradient flows into them.
        scales: regions a side, of each scale; at least one must fit.
        reduction: "none" gives (B,); "mean" divides by the images.
    """
    check_same_shape("features", features, "teacher_features", teacher_features)
    embedding = local_pod_embedding(exact(features).square(), scales)
    target = local_pod_embedding(exact(teacher_features.detach()).square(), scales)
    loss = torch.linalg.vector_norm(embedding - target, dim=1)
    return reduce(loss, loss.numel(), reduction)


def pod_distillation(
    maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    factors: Sequence[float],
    *,
    scales: Sequence[int] = POD_SCALES,
    reduction: Reduction = "mean",
) -> Tensor:
    """The mean over the maps of factor times `local_pod` (PLOP, section 3.2).

    PLOP multiplies it by sqrt(K / n), K logits of which n are new; the caller does.

    Args:
        maps: of the student, each (B, C, h, w) in its own size.
        teacher_maps: of the same shapes. No gradient flows into them.
        factors: one per map.
        scales: see `local_pod_embedding`.
        reduction: over the images; "none" gives (B,). The mean over the maps is always taken.
    """
    losses = [
        factor * local_pod(g, g_old, scales=scales, reduction=reduction)
        for g, g_old, factor in zip(maps, teacher_maps, factors, strict=True)
    ]
    return torch.stack(losses).mean(dim=0)


def collapse_new_classes(logits: Tensor, old_classes: int) -> Tensor:
    """The logits in the teacher's classes: those of new classes are added to background's, which they were (PLOP).

    Args:
        logits: (B, K, h, w).
        old_classes: O, background included.

    Returns:
        (B, O, h, w).
    """
    check_old_classes(old_classes, logits.shape[1])
    z = exact(logits)
    background = z[:, :1] + z[:, old_classes:].sum(dim=1, keepdim=True)
    return torch.cat([background, z[:, 1:old_classes]], dim=1)
