"""What the journals of a storage folder tell about time and disk: the costs of the steps that were run there."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bacs.config import RunConfig
from bacs.errors import RequestError
from results.errors import ResultsError
from results.state import SweepState, TrialState
from sweeps.costs import Cost, Sample
from sweeps.stage_keys import planned_numerics
from sweeps.trials import open_data
from sweeps.workloads import Work, Workloads, kind_of

JOURNALS_READ = 20
"""The newest journals of a storage folder; older ones say nothing more."""
TRIALS_READ = 300
"""Of all journals together."""
DATASETS_OPENED = 4
"""Beyond these, journals of other datasets are passed over: opening one may mean making it."""
FOLDERS_MEASURED = 3
"""Trials of each kind whose folders are looked at for their size."""


@dataclass(slots=True)
class PastRuns:
    """Steps of the kinds of work asked for."""

    samples: list[Sample] = field(default_factory=list)
    sweeps: list[str] = field(default_factory=list)
    """Names of those that they come from."""
    unreadable: list[str] = field(default_factory=list)
    """Why journals were passed over."""
    pauses: list[float] = field(default_factory=list)
    """Seconds that workers stood between two trials: a process that starts, a dataset that is opened."""
    step_bytes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By :func:`disk_kind`: bytes that trials occupied, checkpoints and results, for each of their steps."""

    @property
    def pause_seconds(self) -> float:
        """The median; 0 where no sweep has had a second trial."""
        return statistics.median(self.pauses) if self.pauses else 0.0


class Loads:
    """Finds the work of configurations, whatever dataset they are on."""

    def __init__(self) -> None:
        self._opened: dict[str, Workloads] = {}

    def of(self, run: RunConfig) -> Workloads:
        """Opens the dataset of a run, the first time.

        Raises:
            RequestError, OSError: it cannot be opened.
        """
        name = self._name(run)
        if name not in self._opened:
            self._opened[name] = Workloads(open_data(run), planned_numerics(run))
        return self._opened[name]

    def admits(self, run: RunConfig) -> bool:
        """Whether its dataset is open, or few are."""
        return self._name(run) in self._opened or len(self._opened) < DATASETS_OPENED

    @staticmethod
    def _name(run: RunConfig) -> str:
        return json.dumps(run.resolved["dataset"], sort_keys=True)


def past_runs(storage: Path, kinds: set[str], loads: Loads, here: Mapping[str, Any]) -> PastRuns:
    """Reads the newest journals below ``storage``; what cannot be read is passed over and told.

    Args:
        storage: folder of sweeps.
        kinds: of work, of :func:`kind_of`.
        loads: with the datasets that are open already.
        here: the ``dataset`` section of now, for where files and caches lie.
    """
    found = PastRuns()
    left = TRIALS_READ
    for path in _newest_first(storage.glob("*/journal.jsonl"))[:JOURNALS_READ]:
        try:
            state = SweepState.load(path)
        except (ResultsError, OSError) as error:
            found.unreadable.append(f"nothing is learned from the sweep {path.parent.name}: {error}".partition("\n")[0])
            continue
        before = len(found.samples)
        for trial in [t for t in state.trials.values() if kind_of_trial(t) in kinds]:
            if left := max(0, left - 1):
                found.samples += _samples(trial, loads, here)
                _measure(trial, path.parent, found)
        if len(found.samples) > before:
            found.sweeps.append(path.parent.name)
            found.pauses += _pauses(state)
    return found


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    """Without those that went away meanwhile."""
    ages = {}
    for path in paths:
        with contextlib.suppress(OSError):
            ages[path] = -path.stat().st_mtime
    return sorted(ages, key=ages.__getitem__)


def kind_of_trial(trial: TrialState) -> str | None:
    """``None`` for a configuration of an earlier version that lacks what now belongs to one."""
    try:
        return kind_of(trial.config)
    except (KeyError, TypeError):
        return None


def disk_kind(config: Mapping[str, Any]) -> str:
    """What the size of a step's outcome depends on."""
    return json.dumps([kind_of(config), config["loss"].get("buffer_size", 0)])


def trial_costs(trial: TrialState) -> dict[int, Cost]:
    """Of the steps that a trial has computed itself, by step."""
    points, own = trial.points, int(trial.tags.get("reused_steps") or 0)
    costs = {}
    for (metric, step), (seconds, _) in points.items():
        if metric == "time/step_seconds" and step >= own:
            cpu_seconds, _ = points.get(("time/step_cpu_seconds", step), (seconds, 0.0))
            costs[step] = Cost(seconds, cpu_seconds)
    return costs


def _samples(trial: TrialState, loads: Loads, here: Mapping[str, Any]) -> list[Sample]:
    costs = trial_costs(trial)
    if not costs:
        return []
    try:
        works = _works(trial.config, loads, here)
    except (RequestError, OSError):  # of an earlier version, or its dataset is gone
        return []
    return [Sample(works[step], cost) for step, cost in costs.items() if step < len(works) and cost.seconds > 0]


def _works(config: dict[str, Any], loads: Loads, here: Mapping[str, Any]) -> list[Work]:
    places = {key: here[key] for key in ("root", "cache") if key in here}
    run = RunConfig.from_dict({**config, "dataset": {**config["dataset"], **places}})
    return loads.of(run).of(run) if loads.admits(run) else []


def _pauses(state: SweepState) -> Iterator[float]:
    """From the end of a trial to the start of the next, on the worker that it left; undisturbed trials alone."""
    trials = [t for t in state.trials.values() if t.attempts == 1 and t.status == "finished" and t.started_at]
    ends = sorted(t.ended_at for t in trials if t.ended_at is not None)
    for trial in trials:
        assert trial.started_at is not None and trial.ended_at is not None
        own = trial.ended_at - trial.started_at - sum(cost.seconds for cost in trial_costs(trial).values())
        earlier = [end for end in ends if end <= trial.started_at]
        if earlier:
            yield trial.started_at - earlier[-1] + max(0.0, own)


def _measure(trial: TrialState, sweep: Path, found: PastRuns) -> None:
    sizes = found.step_bytes[disk_kind(trial.config)]
    steps = len(trial_costs(trial))
    if trial.status != "finished" or not steps or len(sizes) >= FOLDERS_MEASURED:
        return
    with contextlib.suppress(OSError):  # it may be cleaned away meanwhile
        occupied = sum(path.stat().st_size for path in (sweep / "trials" / trial.key).rglob("*") if path.is_file())
        if occupied:
            sizes.append(occupied / steps)
