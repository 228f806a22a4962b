"""What MLflow shall show of a sweep: names, tags, parameters, points and statuses, from its state. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from results.confirmation import comparisons_table
from results.objectives import mean_objective
from results.records import Record
from results.rows import pareto_table
from results.state import SELECTION_METRIC, SweepState, TrialState

Point = tuple[str, float, int, int]
"""(metric, value, unix milliseconds, x)."""

COMPARED = ("difference", "low", "high", "p_holm")
"""Columns of a comparison that become metrics of the sweep's run."""

_FORBIDDEN = re.compile(r"[^\w\-. :/]")
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


class ProjectedState(SweepState):
    """A sweep's state, and of its past what MLflow keeps: a replay must tell what a tracker told at the time."""

    def __init__(self) -> None:
        super().__init__()
        self.best_points: list[Point] = []
        """``best/<split>/val_miou`` and, of a confirmation, ``confirm/<split>/<b>/<number>`` of each comparison, at
        every ending of the sweep; x counts the endings, a resumed sweep has several."""
        self.verdicts: dict[str, str] = {}
        """``verdict/<split>/<b>`` -> the sentence, as of the last ending."""
        self.fronts: dict[str, str] = {}
        """``pareto/<study>`` -> the configurations that nobody beats in both objectives, as of the last ending."""
        self.run_starts: dict[str, float] = {}
        """Unix seconds at which the run of a trial begins, by trial."""

    def apply(self, record: Record) -> None:
        super().apply(record)
        if record["kind"] == "ended":
            self.best_points += _best_points(self)
            self._compare()
            self.fronts = _fronts(self)
        trial = self.trials.get(record.get("trial", ""))
        if trial is not None and has_run(trial):
            self.run_starts.setdefault(trial.key, trial.started_at or trial.suggested_at)

    def _compare(self) -> None:
        """The verdicts of a confirmation, and the numbers behind them."""
        for row in comparisons_table(self) if self.confirms else ():
            moment = _last_moment([trial for trial in self.trials.values() if trial.split == row["split"]])
            place = f"{row['split']}/{row['b']}"
            self.verdicts[entity_name(f"verdict/{place}")] = row["sentence"]
            self.best_points += [
                (entity_name(f"confirm/{place}/{number}"), row[number], moment, self.endings)
                for number in COMPARED
                if row[number] is not None
            ]


def milliseconds(moment: float) -> int:
    """MLflow's time. The same float always gives the same integer, which makes replays no-ops."""
    return round(moment * 1000)


def entity_name(name: str) -> str:
    """A metric, parameter or tag name MLflow accepts, another one for every name.

    Letters of any script stay. Other characters, and steps of a path that lead nowhere, become ``_``, and long names
    short; these end in a hash of what they were.
    """
    parts = _FORBIDDEN.sub("_", name).split("/")
    plain = re.sub(r"^\.\.", "__", "/".join("_" if part in ("", ".", "..") else part for part in parts))
    if plain == name and len(name) <= _NAME_CHARACTERS:
        return name
    mark = "-" + hashlib.sha1(name.encode(errors="replace"), usedforsecurity=False).hexdigest()[:6]
    return plain[: _NAME_CHARACTERS - len(mark)].rstrip("/") + mark


def run_name(trial: TrialState) -> str:
    """``trial-003 2-2`` or ``joint 2-2 seed 0``."""
    if trial.role == "trial":
        return f"trial-{trial.number:03d} {trial.split}"
    return f"{trial.role} {trial.split} seed {trial.seed}"


def sweep_identity(state: SweepState) -> dict[str, str]:
    """The tags by which the sweep's own run is found again."""
    return {"sweep_uid": state.uid, "role": "sweep"}


def sweep_tags(state: ProjectedState) -> dict[str, str]:
    """All tags of the sweep's own run; ``bound``: what ended it early, ``confirms``: whose winners it confirms,
    ``warm_start``: the sweeps that it learned from, ``code``: fingerprint of its code, ``mixed_code``: it has several.
    """
    tags = sweep_identity(state) | {"sweep": state.sweep} | state.verdicts | state.fronts
    search = state.config.get("search") or {}
    named = {"bound": state.end_bound, "confirms": state.confirms, "confirms_uid": search.get("confirms_uid")}
    named |= {"code": state.fingerprint, "commit": state.code.get("commit"), "mixed_code": "true" * state.is_mixed}
    named["warm_start"] = ", ".join(search.get("warm_start") or ())
    return {name: value[:_TAG_CHARACTERS] for name, value in (tags | named).items() if value}


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


