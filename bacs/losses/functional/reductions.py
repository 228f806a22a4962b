"""What every loss shares: precision, reductions and what a mean divides by, checks of shapes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bacs.distributed import mean_share, world_size

IGNORE = 255
"""Label of the pixels that are left out of every loss and metric."""

COSINE_FLOOR = 1e-12

Reduction = Literal["none", "mean", "sum"]
Denominator = Literal["valid", "all"]
"""What a mean divides by: the pixels that are not ``IGNORE``, or all of them (the official codes)."""


def exact(x: Tensor) -> Tensor:
    """Float32, or float64 left as it is."""
    return x if x.dtype == torch.float64 else x.float()


def reduce(loss: Tensor, count: Tensor | int, reduction: Reduction) -> Tensor:
    """``loss`` reduced; a mean divides by ``count``, at least 1."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.sum() / (divisor(count) if isinstance(count, Tensor) else max(count, 1))
    raise ValueError(f"reduction ({reduction!r}) must be 'none', 'mean' or 'sum'")


def divisor(count: Tensor) -> Tensor:
    """This rank's share of a count over all ranks, which is taken as at least 1."""
    return count.clamp(min=1) if world_size() == 1 else mean_share(count).clamp(min=1 / world_size())


def pixel_count(labels: Tensor, denominator: Denominator) -> Tensor | int:
    if denominator == "all":
        return labels.numel()
    if denominator == "valid":
        return (labels != IGNORE).sum()
    raise ValueError(f"denominator ({denominator!r}) must be 'valid' or 'all'")


def check_old_classes(old_classes: int, n_classes: int) -> None:
    if not 1 <= old_classes <= n_classes:
        raise ValueError(f"old_classes ({old_classes}) must lie in 1..{n_classes}, the number of logits")


def check_same_shape(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.shape != other.shape:
        raise ValueError(f"{name} {tuple(x.shape)} must have the shape of {other_name} {tuple(other.shape)}")


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine over axis 1; 0 without gradient where a vector vanishes (the usual floor gives huge ones)."""
    length = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    vanishes = length <= COSINE_FLOOR
    return ((a * b).sum(dim=1) / length.masked_fill(vanishes, 1.0)).masked_fill(vanishes, 0.0)
