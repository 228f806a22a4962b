"""Cross-entropies: plain, unbiased, background-aware."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bacs.distributed import mean_share
from bacs.losses.functional.reductions import (
    IGNORE,
    Denominator,
    Reduction,
    check_old_classes,
    check_same_shape,
    exact,
    pixel_count,
    reduce,
)


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
    z, y = exact(logits), labels.long()
    weights = None if class_weights is None else class_weights.to(z)
    loss = F.cross_entropy(z, y, weight=weights, ignore_index=IGNORE, reduction="none")
    if weights is None or denominator == "all" or reduction != "mean":
        return reduce(loss, pixel_count(y, denominator), reduction)
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
    and the classification loss of MiB.

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
    check_old_classes(old_classes, logits.shape[1])
    z, y = exact(logits), labels.long()
    y_or_zero = y.masked_fill(y == IGNORE, 0)
    folded = y_or_zero == 0 if keep_old_labels else y_or_zero < old_classes
    own = z.gather(1, y_or_zero.unsqueeze(1)).squeeze(1)
    score = torch.where(folded, z[:, :old_classes].logsumexp(dim=1), own)
    loss = z.logsumexp(dim=1) - score
    left_out = y == IGNORE if include_background else folded
    loss = loss.masked_fill(left_out, 0.0)
    return reduce(loss, pixel_count(y, denominator), reduction)


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


def completed_cross_entropy(
    logits: Tensor,
    completed: Tensor,
    factors: Tensor,
    labels: Tensor,
    *,
    reduction: Reduction = "mean",
    denominator: Denominator = "valid",
) -> Tensor:
    """Cross-entropy on labels that a teacher has completed, image by image weighed (PLOP, Douillard et al. 2021).

    ``-nu_b log softmax(z)_y``.

    Args:
        logits: (B, K, H, W).
        completed: (B, H, W), y as of `confident_labels`; what is ``IGNORE`` there costs nothing.
        factors: (B,), nu as of `certain_share`.
        labels: (B, H, W), as they were before.
        reduction: "none" gives (B, H, W).
        denominator: what "mean" divides by. "valid": the pixels that are not ignored in ``labels``, so those that the
            teacher is unsure of count. "all": every pixel, as in the official code.
    """
    check_same_shape("labels", labels, "completed", completed)
    loss = cross_entropy(logits, completed, reduction="none")
    return reduce(loss * factors.to(loss)[:, None, None], pixel_count(labels, denominator), reduction)


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