def trial_points(trial: TrialState, start: int, stop: int) -> Iterator[Point]:
    """The points from the ``start``-th to before the ``stop``-th, in the order of arrival.

    NaN and infinities are left out: MLflow stores infinity as 1.8e308 and its charts draw neither.
    """
    for (metric, x), (value, moment) in islice(trial.points.items(), start, stop):
        if _is_finite(value):
            yield entity_name(metric), float(value), milliseconds(moment), x


def final_points(state: SweepState, trial: TrialState) -> Iterator[Point]:
    """The final metrics at x = 0, and ``objective/<cost>`` of a search with two objectives, with the time stamp of the
    trial's last point."""
    if trial.status == "finished":
        moment = _last_moment([trial])
        costs = {f"objective/{cost}": mean_objective([trial], cost) for cost in state.objectives[1:]}
        for metric, value in (trial.final | costs).items():
            if value is not None and _is_finite(value):
                yield entity_name(metric), float(value), moment, 0


def _last_moment(trials: Sequence[TrialState]) -> int:
    """Of the trials' points, in unix milliseconds; where there are none, the end of the last trial.

    The end of a trial is known from its record alone. A record that was shipped, lost with the end of the journal and
    written again has another time, and MLflow would show its points twice; points come back from the checkpoints.
    """
    moments = [moment for trial in trials for _, moment in trial.points.values()]
    return milliseconds(max(moments or [trial.ended_at or trial.suggested_at for trial in trials]))


def has_run(trial: TrialState) -> bool:
    """A trial gets its run when it first starts (so durations are honest), or ends without starting."""
    return trial.attempts > 0 or trial.is_over


def trial_status(state: SweepState, trial: TrialState, *, abandoned: bool) -> tuple[str, int | None]:
    """Status and end (unix milliseconds). A trial that a sweep left unfinished is KILLED.

    Args:
        state: the sweep.
        trial: one of its trials.
        abandoned: the sweep has not ended, but nobody runs it: its driver was killed.
    """
    if trial.is_over:
        assert trial.ended_at is not None
        return _TRIAL_STATUS[trial.status], milliseconds(trial.ended_at)
    ending = _ending(state, abandoned)
    return (_TRIAL_STATUS[trial.status], None) if ending is None else ("KILLED", ending[1])


def sweep_status(state: SweepState, *, abandoned: bool) -> tuple[str, int | None]:
    """FAILED and KILLED (interrupted, abandoned) as the journal says; any other ending is FINISHED."""
    ending = _ending(state, abandoned)
    return ("RUNNING", None) if ending is None else (_SWEEP_STATUS.get(ending[0], "FINISHED"), ending[1])


def _ending(state: SweepState, abandoned: bool) -> tuple[str, int] | None:
    """How and when the sweep ended; one whose driver was killed ended with its last record."""
    if state.ended and state.ended_at is not None:
        return state.end_status, milliseconds(state.ended_at)
    if abandoned and state.updated_at is not None:
        return "interrupted", milliseconds(state.updated_at)
    return None


def _best_points(state: SweepState) -> Iterator[Point]:
    for split in state.splits():
        best = state.best(split)
        score = None if best is None else best.mean(SELECTION_METRIC)
        if best is not None and score is not None:
            yield entity_name(f"best/{split}/val_miou"), score, _last_moment(best.trials), state.endings


def _fronts(state: SweepState) -> dict[str, str]:
    fronts: dict[str, list[str]] = {}
    for row in pareto_table(state):
        text = f"trial {row['trial']}: val mIoU {row['val_miou']:.4f}, {row['objective']} {row['cost']:.4g}"
        fronts.setdefault(entity_name(f"pareto/{row['split']}"), []).append(text)
    return {name: "; ".join(texts) for name, texts in fronts.items()}


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
