"""The formulas of the losses: pure functions on tensors, without state.

Letters: B images, K logits of the network (background included), O logits of the teacher (background and the
classes of earlier steps), R detector heads, H x W pixels of a label map, h x w locations of a feature map.
Labels are integer maps: 0 is background, ``IGNORE`` marks pixels that no loss may read. Where a docstring says BACS,
the formula is that of the method's released code with its defects removed; the paper numbers no such equation here.

Half-precision input is computed in float32, also inside autocast. ``reduction="mean"`` never divides by less
than one pixel, so a batch without a usable pixel gives 0 and zero gradients instead of NaN. Where several ranks train
together, a mean divides by the pixels of all ranks: averaging the ranks' gradients gives that of one big batch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bacs.distributed import mean_share, world_size

IGNORE = 255
"""Label of the pixels that are left out of every loss and metric."""

Reduction = Literal["none", "mean", "sum"]
Denominator = Literal["valid", "all"]
"""What a mean divides by: the pixels that are not ``IGNORE``, or all of them (the official codes)."""

_COSINE_FLOOR = 1e-12


def _exact(x: Tensor) -> Tensor:
    """Float32, or float64 left as it is."""
    return x if x.dtype == torch.float64 else x.float()


def _reduce(loss: Tensor, count: Tensor | int, reduction: Reduction) -> Tensor:
    """``loss`` reduced; a mean divides by ``count``, at least 1."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.sum() / (_divisor(count) if isinstance(count, Tensor) else max(count, 1))
    raise ValueError(f"reduction ({reduction!r}) must be 'none', 'mean' or 'sum'")


def _divisor(count: Tensor) -> Tensor:
    """This rank's share of a count over all ranks, which is taken as at least 1."""
    return count.clamp(min=1) if world_size() == 1 else mean_share(count).clamp(min=1 / world_size())


def _pixel_count(labels: Tensor, denominator: Denominator) -> Tensor | int:
    if denominator == "all":
        return labels.numel()
    if denominator == "valid":
        return (labels != IGNORE).sum()
    raise ValueError(f"denominator ({denominator!r}) must be 'valid' or 'all'")


def _check_old_classes(old_classes: int, n_classes: int) -> None:
    if not 1 <= old_classes <= n_classes:
        raise ValueError(f"old_classes ({old_classes}) must lie in 1..{n_classes}, the number of logits")


def _check_same_shape(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.shape != other.shape:
        raise ValueError(f"{name} {tuple(x.shape)} must have the shape of {other_name} {tuple(other.shape)}")


# Cross-entropies


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    reduction: Reduction = "mean",
    denominator: Denominator = "valid",
) -> Tensor:
    """Softmax cross-entropy ``-w_y log softmax(z)_y`` (with weights: DER++, Buzzega et al. 2020, eq. 6).

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W), integers in 0..K-1 or ``IGNORE``.
        class_weights: (K,), one weight per class; left out, every weight is 1.
        reduction: "none" gives (B, H, W).
        denominator: what "mean" divides by. "valid": the non-ignored pixels or, with ``class_weights``, their
            summed weight (0 if that is 0). "all": every pixel.
    """
    z, y = _exact(logits), labels.long()
    weights = None if class_weights is None else class_weights.to(z)
    loss = F.cross_entropy(z, y, weight=weights, ignore_index=IGNORE, reduction="none")
    if weights is None or denominator == "all" or reduction != "mean":
        return _reduce(loss, _pixel_count(y, denominator), reduction)
    ignored = y == IGNORE
    total = mean_share(weights[y.masked_fill(ignored, 0)].masked_fill(ignored, 0.0).sum())
    return loss.sum() / total.masked_fill(total == 0, 1.0)


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
    s = _exact(seen.detach())
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
    z = _exact(logits)
    background = labels == 0
    score = torch.where(background, z[:, 0], z[:, 1:].logsumexp(dim=1))
    loss = z.logsumexp(dim=1) - score
    if weight is not None:
        _check_same_shape("weight", weight, "labels", labels)
        doubt = (1 - weight.detach().to(z)).clamp(min=0).pow(gamma)
        loss = loss * doubt.masked_fill(~background, 1.0)
    loss = loss.masked_fill(labels == IGNORE, 0.0)
    return _reduce(loss, _pixel_count(labels, denominator), reduction)


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
    of BACS and the classification loss of MiB.

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
    _check_old_classes(old_classes, logits.shape[1])
    z, y = _exact(logits), labels.long()
    y_or_zero = y.masked_fill(y == IGNORE, 0)
    folded = y_or_zero == 0 if keep_old_labels else y_or_zero < old_classes
    own = z.gather(1, y_or_zero.unsqueeze(1)).squeeze(1)
    score = torch.where(folded, z[:, :old_classes].logsumexp(dim=1), own)
    loss = z.logsumexp(dim=1) - score
    left_out = y == IGNORE if include_background else folded
    loss = loss.masked_fill(left_out, 0.0)
    return _reduce(loss, _pixel_count(y, denominator), reduction)


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
    z = _exact(logits)
    weight = seen_weight(seen, threshold)
    term_a = background_foreground_cross_entropy(z, labels, weight, gamma, reduction="none")
    term_b = unbiased_cross_entropy(
        z, labels, old_classes, include_background=ukd, keep_old_labels=keep_old_labels, reduction="none"
    )
    return _reduce(term_a + term_b, _pixel_count(labels, denominator), reduction)


