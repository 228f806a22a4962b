"""Segmentation quality: confusion matrix, IoU and its means, forgetting, ranking of detector scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

IGNORE = 255
"""Label of the pixels that no metric counts."""


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


def auroc_ap(scores: Tensor, positives: Tensor) -> tuple[float, float]:
    """Area under the ROC curve and average precision; equal scores form one point of either curve.

    AUROC is the trapezoid area of true-positive over false-positive rate, AP is ``sum_n (R_n - R_{n-1}) P_n``
    over the distinct scores from the highest down.

    Args:
        scores: any shape; higher means more positive.
        positives: the same shape, bool or 0/1.

    Returns:
        (AUROC, AP), both NaN if there is no positive or no negative.
    """
    if scores.shape != positives.shape:
        raise ValueError(f"scores {tuple(scores.shape)} must have the shape of positives {tuple(positives.shape)}")
    ranked, order = scores.detach().flatten().sort(descending=True)
    hits = positives.detach().flatten().bool()[order]
    _, ties = ranked.unique_consecutive(return_counts=True)
    ends = ties.cumsum(0)
    true = hits.cumsum(0)[ends - 1].cpu().double()
    false = ends.cpu().double() - true
    if len(true) == 0 or true[-1] == 0 or false[-1] == 0:
        return math.nan, math.nan
    start = true.new_zeros(1)
    recall, fall_out = torch.cat([start, true / true[-1]]), torch.cat([start, false / false[-1]])
    ap = (recall.diff() * true / (true + false)).sum().item()
    return torch.trapezoid(recall, fall_out).item(), ap
