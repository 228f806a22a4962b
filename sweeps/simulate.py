"""A sweep in virtual time: the real searcher and the real early stopping on recorded learning curves.

A trial that is simulated gets the course of a recorded one; only the clock is made up. References and further seeds,
which no decision looks at, are left out, and a trial's start costs nothing.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.lineage import stage_key
from bacs.precision import set_up_numerics
from bacs.randomness import derive_seed
from results.state import SweepState
from results.tables import duration
from search_spaces.propose import Told, propose
from search_spaces.space import METHOD_KEY, Params
from search_spaces.stopping import STOPPING_ALGORITHMS, Brackets, Rung, StoppingSettings, is_audited
from sweeps.curves import Curve, matcher, recorded_curves
from sweeps.ledger import suggestions_of
from sweeps.settings import SweepConfig, configured, split_name
from sweeps.studies import study_of, study_settings

CLOSE = 0.01
"""mIoU in 0..1: a configuration that is so much worse than the best counts as found."""
MOST_SEARCHED = 200
"""Trials up to which the sweep's own search algorithm suggests; its time grows with the square of their number."""

Suggest = Callable[[int, Callable[[], list[Told]]], Params | None]
"""The configuration of a number; all earlier ones, in order, are there for those who ask."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a table's row simulates."""

    stopping: StoppingSettings
    sharing: bool
    """Step 0 is computed once for each of its keys."""
    trials: int
    workers: int
    lag: int
    defaults: Sequence[Params] = ()
    """Never stopped."""


@dataclass(slots=True)
class Outcome:
    """What a simulated sweep came to."""

    finals: list[tuple[float, float]] = field(default_factory=list)
    """Of each finished trial: seconds since the start, final mIoU."""
    possible: float = -math.inf
    """The best final mIoU of all its configurations, stopped ones too."""
    started: int = 0
    stopped: int = 0
    worker_seconds: float = 0.0
    """Training only, without waiting for another trial's stage."""
    seconds: float = 0.0

    def time_to(self, target: float) -> float | None:
        """Seconds until a trial has finished with at least this final mIoU."""
        return min((at for at, final in self.finals if final >= target), default=None)


class Simulation:
    """One sweep of one split, event by event."""

    def __init__(
        self,
        scenario: Scenario,
        suggest: Suggest,
        curve_of: Callable[[int, Params], Curve],
        stage_of: Callable[[Params], Hashable],
    ) -> None:
        self._scenario = scenario
        self._suggest, self._curve_of, self._stage_of = suggest, curve_of, stage_of
        self._brackets = Brackets(scenario.stopping)
        self._history: list[Told] = []
        self._open_before = 0  # all earlier trials are over
        self._stages: dict[Hashable, float] = {}  # when each shared step 0 is ready
        self._events: list[tuple[float, int, int]] = []  # time, trial, its next rung
        self._runs: dict[int, tuple[Curve, list[tuple[float, Rung, float]], float, float]] = {}
        self._objected: set[int] = set()
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """To the end of the last trial."""
        free = self._scenario.workers
        now = 0.0
        while True:
            while free and self._start_next(now):
                free -= 1
            if not self._events:
                self.outcome.seconds = now
                return self.outcome
            now, number, index = heapq.heappop(self._events)
            free += self._is_over_after(now, number, index)

    def _start_next(self, now: float) -> bool:
        number = len(self._history)
        if number >= self._scenario.trials or not self._is_visible(number - self._scenario.lag):
            return False
        params = self._suggest(number, self._told)
        if params is None:
            return False
        self._history.append(Told(params, None))
        curve = self._curve_of(number, params)
        begun, saved = now, 0.0
        if self._scenario.sharing:
            stage = self._stage_of(params)
            if stage in self._stages:
                saved = curve.seconds[0]
                begun = max(now, self._stages[stage]) - saved
            else:
                self._stages[stage] = now + curve.seconds[0]
        rungs = curve.rungs(self._scenario.stopping)
        self._runs[number] = (curve, rungs, begun, saved)
        self.outcome.started += 1
        self.outcome.possible = max(self.outcome.possible, curve.final)
        self._await(now, number, 0)
        return True

    def _told(self) -> list[Told]:
        visible = max(0, len(self._history) - self._scenario.lag)
        return self._history[:visible] + [Told(told.params, None) for told in self._history[visible:]]

    def _is_visible(self, count: int) -> bool:
        """Whether the first trials, so many, are all over."""
        while self._open_before < count and not self._history[self._open_before].is_open:
            self._open_before += 1
        return self._open_before >= count

    def _await(self, now: float, number: int, index: int) -> None:
        curve, rungs, begun, _ = self._runs[number]
        after = rungs[index][0] if index < len(rungs) else sum(curve.seconds)
        heapq.heappush(self._events, (max(now, begun + after), number, index))

    def _is_over_after(self, now: float, number: int, index: int) -> bool:
        curve, rungs, _, saved = self._runs[number]
        trial = str(number)
        if index == len(rungs):
            self._history[number] = Told(self._history[number].params, curve.final)
            self.outcome.finals.append((now, curve.final))
            self.outcome.worker_seconds += sum(curve.seconds) - saved
            if number not in self._objected:
                self._brackets.finish(BRACKET, trial)
            del self._runs[number]
            return True
        after, rung, value = rungs[index]
        if number not in self._objected and self._objects(number, rung, value):
            self._objected.add(number)
            self._brackets.forget(trial)
            if not is_audited(self._scenario.stopping.audit_share, trial):
                steps = {step + 1: value for step, value in enumerate(curve.after_steps[: rung.steps])}
                self._history[number] = Told(self._history[number].params, None, pruned=steps)
                self.outcome.stopped += 1
                self.outcome.worker_seconds += max(0.0, after - saved)
                del self._runs[number]
                return True
        self._await(now, number, index + 1)
        return False

    def _objects(self, number: int, rung: Rung, value: float) -> bool:
        self._brackets.add(BRACKET, str(number), rung, value)
        scenario = self._scenario
        may_stop = rung.steps >= scenario.stopping.grace_steps and self._history[number].params not in scenario.defaults
        return may_stop and bool(self._brackets.objection(BRACKET, str(number), rung, value))


