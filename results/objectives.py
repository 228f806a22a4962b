"""What a search may look at: the validation mIoU, and a cost beside it; the front of what is best in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from results.state import TrialState


def _last(metric: str) -> Callable[[TrialState], float | None]:
    def value(trial: TrialState) -> float | None:
        steps = [x for name, x in trial.points if name == metric]
        return trial.points[metric, max(steps)][0] if steps else None

    return value


def _total(metric: str) -> Callable[[TrialState], float | None]:
    def value(trial: TrialState) -> float | None:
        return trial.total(metric) if any(name == metric for name, _ in trial.points) else None

    return value


COSTS: dict[str, Callable[[TrialState], float | None]] = {
    "replay/mb": _last("replay/mb"),
    "time/total_seconds": _total("time/step_seconds"),
    "time/total_cpu_seconds": _total("time/step_cpu_seconds"),
}
"""The second objectives that a search may have, all minimised: the megabytes of the replay memory after the last step,
and what all steps took, in seconds on the clock or of the processor."""


def mean_objective(trials: Sequence[TrialState], objective: str) -> float | None:
    """Mean over trials; ``None`` where there is no trial, or one has no value or NaN."""
    read = COSTS.get(objective, lambda trial: trial.final.get(objective))
    values = [math.nan if (value := read(trial)) is None else value for trial in trials]
    mean = sum(values) / len(values) if values else math.nan
    return None if math.isnan(mean) else mean


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the (score, cost) that no other point beats: none scores as much for less, or more for as much.

    Best score first; of equal points all are there.
    """
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] < points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front