# Distillation


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
    _check_old_classes(old_classes, logits.shape[1])
    z = _exact(logits)
    q = _exact(teacher_logits.detach()).softmax(dim=1)
    background = torch.cat([z[:, :1], z[:, old_classes:]], dim=1).logsumexp(dim=1)
    old = (q[:, 1:] * z[:, 1:old_classes]).sum(dim=1)
    # q sums to 1, so the log-normaliser of p is subtracted once.
    loss = (z.logsumexp(dim=1) - q[:, 0] * background - old) / old_classes
    return _reduce(loss, loss.numel(), reduction)


def masked_distillation(features: Tensor, teacher_features: Tensor, mask: Tensor, mode: str = "ref") -> Tensor:
    """Keeps features g near the teacher's where the mask Q holds (BACS, before lambda).

    - "ref": ``sqrt(sum_j ((Q g_old)^2 - (Q g)^2)^2)`` along the width j; mean over all B * C * h. Its
      gradient is 0 where the norm is 0.
    - "l2": ``sum_Q ||g_old - g||^2 / C``, divided by |Q| + 1.
    - "cos": ``sum_Q (1 - cos(g_old, g))``, divided by |Q| + 1.

    Args:
        features: g, (B, C, h, w).
        teacher_features: g_old, (B, C, h, w). No gradient flows into them.
        mask: Q, (B, h, w), bool or in [0, 1], at the resolution of the features (`resize_mask`).
        mode: "ref", "l2" or "cos".
    """
    _check_same_shape("features", features, "teacher_features", teacher_features)
    _check_same_shape("mask", mask, "one feature channel", features[:, 0])
    g, g_old = _exact(features), _exact(teacher_features.detach())
    q = mask.to(g)
    if mode == "ref":
        channels = q.unsqueeze(1)
        difference = (g_old * channels).square() - (g * channels).square()
        return torch.linalg.vector_norm(difference, dim=-1).mean()
    if mode == "l2":
        distance = (g_old - g).square().mean(dim=1)
    elif mode == "cos":
        distance = 1 - _cosine(g, g_old)
    else:
        raise ValueError(f"mode ({mode!r}) must be 'ref', 'l2' or 'cos'")
    return (q * distance).sum() / (mean_share(q.sum()) + 1 / world_size())


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine over axis 1; 0 without gradient where a vector vanishes (the usual floor gives huge ones)."""
    length = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    vanishes = length <= _COSINE_FLOOR
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


# Detector


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Binary focal loss of the detector (Lin et al. 2017, eq. 4 and 5).

    ``a (1-p_t)^gamma ce`` with ce = BCE(logits, targets), p_t = exp(-ce), a = alpha on positives, 1 - alpha
    on negatives (1 without alpha).

    Args:
        logits: any shape, such as (B, H, W).
        targets: the same shape, bool or 0/1.
        mask: the same shape, True where an entry counts; left out, all do.
        gamma: exponent, at least 0.
        alpha: weight of the positives, in [0, 1].
        reduction: "none" keeps the shape; "mean" divides by the entries of the mask.
    """
    _check_same_shape("targets", targets, "logits", logits)
    z = _exact(logits)
    t = targets.to(z)
    ce = F.binary_cross_entropy_with_logits(z, t, reduction="none")
    # The floor keeps the gradient of the power finite for 0 < gamma < 1.
    loss = (-torch.expm1(-ce)).clamp(min=torch.finfo(z.dtype).tiny).pow(gamma) * ce
    if alpha is not None:
        loss = loss * (alpha * t + (1 - alpha) * (1 - t))
    if mask is None:
        return _reduce(loss, loss.numel(), reduction)
    _check_same_shape("mask", mask, "logits", logits)
    counts = mask.bool()
    return _reduce(loss.masked_fill(~counts, 0.0), counts.sum(), reduction)