BRACKET = ("", 0)
"""A simulation has one."""


def render_simulation(sweep: SweepConfig, recorded: SweepState, workers: int | None) -> RenderableType:
    """A table a split: how soon the best configuration is found, and at what cost, with and without early stopping
    and shared first steps.

    Args:
        sweep: a checked one.
        recorded: whose learning curves are used.
        workers: trials at once; ``None``: nobody knows.

    Raises:
        RequestError: a split has no recorded curves, or the workers are unknown.
    """
    if workers is None:
        raise RequestError.of("--workers", "is unknown: only Ray knows the size of a cluster", "give --workers")
    parts: list[RenderableType] = []
    for split in map(split_name, sweep.search.splits):
        curves = recorded_curves(recorded, split, sweep.stopping.metric)
        if not curves:
            known = ", ".join(s for s in recorded.splits() if recorded.finished(s)) or "none"
            problem = f"is {recorded.sweep}, which has no finished trial of split {split}"
            raise RequestError.of("--curves", problem, f"name a sweep that has; splits finished there: {known}")
        parts += _split_parts(sweep, split, curves, recorded.sweep, workers)
    return Group(*parts)


def _split_parts(sweep: SweepConfig, split: str, curves: list[Curve], name: str, workers: int) -> list[RenderableType]:
    trials = suggestions_of(sweep, study_of(sweep, split))
    suggest, search_note = _searcher(sweep, split, trials)
    curve_of, curve_note = matcher(sweep.space, curves, split)
    lag = max(sweep.search.lag, min(workers, trials) - 1)
    notes = [f"learning curves: {curve_note} ({name})", f"suggestions: {search_note}"]
    if lag > sweep.search.lag:
        notes.append(f"with search.lag={sweep.search.lag} workers would wait; this is search.lag={lag}")
    acting, defaults = acting_in_step_0(sweep), sweep.defaults if sweep.search.include_default else []
    scenarios = [
        Scenario(dataclasses.replace(sweep.stopping, algorithm=algorithm), sharing, trials, workers, lag, defaults)
        for algorithm in STOPPING_ALGORITHMS
        for sharing in (False, True)
    ]
    outcomes = [Simulation(scenario, suggest, curve_of, acting).run() for scenario in scenarios]
    target = max(outcome.possible for outcome in outcomes) - CLOSE
    best = f"within {100 * CLOSE:g} points of the best configuration that any row began"
    notes.insert(0, f"to best: until a trial has finished with val mIoU {100 * target:.1f} %, {best}; times in h:mm:ss")
    table = _table(f"split {split}: {trials} trials on {workers} workers, simulated", scenarios, outcomes, target)
    return [table, Text("\n".join(notes), style="dim")]


def _table(title: str, scenarios: list[Scenario], outcomes: list[Outcome], target: float) -> Table:
    table = Table(title=Text(title), title_justify="left")
    table.add_column("stopping", no_wrap=True)
    table.add_column("step 0")
    for heading in ("to best", "to the end", "worker-hours", "trials", "stopped"):
        table.add_column(heading, justify="right", no_wrap=True)
    for scenario, outcome in zip(scenarios, outcomes, strict=True):
        sharing = "shared" if scenario.sharing else "own"
        hours = f"{outcome.worker_seconds / 3600:,.2f}"
        found = outcome.time_to(target)
        times = ["never" if found is None else duration(found), duration(outcome.seconds)]
        cells = [scenario.stopping.algorithm, sharing, *times, hours, str(outcome.started), str(outcome.stopped)]
        table.add_row(*map(Text, cells))
    return table


def _searcher(sweep: SweepConfig, split: str, trials: int) -> tuple[Suggest, str]:
    """The sweep's own search or, for very many trials, suggestions that look at no results."""
    search = sweep.search
    settings = dataclasses.replace(study_settings(sweep, study_of(sweep, split)), objectives=1)
    defaults = sweep.defaults if search.include_default else []
    if trials <= MOST_SEARCHED:
        return lambda _, told: propose(settings, told(), defaults), f"search.algorithm={search.algorithm}"
    if sweep.space.enumerated_by(search.algorithm):
        listed = sweep.space.grid()
        return lambda number, _: listed[number], "the listed combinations, in order"
    blind = [
        propose(dataclasses.replace(settings, algorithm="random", seed=derive_seed(search.seed, number)), [])
        for number in range(trials)
    ]
    left_out = f", without {search.algorithm}, which is simulated up to {MOST_SEARCHED} trials a split"
    return lambda number, _: blind[number], "at random" + (left_out if search.algorithm != "random" else "")


def acting_in_step_0(sweep: SweepConfig) -> Callable[[Params], Hashable]:
    """Maps configurations to what their first step depends on: the values of the dimensions that change its key."""
    numerics = set_up_numerics("cpu", False, None)

    def key(point: Params) -> str:
        return stage_key(RunConfig.from_dict(configured(sweep.base, point, sweep.launch.config_path)), 0, "", numerics)

    acting = []
    for dimension in sweep.space.dimensions:
        place = {} if dimension.when is None else {METHOD_KEY: dimension.when}
        if len({key(place | {dimension.key: value}) for value in dimension.extremes()}) > 1:
            acting.append(dimension)
    if sweep.space.points:
        return key
    return lambda params: tuple((d.name, params[d.key]) for d in acting if d.varies(params))
