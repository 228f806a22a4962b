"""Segmentation quality: confusion matrix, IoU and its means, forgetting, ranking of detector scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from bacs.losses.functional import score_histogram

IGNORE = 255
"""Label of the pixels that no metric counts."""
RANKING_BINS, RANKING_LOGIT = 2**18, 16.0
"""Parts, and bounds, of the logit in which `ranking_histogram` counts."""


class ConfusionMatrix:
    """Counts of (ground truth, prediction) over all evaluated pixels."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.matrix = torch.zeros(n_classes, n_classes, dtype=torch.int64)
        """(K, K) int64, rows = ground truth, columns = prediction; on the device of the last update."""

    def update(self, pred: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            pred: (B, H, W), integers in 0..K-1.
            labels: (B, H, W), integers in 0..K-1 or ``IGNORE``.

        Raises:
            ValueError: if shapes differ or a class that is counted lies outside 0..K-1.
        """
        if pred.shape != labels.shape:
            raise ValueError(f"pred {tuple(pred.shape)} must have the shape of labels {tuple(labels.shape)}")
        labels = labels.to(pred.device)
        valid = labels != IGNORE
        pair = torch.stack([labels[valid].long(), pred[valid].long()])
        if ((pair < 0) | (pair >= self.n_classes)).any():
            truth, guess = pair.amax(dim=1).tolist()
            raise ValueError(f"labels (up to {truth}) and pred (up to {guess}) must lie in 0..{self.n_classes - 1}")
        counts = torch.bincount(pair[0] * self.n_classes + pair[1], minlength=self.n_classes**2)
        self.matrix = self.matrix.to(pred.device) + counts.reshape(self.n_classes, self.n_classes)

    def iou(self, absent: float = math.nan) -> Tensor:
        """``TP / (TP + FP + FN)`` per class, (K,) float64 on the CPU; ``absent`` without a ground-truth pixel."""
        matrix = self.matrix.cpu().double()
        truth, hits = matrix.sum(dim=1), matrix.diagonal()
        iou = hits / (truth + matrix.sum(dim=0) - hits)
        return iou.masked_fill(truth == 0, absent)


def group_miou(iou: Tensor, classes: Iterable[int]) -> float:
    """Mean IoU over the classes that have one; NaN if none has.

    Args:
        iou: (K,), NaN for classes without a ground-truth pixel.
        classes: indices into it.
    """
    return iou[torch.tensor(list(classes), dtype=torch.int64)].double().nanmean().item()


def step_metrics(
    iou_history: Sequence[Tensor], heads: tuple[int, ...], step: int, base: int | None = None
) -> dict[str, float]:
    """The metrics of one step, after training it.

    ``miou/all`` over all classes so far; ``miou/base`` over background and the first ``base`` classes,
    ``miou/novel`` over the others; ``miou/old`` over the classes of steps before this one without background,
    ``miou/new`` over those of this step; ``forgetting`` and ``backward_transfer``: see the functions of these
    names. Groups without a class are left out; a group whose classes all lack ground truth is NaN.

    Args:
        iou_history: IoU after steps 0..step, vector s of length ``1 + sum(heads[:s + 1])``; later ones are
            not read.
        heads: number of foreground classes of each step.
        step: t, counted from 0.
        base: how many foreground classes count as base; ``heads[0]`` if left out. A joint run (one step)
            gives the base of the split that it is the reference for.
    """
    sizes = [1 + sum(heads[: s + 1]) for s in range(step + 1)]
    given = [len(iou) for iou in iou_history[: step + 1]]
    if given != sizes:
        raise ValueError(f"IoU vectors of lengths {given} must have lengths {sizes} for heads {heads}")
    last = sizes[-1]
    first_novel = min(1 + (heads[0] if base is None else base), last)
    first_new = sizes[-2] if step else 1
    groups = {
        "miou/all": range(last),
        "miou/base": range(first_novel),
        "miou/novel": range(first_novel, last),
        "miou/old": range(1, first_new),
        "miou/new": range(first_new, last),
    }
    metrics = {key: group_miou(iou_history[step], classes) for key, classes in groups.items() if classes}
    if step:
        metrics["forgetting"] = forgetting(iou_history[: step + 1])
        metrics["backward_transfer"] = backward_transfer(step_matrix(iou_history[: step + 1], heads))
    return metrics


def domain_metrics(by_domain: Sequence[Sequence[Tensor]], total: Tensor, step: int) -> dict[str, float]:
    """As `step_metrics`, for streams whose steps bring domains and where every class is there from the start.

    ``miou/all`` is that of all images of the domains so far. The other groups are means over domains' own mIoU:
    ``base`` those of step 0, ``novel`` of later steps, ``old`` of steps before this one, ``new`` of this step.
    ``forgetting``: mean over earlier steps' domains of the best mIoU they ever had less the one they have now;
    ``backward_transfer``: see `backward_transfer`.

    Args:
        by_domain: after each step s its IoU vectors (K,) on the domains of steps 0..s.
        total: (K,) IoU on all of them after ``step``.
        step: t, counted from 0.
    """
    matrix = domain_step_matrix(by_domain[: step + 1])
    now = [row[step] for row in matrix]
    groups = {"base": now[:1], "novel": now[1:], "old": now[:step], "new": now[step:]}
    metrics = {"miou/all": float(total.double().nanmean())}
    metrics |= {f"miou/{name}": sum(values) / len(values) for name, values in groups.items() if values}
    if step:
        drops = [max(matrix[s][s:step]) - now[s] for s in range(step)]
        metrics["forgetting"] = sum(drops) / len(drops)
        metrics["backward_transfer"] = backward_transfer(matrix)
    return metrics


def step_matrix(iou_history: Sequence[Tensor], heads: Sequence[int]) -> list[list[float]]:
    """R, (T, T): ``R[i][j]`` is the mean IoU of the foreground classes of step i after step j.

    NaN before they came (j < i), and where none of them has a ground-truth pixel.

    Args:
        iou_history: IoU after steps 0..T-1; see `step_metrics`.
        heads: number of foreground classes of each step.
    """
    ends = [1 + sum(heads[: step + 1]) for step in range(len(iou_history))]
    return [
        [
            group_miou(iou, range(end - heads[step], end)) if after >= step else math.nan
            for after, iou in enumerate(iou_history)
        ]
        for step, end in enumerate(ends)
    ]


def domain_step_matrix(by_domain: Sequence[Sequence[Tensor]]) -> list[list[float]]:
    """As `step_matrix`, for domains: ``R[i][j]`` is the mIoU on the domains of step i after step j.

    Args:
        by_domain: after each step s its IoU vectors (K,) on the domains of steps 0..s.
    """
    steps = range(len(by_domain))
    return [
        [float(by_domain[after][step].double().nanmean()) if after >= step else math.nan for after in steps]
        for step in steps
    ]


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float:
    """Mean over earlier steps i of ``R[i][T-1] - R[i][i]``; negative where later steps cost old classes.

    Source: Lopez-Paz and Ranzato 2017, section 2, with IoU in the place of accuracy. Every step counts the same,
    however many classes it brought. Steps without a number are left out; NaN if that leaves none.

    Args:
        matrix: see `step_matrix`.
    """
    gains = [row[-1] - row[step] for step, row in enumerate(matrix[:-1])]
    return torch.tensor(gains, dtype=torch.float64).nanmean().item()


def forgetting(iou_history: Sequence[Tensor]) -> float:
    """Mean of `forgetting_by_class` over earlier foreground classes; NaN if none of them has a number."""
    return forgetting_by_class(iou_history)[1:].nanmean().item()


def forgetting_by_class(iou_history: Sequence[Tensor]) -> Tensor:
    """``max_{s<t} IoU_c^s - IoU_c^t`` of each class c that earlier steps knew, (K_{t-1},) float64 on the CPU.

    A class enters with the first vector that is long enough to hold it. NaN for classes without an IoU, now or in
    every earlier step. Negative where a class has improved.

    Args:
        iou_history: IoU after steps 0..t, t >= 1, not shrinking in length.
    """
    *earlier, now = iou_history
    best = torch.full((len(earlier[-1]),), -math.inf, dtype=torch.float64)
    for iou in earlier:
        best[: len(iou)] = torch.fmax(best[: len(iou)], iou.double().cpu())
    drop = best - now[: len(best)].double().cpu()
    return drop.masked_fill(best == -math.inf, math.nan)


def final_metrics(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of a whole run from those of its steps (`step_metrics`), which must be at least one.

    ``final/miou``, ``final/miou_base``, ``final/miou_novel`` and ``final/forgetting`` are those of the last
    step (no forgetting in a run of one step: 0), ``final/miou_avg`` is the mean of ``miou/all`` over the
    steps. What the last step does not report is left out.
    """
    if not history:
        raise ValueError("history is empty, but must hold the metrics of at least one step")
    sources = {
        "final/miou": "miou/all",
        "final/miou_base": "miou/base",
        "final/miou_novel": "miou/novel",
        "final/forgetting": "forgetting",
    }
    metrics = {key: history[-1][source] for key, source in sources.items() if source in history[-1]}
    if len(history) == 1:
        metrics["final/forgetting"] = 0.0
    overall = [step["miou/all"] for step in history if "miou/all" in step]
    if overall:
        metrics["final/miou_avg"] = torch.tensor(overall, dtype=torch.float64).nanmean().item()
    return metrics


def ranking_histogram(scores: Tensor, positives: Tensor, mask: Tensor) -> Tensor:
    """How many negatives and positives have their score in each of ``RANKING_BINS`` equal parts of its logit.

    Scores are told apart whose logits, within -16..16, differ by more than a bin, 32 / 2^18 = 0.00012: near 0.5 that is
    0.00003, elsewhere less. Probabilities of float32 have no logit between 16.7 and infinity.

    Args:
        scores: (B, H, W) probabilities; logits beyond -16..16, as of 0 and 1, count in the outermost parts.
        positives: (B, H, W) bool.
        mask: (B, H, W) bool, which pixels count.

    Returns:
        (2, RANKING_BINS) int64: negatives, positives. Histograms of further images, or of other ranks, are added to it.
    """
    share = scores.logit().clamp(-RANKING_LOGIT, RANKING_LOGIT) / (2 * RANKING_LOGIT) + 0.5
    return score_histogram(share, positives, mask, 2, RANKING_BINS)


def auroc_ap(histogram: Tensor) -> tuple[float, float]:
    """Area under the ROC curve and average precision; scores of one bin count as equal, one point of either curve.

    AUROC is the trapezoid area of true-positive over false-positive rate, AP is ``sum_b (R_b - R_{b-1}) P_b`` over the
    bins from the highest down. With p_b of all P positives and n_b of all N negatives in bin b, and t_b positives and
    f_b negatives in it and above, they differ from those of the scores themselves by at most this:

    - AUROC by ``sum_b p_b n_b / (2 P N)``: it is the share of the pairs of a positive and a negative that are in the
      right order (Hanley and McNeil 1982), and a pair in one bin counts as half right.
    - AP is the mean over the positives of the precision at their score. In the best order of a bin its positives come
      first, all at one score, in the worst one last, one by one, so that P times the exact AP lies between
      ``sum_b sum_{i<p_b} (t_b - i) / (t_b - i + f_b)`` and ``sum_b p_b t_b / (t_b + f_b - n_b)``; so does the
      ``sum_b p_b t_b / (t_b + f_b)`` of the histogram.

    Args:
        histogram: (2, bins) counts of negatives and positives, scores rising from bin to bin.

    Returns:
        (AUROC, AP), both NaN if there is no positive or no negative.
    """
    filled = histogram[:, histogram.any(dim=0)].cpu().flip(1)
    false, true = filled.cumsum(1).double()
    if not filled.any(dim=1).all():
        return math.nan, math.nan
    start = true.new_zeros(1)
    recall, fall_out = torch.cat([start, true / true[-1]]), torch.cat([start, false / false[-1]])
    ap = (recall.diff() * true / (true + false)).sum().item()
    return torch.trapezoid(recall, fall_out).item(), ap
