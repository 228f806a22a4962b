"""What MLflow shall show of a sweep: names, tags, parameters, points and statuses, from its state. Pure."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from results.state import SELECTION_METRIC, SweepState, TrialState

Point = tuple[str, float, int, int]
"""(metric, value, unix milliseconds, x)."""

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_\-. :/]")
_NAME_CHARACTERS = 250
_TAG_CHARACTERS = 5000

_SWEEP_STATUS = {"failed": "FAILED", "interrupted": "KILLED"}
_TRIAL_STATUS = {
    "pending": "SCHEDULED",  # it ran before and will run again
    "running": "RUNNING",
    "finished": "FINISHED",
    "stopped": "FINISHED",  # pruned as intended, told apart by the tag `stopped`
    "failed": "FAILED",
}


def milliseconds(moment: float) -> int:
    """MLflow's time. The same float always gives the same integer, which makes replays no-ops."""
    return round(moment * 1000)


def entity_name(name: str) -> str:
    """A metric, parameter or tag name MLflow accepts: other characters become ``_``, odd paths plain."""
    plain = posixpath.normpath("/" + _FORBIDDEN.sub("_", name)).lstrip("/")
    return plain[:_NAME_CHARACTERS].rstrip("/") or "_"


def run_name(trial: TrialState) -> str:
    """``trial-003 2-2`` or ``joint 2-2 seed 0``."""
    if trial.role == "trial":
        return f"trial-{trial.number:03d} {trial.split}"
    return f"{trial.role} {trial.split} seed {trial.seed}"


def sweep_identity(state: SweepState) -> dict[str, str]:
    """The tags by which the sweep's own run is found again."""
    return {"sweep_uid": state.uid, "role": "sweep"}


def trial_identity(state: SweepState, trial: TrialState) -> dict[str, str]:
    """The tags by which a trial's run is found again."""
    return {"sweep_uid": state.uid, "trial": trial.key}


def trial_tags(state: SweepState, trial: TrialState, parent_run_id: str) -> dict[str, str]:
    """All tags of a trial's run; those of the records (mode, loss, stage.0, reused_steps ...) among them."""
    tags = {entity_name(name): _text(value) for name, value in trial.tags.items() if value is not None}
    tags |= trial_identity(state, trial)
    tags |= {"sweep": state.sweep, "role": trial.role, "split": trial.split, "seed": str(trial.seed)}
    tags |= {"mlflow.parentRunId": parent_run_id, "attempts": str(trial.attempts)}
    if trial.status in ("stopped", "failed"):
        tags[trial.status] = trial.reason or "no reason given"
    if trial.status == "failed" and trial.cause:
        tags["cause"] = trial.cause
    return {name: value[:_TAG_CHARACTERS] for name, value in tags.items()}


def trial_params(trial: TrialState) -> dict[str, str]:
    """The swept values, flat, and the split."""
    params = {entity_name(name): _text(value) for name, value in trial.params.items()}
    return {"training.split": trial.split} | params


def trial_points(trial: TrialState, skip: int) -> Iterator[Point]:
    """The points after the first ``skip`` ones, in the order of arrival.

    NaN and infinities are left out: MLflow stores infinity as 1.8e308 and its charts draw neither.
    """
    for (metric, x), (value, moment) in islice(trial.points.items(), skip, None):
        if _is_finite(value):
            yield entity_name(metric), float(value), milliseconds(moment), x


def final_points(trial: TrialState) -> Iterator[Point]:
    """The final metrics at x = 0, stamped with the end of the trial."""
    if trial.status == "finished" and trial.ended_at is not None:
        for metric, value in trial.final.items():
            if _is_finite(value):
                yield entity_name(metric), float(value), milliseconds(trial.ended_at), 0


def best_points(state: SweepState) -> Iterator[Point]:
    """``best/<split>/val_miou`` of a sweep that ended; x counts its endings, a resumed sweep has several."""
    for split in state.splits():
        best = state.best(split)
        if best is not None and state.ended_at is not None:
            name = entity_name(f"best/{split}/val_miou")
            score = best.mean(SELECTION_METRIC)
            if score is not None:
                yield name, score, milliseconds(state.ended_at), state.endings


def has_run(trial: TrialState) -> bool:
    """A trial gets its run when it first starts (so durations are honest), or ends without starting."""
    return trial.attempts > 0 or trial.is_over


def trial_status(state: SweepState, trial: TrialState) -> tuple[str, int | None]:
    """Status and end (unix milliseconds). A trial left unfinished by a sweep that ended is KILLED."""
    if trial.is_over:
        assert trial.ended_at is not None
        return _TRIAL_STATUS[trial.status], milliseconds(trial.ended_at)
    if state.ended and state.ended_at is not None:
        return "KILLED", milliseconds(state.ended_at)
    return _TRIAL_STATUS[trial.status], None


def sweep_status(state: SweepState) -> tuple[str, int | None]:
    """FAILED and KILLED (interrupted) as the journal says; any other ending is FINISHED."""
    if state.ended and state.ended_at is not None:
        return _SWEEP_STATUS.get(state.end_status, "FINISHED"), milliseconds(state.ended_at)
    return "RUNNING", None


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
