"""What a sweep came to in its journal, its tracking database and its folder, and how two of them differ."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results.errors import ResultsError
from results.state import SweepState, TrialState

OWN_TAGS = ("sweep", "sweep_uid", "trial", "attempts", "reused_steps", "mlflow.parentRunId")
"""Tags that name one sweep, count its attempts or say who computed a shared step; all others must be equal."""
_OF_LIVING = "run_uuid in (select run_uuid from runs where lifecycle_stage = 'active')"
_TUNES_OWN = ".validate_storage_marker"
"""Ray Tune leaves it in the folder of every driver."""


@dataclass(kw_only=True, slots=True)
class Run:
    """One MLflow run."""

    status: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    points: list[tuple[str, int, float]] = field(default_factory=list)
    """(metric, x, value), as often as they are there."""


@dataclass(kw_only=True, slots=True)
class Ended:
    """One trial at the end, in the journal and in MLflow."""

    status: str
    final: dict[str, float]
    points: dict[tuple[str, int], float]
    runs: list[Run]
    """One, if all is well."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a sweep came to."""

    trials: dict[str, Ended]
    """By what a trial is, in words that two sweeps share; keys differ, as they hash the sweep's uid."""
    parents: list[Run]
    strangers: int
    """Runs of the sweep that belong to none of its trials."""


def read_outcome(journal: Path, database: Path) -> Outcome:
    """Reads the journal with the product and the database with plain SQL.

    Raises:
        ResultsError: the journal cannot be read.
        sqlite3.Error: the database cannot be read.
    """
    state = SweepState.load(journal)
    mine = [run for run in _runs(database) if run.tags.get("sweep_uid") == state.uid]
    children = [run for run in mine if run.tags.get("role") != "sweep"]
    trials = {_identity(trial): _ended(trial, children) for trial in state.trials.values()}
    return Outcome(
        trials=trials,
        parents=[run for run in mine if run.tags.get("role") == "sweep"],
        strangers=sum(run.tags.get("trial") not in state.trials for run in children),
    )


def differences(wanted: Outcome, found: Outcome) -> list[str]:
    """Every way in which ``found`` is not what the undisturbed sweep is; empty when all is well."""
    told = [f"{name}: missing" for name in wanted.trials.keys() - found.trials.keys()]
    told += [f"{name}: not in the undisturbed sweep" for name in found.trials.keys() - wanted.trials.keys()]
    for name in wanted.trials.keys() & found.trials.keys():
        told += [f"{name}: {what}" for what in _trial_differences(wanted.trials[name], found.trials[name])]
    told += [f"the sweep's own run: {what}" for what in _parent_differences(wanted.parents, found.parents)]
    if found.strangers:
        told.append(f"{found.strangers} MLflow runs belong to no trial of the journal")
    return sorted(told)


def compare(wanted: Outcome, journal: Path, database: Path) -> list[str]:
    """As :func:`differences`, for a sweep on disk; what cannot be read is a difference."""
    try:
        return differences(wanted, read_outcome(journal, database))
    except (ResultsError, OSError, sqlite3.Error) as error:
        return [f"cannot be read: {error}"]


def leftovers(storage: Path) -> list[str]:
    """Temporary files and hidden ones below a storage folder."""
    found = (path for path in storage.rglob("*") if path.name.endswith(".tmp") or path.name.startswith("."))
    return [f"left behind: {path.relative_to(storage)}" for path in sorted(found) if path.name != _TUNES_OWN]


def _identity(trial: TrialState) -> str:
    return f"{trial.role} {trial.number} split {trial.split} seed {trial.seed} {json.dumps(trial.params)}"


def _ended(trial: TrialState, runs: list[Run]) -> Ended:
    return Ended(
        status=trial.status,
        final=trial.final,
        points={place: value for place, (value, _) in trial.points.items()},
        runs=[run for run in runs if run.tags.get("trial") == trial.key],
    )


def _runs(database: Path) -> list[Run]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as source:
        living = f"select run_uuid, status from runs where {_OF_LIVING}"
        runs = {key: Run(status=status) for key, status in source.execute(living)}
        for key, name, value in source.execute(f"select run_uuid, key, value from tags where {_OF_LIVING}"):
            runs[key].tags[name] = value
        for key, name, value in source.execute(f"select run_uuid, key, value from params where {_OF_LIVING}"):
            runs[key].params[name] = value
        for key, *point in source.execute(f"select run_uuid, key, step, value from metrics where {_OF_LIVING}"):
            runs[key].points.append((point[0], point[1], point[2]))
    return list(runs.values())


def _trial_differences(wanted: Ended, found: Ended) -> Iterator[str]:
    if found.status != wanted.status:
        yield f"is {found.status}, undisturbed {wanted.status}"
        return  # every number would differ as well
    yield from _unequal("final", wanted.final, found.final)
    yield from _unequal("journalled", _timeless(wanted.points), _timeless(found.points))
    if len(found.runs) != 1:
        yield f"has {len(found.runs)} MLflow runs"
        return
    yield from _run_differences(wanted.runs[0], found.runs[0])


def _run_differences(wanted: Run, found: Run) -> Iterator[str]:
    if found.status != wanted.status:
        yield f"its MLflow run is {found.status}, undisturbed {wanted.status}"
    yield from _twice(found)
    yield from _unequal("MLflow's", _timeless(_by_place(wanted)), _timeless(_by_place(found)))
    yield from _unequal("parameter", wanted.params, found.params)
    yield from _unequal("tag", _shared_tags(wanted), _shared_tags(found))


def _parent_differences(wanted: list[Run], found: list[Run]) -> Iterator[str]:
    """The points of the sweep's own run count its endings, so only the last values are comparable."""
    if len(found) != 1:
        yield f"there are {len(found)}"
        return
    if found[0].status != wanted[0].status:
        yield f"is {found[0].status}, undisturbed {wanted[0].status}"
    yield from _twice(found[0])
    yield from _unequal("last", _last(wanted[0]), _last(found[0]))


def _twice(run: Run) -> Iterator[str]:
    for (name, x), times in Counter((name, x) for name, x, _ in run.points).items():
        if times > 1:
            yield f"MLflow has {name} at {x} {times} times"


def _unequal(what: str, wanted: Mapping[Any, Any], found: Mapping[Any, Any]) -> Iterator[str]:
    for key in sorted(wanted.keys() | found.keys(), key=str):
        there, here = wanted.get(key, "nothing"), found.get(key, "nothing")
        if here != there:
            name = f"{key[0]} at {key[1]}" if isinstance(key, tuple) else key
            yield f"{what} {name} is {here!r}, undisturbed {there!r}"


def _timeless(points: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], Any]:
    """Seconds are only there or not; every other value counts to its last digit."""
    return {place: "some" if place[0].startswith("time/") else value for place, value in points.items()}


def _by_place(run: Run) -> dict[tuple[str, int], float]:
    return {(name, x): value for name, x, value in run.points}


def _last(run: Run) -> dict[str, float]:
    return {name: value for name, _, value in sorted(run.points, key=lambda point: point[1])}


def _shared_tags(run: Run) -> dict[str, str]:
    return {name: value for name, value in run.tags.items() if name not in OWN_TAGS}
