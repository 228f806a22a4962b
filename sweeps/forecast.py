"""What a sweep will cost, before it takes anything, and what it came to."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bacs.config import RunConfig
from bacs.stages import StageStore
from results.state import SweepState, TrialState
from search_spaces.stopping import expected_reach
from sweeps.costs import Cost, CostModel, Sample
from sweeps.data_check import check_data
from sweeps.footprint import outcome_bytes
from sweeps.ledger import trials_at_once
from sweeps.outdated import Outdated, find_outdated
from sweeps.past_runs import Loads, PastRuns, disk_kind, past_runs, trial_costs
from sweeps.planned_trials import PlannedTrial, planned_trials
from sweeps.probe import probe
from sweeps.settings import SweepConfig
from sweeps.stage_keys import chain_of, first_swept_step, stage_keys
from sweeps.stage_tree import Chain, Stage, StageTree, makespan
from sweeps.workloads import Work, kind_of

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a whole sweep, planned or real. ``None``: unknown."""

    stages: int
    """Steps that are computed; those that are reused do not count."""
    held_hours: float | None
    """GPU-hours where trials hold GPUs, else CPU-hours: the time in steps x what a trial holds."""
    cpu_hours: float | None
    """Of the processor in steps, in one process a trial."""
    wall_seconds: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """The trials of a sweep, their stages and what these cost."""

    sweep: SweepConfig
    trials: list[PlannedTrial]
    tree: StageTree
    works: list[list[Work]]
    """Of each trial, by step."""
    costs: CostModel
    past: PastRuns
    first_swept: dict[str, int]
    """By split: the first step that a suggestion which is not known yet may change."""
    step_bytes: list[float]
    """Of each trial: bytes that the outcome of one of its steps takes."""
    outdated: Callable[[], Outdated]
    """Finds, of what is left to compute, what is stored, but by other code. Reads the whole store."""
    notes: list[str]
    """What the user should know about the images."""

    def cost(self, stage: Stage) -> Cost | None:
        return self.costs.cost(self.works[stage.trials[0]][stage.step])

    def seconds(self, stage: Stage) -> float:
        """0 where it is unknown."""
        cost = self.cost(stage)
        return 0.0 if cost is None else cost.seconds

    @property
    def unknown(self) -> int:
        """Stages left to compute whose cost is unknown."""
        return sum(self.cost(stage) is None for stage in self.tree.needed)

    @property
    def is_any_unknown(self) -> bool:
        """Whether that of any stage is, stored and finished ones included."""
        return any(self.cost(stage) is None for stage in self.tree.stages())

    @property
    def figures(self) -> Figures:
        """What is left to do."""
        needed = self.tree.needed
        if self.unknown:
            return Figures(len(needed), None, None, None)
        cpu_seconds = sum(cost.cpu_seconds for cost in map(self.cost, needed) if cost is not None)
        hours = self.tree.total(self.seconds) * held(self.sweep) / 3600
        return Figures(len(needed), hours, cpu_seconds / 3600, self.makespan())

    def makespan(self) -> float | None:
        """Seconds with as many trials at once as fit, starts included; ``None`` where only a cluster knows."""
        workers, pause = trials_at_once(self.sweep), self.past.pause_seconds
        if workers is None:
            return None
        return makespan(self.tree, max(1, workers), lambda stage: self.seconds(stage) + pause * stage.ends)

    @property
    def stage_bytes(self) -> float:
        """Of the outcomes that are still to be computed, each once."""
        return sum(self.step_bytes[stage.trials[0]] for stage in self.tree.needed)

    @property
    def checkpoint_bytes(self) -> float:
        """Of the checkpoints and results that trials keep for themselves, a bundle a step."""
        chains = zip(self.tree.chains, self.step_bytes, strict=True)
        return sum((len(chain.keys) - chain.done) * size for chain, size in chains)

    def stopped_seconds(self) -> float:
        """Of what is left to compute, expected with early stopping; see `expected_reach`."""
        reach: dict[tuple[str, int], list[float]] = {}
        sizes = Counter((p.trial.split, p.trial.seed) for p in self.trials if p.trial.role == "trial")
        for planned, works in zip(self.trials, self.works, strict=True):
            bracket = planned.trial.split, planned.trial.seed
            if planned.trial.role == "trial" and bracket not in reach:
                begun = expected_reach(self.sweep.stopping, len(works), sizes[bracket])
                reach[bracket] = [count / sizes[bracket] for count in begun]

        def needed(stage: Stage) -> float:
            """How likely one of its trials comes to it."""
            nobody = 1.0
            for trial in (self.trials[position].trial for position in stage.needed_by):
                judged = trial.role == "trial" and trial.params not in self.sweep.defaults
                nobody *= 1.0 - (reach[trial.split, trial.seed][stage.step] if judged else 1.0)
            return 1.0 - nobody

        return sum(self.seconds(stage) * needed(stage) for stage in self.tree.needed)

    def fitting(self, hours: float) -> int:
        """How many trials, in the order of handing out, fit into so many GPU- or CPU-hours."""
        return self.tree.fitting(self.seconds, 3600 * hours / held(self.sweep))


def held(sweep: SweepConfig) -> float:
    """What a trial holds of the resource that its cost is counted in: GPUs, or, where it holds none, CPUs."""
    wanted = sweep.resources
    return wanted.gpus_per_trial or wanted.cpus_per_trial


