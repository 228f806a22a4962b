"""Losses on replayed images."""

from __future__ import annotations

import torch
from torch import Tensor

from bacs.losses.functional.reductions import (
    check_old_classes,
    check_same_shape,
    cosine,
    divisor,
    exact,
)


def transplant(
    stored_logits: Tensor,
    logits: Tensor,
    valid_channels: Tensor,
    ignore_background: bool = True,
    *,
    one_per_count: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fills what a stored item cannot know with the student's logits, in every sample (BACS).

    Args:
        stored_logits: (B, K, h, w), grown to the K channels of the student (with any value).
        logits: (B, K, h, w), the student's.
        valid_channels: (B,), how many logits the network had when the item was stored.
        ignore_background: also fill channel 0, for the background of an item may hide classes of other steps.
        one_per_count: fill only one sample per distinct number in ``valid_channels``, as the original does
            (``compat.single_transplant``); what others cannot know counts as stored.

    Returns:
        The target (B, K, h, w), without gradient, and the mask (B, K, 1, 1), True where the stored logits
        were kept.
    """
    check_same_shape("stored_logits", stored_logits, "logits", logits)
    channels = torch.arange(logits.shape[1], device=logits.device)
    valid = valid_channels.to(logits.device)
    if one_per_count:
        valid = _valid_of_one_per_count(valid, logits.shape[1])
    known = channels < valid.unsqueeze(1)
    if ignore_background:
        known = known & (channels > 0)
    mask = known[:, :, None, None]
    z = exact(logits.detach())
    return torch.where(mask, stored_logits.detach().to(z), z), mask


def _valid_of_one_per_count(valid_channels: Tensor, n_channels: int) -> Tensor:
    """(B,) ``n_channels`` but for the samples that the original picks.

    For the g-th distinct count it should compare the groups of the samples with g, but takes the group of sample g as
    the number of a sample; so the one it picks may belong to another count.
    """
    counts, group = valid_channels.unique(return_inverse=True)
    valid = torch.full_like(valid_channels, n_channels)
    for g, count in enumerate(counts):
        picked = group[g]
        valid[picked] = torch.minimum(valid[picked], count)
    return valid


def dark_replay(
    logits: Tensor,
    stored_logits: Tensor,
    valid_channels: Tensor,
    *,
    ignore_background: bool = True,
    reduction: str = "mean_all",
    distance: str = "mse",
    one_per_count: bool = False,
) -> Tensor:
    """Distance to the logits stored with a crop (DER, Buzzega et al. 2020, eq. 5).

    "mse" is the squared error to the transplanted target: "mean_all" divides by all B * K * h * w entries (so
    its strength shrinks as K grows), "mean_valid" by the entries that the stored item knows. "cos" is 1 -
    cosine over the known channels of a location: "mean_all" divides by the B * h * w locations, "mean_valid"
    by those with a known channel. A batch that knows nothing gives 0.

    Args:
        logits: (B, K, h, w), the student's on the stored crops.
        stored_logits: (B, K, h, w). No gradient flows into them.
        valid_channels: (B,), how many logits the network had when the item was stored.
        ignore_background: leave channel 0 out.
        reduction: "mean_all", "mean_valid", "sum", or "none", which keeps the shape, (B, h, w) for "cos".
        distance: "mse" or "cos".
        one_per_count: see `transplant`.
    """
    z = exact(logits)
    target, mask = transplant(stored_logits, z, valid_channels, ignore_background, one_per_count=one_per_count)
    if distance == "mse":
        loss, counted = (target - z).square(), mask.expand_as(z)
    elif distance == "cos":
        counted = mask.any(dim=1).expand_as(z[:, 0])
        loss = (1 - cosine(z * mask, target * mask)) * counted
    else:
        raise ValueError(f"distance ({distance!r}) must be 'mse' or 'cos'")
    if reduction == "mean_valid":
        return loss.sum() / divisor(counted.sum())
    if reduction == "mean_all":
        return loss.mean()
    if reduction in ("none", "sum"):
        return loss if reduction == "none" else loss.sum()
    raise ValueError(f"reduction ({reduction!r}) must be 'mean_all', 'mean_valid', 'sum' or 'none'")


def replay_class_weights(n_classes: int, old_classes: int, ignore_background: bool) -> Tensor:
    """Class weights of the DER++ label term: 1 for old classes, 0 for those of this step.

    Args:
        n_classes: K.
        old_classes: O, background included.
        ignore_background: whether background weighs 0 too.

    Returns:
        (K,) float32.
    """
    check_old_classes(old_classes, n_classes)
    weights = torch.zeros(n_classes)
    weights[int(ignore_background) : old_classes] = 1
    return weights