def detector_weight(epoch: int, epochs: int) -> float:
    """``max(0, 1 - exp(e - E))``, the official weight of BACS's detector loss.

    About 1 for most of a step, it fades in the last epochs.

    Args:
        epoch: e, counted from 0.
        epochs: E, how many there are.
    """
    return -math.expm1(min(epoch - epochs, 0))


def margin_to_threshold(margin: float) -> float:
    """A prototype margin m (logit units) as detector threshold ``tau = sigmoid(m)``."""
    if margin >= 0:
        return 1 / (1 + math.exp(-margin))
    odds = math.exp(margin)
    return odds / (1 + odds)


def threshold_to_margin(threshold: float) -> float:
    """``m = ln(tau / (1 - tau))``, the inverse of `margin_to_threshold`; tau strictly between 0 and 1."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold ({threshold}) must lie strictly between 0 and 1")
    return math.log(threshold) - math.log1p(-threshold)


# Replay


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
    _check_same_shape("stored_logits", stored_logits, "logits", logits)
    channels = torch.arange(logits.shape[1], device=logits.device)
    valid = valid_channels.to(logits.device)
    if one_per_count:
        valid = _valid_of_one_per_count(valid, logits.shape[1])
    known = channels < valid.unsqueeze(1)
    if ignore_background:
        known = known & (channels > 0)
    mask = known[:, :, None, None]
    z = _exact(logits.detach())
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
        reduction: "mean_all" or "mean_valid".
        distance: "mse" or "cos".
        one_per_count: see `transplant`.
    """
    z = _exact(logits)
    target, mask = transplant(stored_logits, z, valid_channels, ignore_background, one_per_count=one_per_count)
    if distance == "mse":
        loss, counted = (target - z).square(), mask.expand_as(z)
    elif distance == "cos":
        counted = mask.any(dim=1).expand_as(z[:, 0])
        loss = (1 - _cosine(z * mask, target * mask)) * counted
    else:
        raise ValueError(f"distance ({distance!r}) must be 'mse' or 'cos'")
    if reduction == "mean_all":
        return loss.mean()
    if reduction == "mean_valid":
        return loss.sum() / _divisor(counted.sum())
    raise ValueError(f"reduction ({reduction!r}) must be 'mean_all' or 'mean_valid'")


def replay_class_weights(n_classes: int, old_classes: int, ignore_background: bool) -> Tensor:
    """Class weights of the DER++ label term: 1 for old classes, 0 for those of this step.

    Args:
        n_classes: K.
        old_classes: O, background included.
        ignore_background: whether background weighs 0 too.

    Returns:
        (K,) float32.
    """
    _check_old_classes(old_classes, n_classes)
    weights = torch.zeros(n_classes)
    weights[int(ignore_background) : old_classes] = 1
    return weights