def make_forecast(
    sweep: SweepConfig, state: SweepState | None, has: Callable[[str], bool] | None = None, *, probing: bool = False
) -> Forecast:
    """What is left of a sweep to do. Trains nothing, unless it probes; opens the dataset, as `run` would.

    Args:
        sweep: a checked one.
        state: what its journal tells; ``None``: it is new.
        has: whether the outcome of a stage key is stored; ``None``: the sweep's own store is asked.
        probing: whether to run a few iterations of every method here.
    """
    trials, loads = planned_trials(sweep, state), Loads()
    shared = sweep.stages
    stored = has or (StageStore(shared).has if shared is not None else lambda key: False)
    runs = _runs(trials)
    notes = check_data({id(run): run for run in runs}.values(), loads)
    works = _once(runs, lambda run: loads.of(run).of(run))
    keys = _once(runs, lambda run: stage_keys(run, len(loads.of(run).of(run)), loads.of(run).data.manifest))
    first_swept: dict[str, int] = {}
    chains: list[Chain] = []
    for planned, run, own in zip(trials, runs, keys, strict=True):
        split = planned.trial.split
        if not planned.is_known and split not in first_swept:
            first_swept[split] = first_swept_step(sweep, run, len(own), loads.of(run).data.manifest)
        chain = chain_of(planned, own, first_swept.get(split, 0))
        chains.append(chain if shared is not None else _alone(chain, len(chains)))
    kinds = {kind_of(run.resolved) for run in runs}
    past = past_runs(Path(sweep.launch.storage), kinds, loads, sweep.base["dataset"])
    notes += past.unreadable
    samples = past.samples + (_probed(runs, loads) if probing else [])
    step_bytes = _once(runs, lambda run: _step_bytes(run, past, loads))
    tree = StageTree(chains, stored)

    def outdated() -> Outdated:
        if shared is None:
            return Outdated()
        known = {id(run): run for planned, run in zip(trials, runs, strict=True) if planned.is_known}.values()
        lengths = ((run, len(loads.of(run).of(run)), loads.of(run).data.manifest) for run in known)
        return find_outdated(StageStore(shared), lengths, {stage.key for stage in tree.needed})

    return Forecast(sweep, trials, tree, works, CostModel(samples), past, first_swept, step_bytes, outdated, notes)


def _alone(chain: Chain, number: int) -> Chain:
    """A chain that has nothing in common with any other."""
    return dataclasses.replace(chain, keys=tuple(f"{number} {key}" for key in chain.keys))


def _runs(trials: list[PlannedTrial]) -> list[RunConfig]:
    """Their checked configurations; equal ones are the same object."""
    checked: dict[str, RunConfig] = {}
    runs = []
    for planned in trials:
        name = json.dumps(planned.trial.config, sort_keys=True)
        if name not in checked:
            checked[name] = RunConfig.from_dict(planned.trial.config)
        runs.append(checked[name])
    return runs


def _once(runs: list[RunConfig], ask: Callable[[RunConfig], Answer]) -> list[Answer]:
    """The answer for each, asked once for those that are the same object."""
    answers: dict[int, Answer] = {}
    for run in runs:
        if id(run) not in answers:
            answers[id(run)] = ask(run)
    return [answers[id(run)] for run in runs]


def _probed(runs: list[RunConfig], loads: Loads) -> list[Sample]:
    """Of the first run of every kind of work and mode."""
    first: dict[tuple[str, str], RunConfig] = {}
    for run in runs:
        first.setdefault((kind_of(run.resolved), run.training.mode), run)
    return [sample for run in first.values() for sample in probe(run, loads.of(run).data)]


def _step_bytes(run: RunConfig, past: PastRuns, loads: Loads) -> float:
    """Bytes that a step leaves: what earlier ones took, else what its tensors will."""
    known = past.step_bytes.get(disk_kind(run.resolved))
    return statistics.median(known) if known else outcome_bytes(run, loads.of(run).data)


def real_figures(sweep: SweepConfig, before: SweepState | None, after: SweepState, since: float) -> Figures:
    """What one driver did.

    Args:
        sweep: that it ran.
        before: its journal when the driver began; ``None``: there was none.
        after: its journal at the end.
        since: Unix seconds at which the driver began.
    """
    costs = [cost for key, trial in after.trials.items() for cost in _new_costs(trial, before, key)]
    hours = sum(cost.seconds for cost in costs) * held(sweep) / 3600
    starts = [t for trial in after.trials.values() for t in (trial.started_at, trial.attempt_started_at) if t]
    begun = [moment for moment in starts if moment >= since]
    ends = [trial.ended_at for trial in after.trials.values() if trial.ended_at is not None]
    wall = max(ends) - min(begun) if begun and ends and max(ends) > min(begun) else None
    return Figures(len(costs), hours, sum(cost.cpu_seconds for cost in costs) / 3600, wall)


def _new_costs(trial: TrialState, before: SweepState | None, key: str) -> list[Cost]:
    """Of the steps that a trial has computed since ``before``."""
    known = before.trials.get(key) if before is not None else None
    old = trial_costs(known) if known is not None else {}
    return [cost for step, cost in trial_costs(trial).items() if step not in old]
