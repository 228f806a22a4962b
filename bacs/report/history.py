"""What a run has measured so far, apart from the run itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bacs.config import RunConfig
from bacs.data import DomainSplit, TaskSplit
from bacs.evaluation import Scores
from bacs.events import Point
from bacs.media import Frame
from bacs.metrics import domain_step_matrix, forgetting_by_class, step_matrix


@dataclass(frozen=True, slots=True)
class History:
    """Everything behind the files of :func:`bacs.report.write_results`; equal histories give equal files."""

    config: RunConfig
    split: TaskSplit
    class_names: tuple[str, ...]
    """Of each internal label."""
    tested: list[Scores]
    """On the test set after each finished step."""
    points: list[Point]
    final: dict[str, float]
    """The ``final/*`` metrics; empty before the last step has ended."""
    frames: list[Frame]
    """Of the animation; empty where ``training.log_animation`` is off."""
    notes: list[str] = field(default_factory=list)
    """What must be known to read the numbers: classes that are left out of them."""

    def step_matrix(self) -> list[list[float]]:
        """(T, T), T finished steps; see `bacs.metrics.step_matrix`."""
        if isinstance(self.split, DomainSplit):
            return domain_step_matrix([[_vector(iou) for iou in scores.by_domain] for scores in self.tested])
        return step_matrix(self._ious(), self.split.heads)

    def forgetting_by_class(self) -> dict[str, float]:
        """After the last finished step, of each foreground class that an earlier step brought.

        Empty in a stream of domains, where all steps show the same classes; there see the step matrix.
        """
        if isinstance(self.split, DomainSplit) or len(self.tested) < 2:
            return {}
        drops = forgetting_by_class(self._ious()).tolist()
        return dict(list(zip(self.class_names, drops, strict=False))[1:])

    def _ious(self) -> list[Tensor]:
        return [_vector(scores.iou) for scores in self.tested]


def _vector(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
