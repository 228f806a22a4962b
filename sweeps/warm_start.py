"""Warm start: what the trials of earlier sweeps tell the studies of a new one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bacs.config import RunConfig
from bacs.errors import Fault, RequestError
from bacs.lineage import passive_keys
from results.objectives import mean_objective
from results.state import SweepState, TrialState
from search_spaces.space import Params, Space
from sweeps.driver import JOURNAL
from sweeps.edits import differences
from sweeps.settings import SweepConfig, configured, split_name
from sweeps.studies import split_names, studies
from sweeps.trials import at_home

WHERE = "search.warm_start"
MACHINE_KEYS = {"training.n_gpus", "training.threads", "training.device"}
"""Only the last digits of a result depend on them, and seeds move it by far more."""

WarmRow = dict[str, Any]
"""A configuration as the journal of the new sweep keeps it: ``sweep`` it comes from, the ``splits`` and ``seeds`` it
ran on, ``params``, and ``values``, one an objective."""


def warm_start(sweep: SweepConfig) -> list[WarmRow]:
    """The finished configurations of the sweeps in ``search.warm_start``, read from their journals.

    Raises:
        RequestError: one does not exist, was another run, or has nothing for this sweep.
        ResultsError: a journal is damaged.
    """
    rows: list[WarmRow] = []
    faults: list[Fault] = []
    for name in sweep.search.warm_start:
        try:
            rows += _rows(sweep, name, _earlier(sweep, name))
        except RequestError as error:
            faults += error.faults
    if faults:
        raise RequestError(faults)
    return rows


def told_warm_start(sweep: SweepConfig, rows: Sequence[WarmRow]) -> str:
    """How many configurations came from which sweep, and with which seeds they ran there."""
    lines = []
    for name in sweep.search.warm_start:
        own = [row for row in rows if row["sweep"] == name]
        seeds = ", ".join(map(str, own[0]["seeds"])) if own else ""
        lines.append(f"{len(own)} configurations of {name} (seeds {seeds})")
    return ", ".join(lines)


def _earlier(sweep: SweepConfig, name: str) -> SweepState:
    storage = Path(sweep.launch.storage)
    path = storage / name / JOURNAL
    if name == sweep.launch.name:
        raise RequestError.of(WHERE, f"names {name}, the sweep itself", "to go on with it: python -m sweeps resume")
    if Path(name).name != name or not path.is_file():
        known = sorted(found.parent.name for found in storage.glob(f"*/{JOURNAL}"))
        problem = f"names {name}, but there is no such sweep in {storage}"
        raise RequestError.of(WHERE, problem, f"known there: {', '.join(known) or 'none'}")
    return SweepState.load(path)


def _rows(sweep: SweepConfig, name: str, earlier: SweepState) -> list[WarmRow]:
    seeds = list((earlier.config.get("search") or {}).get("seeds") or [])
    rows: list[WarmRow] = []
    for splits in map(split_names, studies(sweep).values()):
        for trials in _configurations(earlier, splits, len(seeds)):
            params = trials[0].params
            means = [mean_objective(trials, objective) for objective in sweep.search.objectives]
            if None in means or not _lies_in(sweep.space, params):
                continue
            for trial in trials:
                _refuse_another_run(sweep, name, trial)
            rows.append({"sweep": name, "splits": splits, "seeds": seeds, "params": params, "values": means})
    if not rows:
        where = " or ".join(" and ".join(split_names(splits)) for splits in studies(sweep).values())
        problem = f"names {name}, which has no configuration in {sweep.space.name} that finished with all seeds"
        raise RequestError.of(WHERE, f"{problem} on {where}", "name sweeps of this space and these splits")
    return rows


def _configurations(earlier: SweepState, splits: list[str], seeds: int) -> Iterator[list[TrialState]]:
    """The finished trials of each configuration that has one for every seed on every split.

    Told apart by their params: sweeps that searched each split by itself count them anew for each.
    """
    groups: dict[str, list[TrialState]] = {}
    for split in splits:
        for trial in earlier.finished(split):
            groups.setdefault(json.dumps(trial.params, sort_keys=True), []).append(trial)
    for trials in groups.values():
        if all(sum(trial.split == split for trial in trials) == seeds for split in splits):
            yield trials


def _lies_in(space: Space, params: Params) -> bool:
    return params.keys() == {d.key for d in space.dimensions_of(params)} and space.contains(params)


def _refuse_another_run(sweep: SweepConfig, name: str, trial: TrialState) -> None:
    """The same params must make the same run in both sweeps."""
    split = next(split for split in sweep.search.splits if split_name(split) == trial.split)
    place = {"training.split": split, "training.seed": trial.seed}
    try:
        now = RunConfig.from_dict(configured(sweep.base, {**trial.params, **place}, sweep.launch.config_path))
        then = RunConfig.from_dict(at_home(sweep.base, trial.config))
    except RequestError as error:
        problem = f"names {name}, whose runs this version refuses: {error.faults[0].where} {error.faults[0].problem}"
        raise RequestError.of(WHERE, problem, f"leave {name} out") from None
    ignored = passive_keys(now) | MACHINE_KEYS
    found = sorted(pair for pair in differences(then.resolved, now.resolved) if pair[0] not in ignored)
    if found:
        key, (old, new) = found[0]
        problem = f"names {name}, another run: {key} was {old!r} there and is {new!r} here"
        raise RequestError.of(WHERE, problem, f"leave {name} out, or set {key} as it was")
