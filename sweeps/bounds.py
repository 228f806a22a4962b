"""What ends a sweep before all its trials are over: time, resources spent, a result that is good enough."""

from __future__ import annotations

import time

from results.state import SELECTION_METRIC, SweepState
from sweeps.settings import SweepConfig, split_name

TARGET = "sweep.target_metric"
BUDGET = "sweep.budget_hours"
TIME = "sweep.time_budget_minutes"


def bound_hit(sweep: SweepConfig, state: SweepState, deadline: float | None) -> str:
    """The key of the setting that lets no more work be handed out; empty while none does.

    Args:
        sweep: its settings.
        state: how far it is.
        deadline: reading of `time.monotonic` at which this driver's time is up.
    """
    launch = sweep.launch
    if launch.target_metric is not None and _is_reached(launch.target_metric, sweep, state):
        return TARGET
    if launch.budget_hours is not None and hours_held(sweep, state) >= launch.budget_hours:
        return BUDGET
    return TIME if deadline is not None and time.monotonic() > deadline else ""


def hours_held(sweep: SweepConfig, state: SweepState) -> float:
    """What counts against ``sweep.budget_hours``: GPU-hours, or CPU core hours where a trial takes no GPU."""
    return (state.gpu_seconds if sweep.resources.gpus_per_trial else state.cpu_seconds) / 3600


def told(sweep: SweepConfig, state: SweepState, bound: str) -> str:
    """Which bound was hit, for people."""
    if bound == TARGET:
        return f"{bound}={sweep.launch.target_metric:g} is reached in every split"
    if bound == BUDGET:
        unit = "GPU-hours" if sweep.resources.gpus_per_trial else "CPU core hours"
        return f"{bound}={sweep.launch.budget_hours:g} is spent: {hours_held(sweep, state):.3g} {unit}"
    return f"{bound}={sweep.launch.time_budget_minutes:g} is over"


def _is_reached(target: float, sweep: SweepConfig, state: SweepState) -> bool:
    """Whether every split has a configuration with this mean over all seeds: one lucky seed is not enough."""
    best = [state.best(split_name(split)) for split in sweep.search.splits]
    scores = [c.mean(SELECTION_METRIC) for c in best if c is not None and len(c.trials) >= len(sweep.search.seeds)]
    return len(scores) == len(best) and all(score is not None and score >= target for score in scores)
