"""The losses of SDR on the features of each class (Michieli & Zanuttigh, CVPR 2021, section 3).

Features are (B, C, h, w); label maps are (B, h, w) at their resolution (`resize_labels`), and a location labelled
``IGNORE`` belongs to no class. The channel axis is moved last before features are sorted by class; the official code
masks (B, C, h, w) directly, which mixes the channels of a batch. Classes are those of the batches of all ranks, and so
are their means: every rank gets the loss of the one big batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bacs.distributed import sum_over_ranks, world_size
from bacs.losses.functional.reductions import IGNORE, Reduction, check_same_shape, exact, reduce

_FLOOR = 1e-15
"""Added to divisors, as in the official code."""


def class_sums(features: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Sums (K, C) of the features of each class and the number (K,) of its locations, over all ranks.

    Args:
        features: (B, C, h, w). Gradients flow back into them.
        labels: (B, h, w), in 0..K-1 or ``IGNORE``.
        n_classes: K.
    """
    rows, index = _by_location(features, labels, n_classes)
    return _over_ranks(_per_class(rows, index, n_classes)), _counts(index, n_classes, rows)


def class_means(features: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """As `class_sums`, but means; those of absent classes are 0."""
    sums, counts = class_sums(features, labels, n_classes)
    return sums / counts.clamp(min=1).unsqueeze(1), counts


def attraction(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    known: Tensor,
    *,
    reduction: Reduction = "mean",
    decaying: bool = False,
) -> Tensor:
    """Draws the features of a class to its prototype (SDR, section 3.3): per class ``mean (f - p)^2``.

    Args:
        features: f, (B, C, h, w).
        labels: (B, h, w), in 0..K-1 or ``IGNORE``.
        prototypes: p, (K, C). No gradient flows into them.
        known: (K,) bool, the classes that have a prototype; features of the others are left out.
        reduction: "none" gives (K,), the mean over the class's locations and the channels, 0 for absent classes;
            "mean" divides by the classes present.
        decaying: in the place of "mean", the official code's running total, which is divided by the P classes
            present after each of them: the k-th of these weighs P^(k-1-P).
    """
    n_classes = len(prototypes)
    rows, index = _by_location(features, labels, n_classes)
    targets = torch.cat([prototypes.detach().to(rows), rows.new_zeros(1, rows.shape[1])])
    squares = (rows - targets[index]).square().mean(dim=1, keepdim=True)
    counts = _counts(index, n_classes, rows)
    present = known & (counts > 0)
    per_class = _over_ranks(_per_class(squares, index, n_classes))[:, 0] / counts.clamp(min=1)
    per_class = per_class.masked_fill(~present, 0.0)
    if decaying and reduction == "mean":
        n_present = int(present.sum())
        places = torch.arange(n_present, device=rows.device) - n_present
        return (per_class[present] * rows.new_tensor(max(n_present, 1)).pow(places)).sum()
    return reduce(per_class, int(present.sum()), reduction)


def repulsion(features: Tensor, labels: Tensor, n_classes: int, *, reduction: Reduction = "mean") -> Tensor:
    """Drives the class means of a batch apart (SDR, section 3.3): ``1 / ||mu_a - mu_b||`` per pair of classes.

    Args:
        features: (B, C, h, w).
        labels: (B, h, w), in 0..K-1 or ``IGNORE``.
        n_classes: K.
        reduction: "none" gives one value per pair of present classes whose means differ; "mean" divides by these
            pairs (0 where there is none; the official code: NaN).
    """
    means, counts = class_means(features, labels, n_classes)
    present = means[counts > 0]
    first, second = torch.triu_indices(len(present), len(present), offset=1, device=means.device)
    squares = (present[first] - present[second]).square().sum(dim=1)
    inverse = squares[squares > 0].rsqrt()
    return reduce(inverse, inverse.numel(), reduction)


def sparsity(features: Tensor, labels: Tensor, n_classes: int, *, reduction: Reduction = "mean") -> Tensor:
    """Concentrates features in few channels (SDR, section 3.4): ``sum_c exp(f_c) / sum_c f_c``.

    f is the feature divided by the largest value that any channel takes in its class. Locations whose features sum to
    nothing, where the ratio has no bound, are left out.

    Args:
        features: (B, C, h, w), not negative where the ratio is to make sense.
        labels: (B, h, w), in 0..K-1 or ``IGNORE``.
        n_classes: K.
        reduction: "none" gives (B, h, w), 0 where a location is left out; "mean" divides by the others.
    """
    rows, index = _by_location(features, labels, n_classes)
    top = rows.new_zeros(n_classes + 1).scatter_reduce(0, index, rows.amax(dim=1), "amax", include_self=False)
    if world_size() > 1:
        top = _MaxOverRanks.apply(top)
    divisor = top[index]
    scaled = rows / torch.where(divisor > 0, divisor + _FLOOR, 1.0).unsqueeze(1)
    total = scaled.sum(dim=1)
    counted = (index < n_classes) & (divisor > 0) & (total > 0)
    ratio = scaled.exp().sum(dim=1) / torch.where(counted, total + _FLOOR, 1.0)
    loss = torch.where(counted, ratio, 0.0).view(labels.shape)
    return reduce(loss, counted.sum(), reduction)


def matching(
    features: Tensor, labels: Tensor, prototypes: Tensor, known: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Holds the mean feature of an old class at its prototype (SDR, section 3.2): per class ``mean (mu - p)^2``.

    Args:
        features: (B, C, h, w).
        labels: (B, h, w), the old class that a location shows, else ``IGNORE``.
        prototypes: p, (K, C). No gradient flows into them.
        known: (K,) bool, the classes that have a prototype.
        reduction: "none" gives (K,), the mean over the channels, 0 for absent classes; "mean" divides by the classes
            present.
    """
    means, counts = class_means(features, labels, len(prototypes))
    present = known & (counts > 0)
    per_class = (means - prototypes.detach().to(means)).square().mean(dim=1).masked_fill(~present, 0.0)
    return reduce(per_class, int(present.sum()), reduction)


def _by_location(features: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Features (N, C) and class (N,) of every location; K stands for none."""
    check_same_shape("labels", labels, "one feature channel", features[:, 0])
    rows = exact(features).permute(0, 2, 3, 1).flatten(0, 2)
    return rows, labels.long().masked_fill(labels == IGNORE, n_classes).flatten()


def _per_class(rows: Tensor, index: Tensor, n_classes: int) -> Tensor:
    return rows.new_zeros(n_classes + 1, rows.shape[1]).index_add(0, index, rows)[:n_classes]


def _counts(index: Tensor, n_classes: int, like: Tensor) -> Tensor:
    return sum_over_ranks(torch.bincount(index, minlength=n_classes + 1)[:n_classes].to(like))


def _over_ranks(local: Tensor) -> Tensor:
    """The sum over all ranks, of which only this rank's share has a gradient.

    That gradient is scaled by the number of ranks, so that averaging those of all ranks sums them.
    """
    if world_size() == 1:
        return local
    fixed = local.detach()
    return sum_over_ranks(fixed) + world_size() * (local - fixed)


class _MaxOverRanks(torch.autograd.Function):
    """Element-wise maximum; the gradient of all ranks goes to the one that has it."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        top = local.clone()
        dist.all_reduce(top, dist.ReduceOp.MAX)
        mine = (local == top).to(local)
        ctx.save_for_backward(mine / sum_over_ranks(mine))
        return top

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (share,) = ctx.saved_tensors
        return share * sum_over_ranks(gradient)
