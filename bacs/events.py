"""What a run tells whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Point(NamedTuple):
    """One value of one metric."""

    metric: str
    x: int
    """Continual step (0-based), or epoch counted over the run (1-based), as the metric has it."""
    value: float
    time: float
    """Unix seconds at which it was measured; a point that is told again keeps it."""


def is_per_epoch(metric: str) -> bool:
    """Whether the metric's axis counts epochs; else it counts continual steps."""
    return metric in ("lr", "val/miou") or metric.startswith(("train/", "drift/"))


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """A checkpoint may be taken now."""

    step: int
    epoch: int
    """Finished epochs of this step."""
    epochs: int
    epochs_done: int
    """Finished epochs of the whole run."""
    epochs_total: int
    points: list[Point]


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A step is finished, measured and, but for the last, remembered. A checkpoint may be taken now."""

    step: int
    n_steps: int
    class_iou: dict[str, float]
    points: list[Point]


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Nothing follows."""

    final: dict[str, float]
    """The ``final/*`` metrics."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Something to look at, from a step that is about to end. No checkpoint may be taken now."""

    name: str
    """Unique within the step; fit for a file name."""
    step: int
    image: NDArray[np.uint8]
    """(H, W, 3)."""


Event = EpochEnded | Picture | StepEnded | RunEnded


def by_name(points: list[Point]) -> dict[str, Any]:
    """The values of the points, by metric."""
    return {point.metric: point.value for point in points}
