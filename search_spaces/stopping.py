"""Step-aware early stopping: which trials are not worth their next continual steps.

A decision compares a trial at one of its rungs with what is known there at that moment, inside its own bracket (task
split and seed), and nothing else. So a journal that is read again, up to any record, leads to the same decisions.

- ``halving``: asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning",
  MLSys 2020) in the variant that stops instead of pausing. Rungs are continual steps.
- ``median``: the median stopping rule (Golovin et al., "Google Vizier", KDD 2017). Golovin compare the best value so
  far; in a continual stream the first step is the best of every trial, so here it is the running average.

Every seed of a configuration is judged alone, beside the trials of the same seed, with which it shares initial weights
and the order of the data. A configuration of which a seed was stopped can no longer win.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bacs.config import RunConfig, n_steps
from bacs.randomness import derive_seed
from bacs.schema import knob
from results.state import StopDecision, TrialState
from search_spaces.space import Params

STOPPING_ALGORITHMS = ("none", "halving", "median")
EPOCH_METRIC = "val/miou"
MEDIAN_PEERS = 3
"""Finished trials from which on a median tells something."""

Bracket = tuple[str, int]
"""Task split and seed: trials of different brackets are never compared."""


@dataclass(frozen=True, kw_only=True)
class StoppingSettings:
    """Keys of ``stopping``: which trials end before their last step. References and defaults are never stopped."""

    algorithm: str = knob("none", choices=STOPPING_ALGORITHMS)
    reduction_factor: float = knob(3.0, gt=1, le=1000)
    """Of halving: the best 1/factor of a rung go on (all, while fewer than factor trials have come to it)."""
    grace_steps: int = knob(1, ge=0, le=10_000)
    """Finished continual steps before which no trial is stopped: the first rung. Those of halving lie
    after grace_steps * reduction_factor^k steps, those of the median rule after every step. 0: as 1, but with epoch
    rungs inside the first step too."""
    metric: str = knob("val/miou_all", choices=("val/miou_all", "val/miou_base", "val/miou_novel"))
    """Compared after steps."""
    epoch_rungs: int | None = knob(None, ge=1, le=100_000)
    """Also compare ``val/miou`` inside every step after this many epochs, twice as many ...; null: only after steps.
    Every rung stops its share of what came to it: few epochs between rungs stop almost everything."""
    audit_share: float = knob(0.1, ge=0, le=1)
    """Of the trials that would be stopped this share, drawn by their keys, goes on to the end, so that the report can
    tell what stopping cost."""


class Rung(NamedTuple):
    """Where trials are compared; in the order in which a trial meets them."""

    steps: int
    """Finished continual steps."""
    epochs: int = 0
    """Finished epochs of the step under way; 0: a step has just ended."""

    def __str__(self) -> str:
        if not self.epochs:
            return f"after step {self.steps}"
        return f"in step {self.steps + 1} after {self.epochs} epoch{'s' if self.epochs > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Course:
    """The epochs of a run."""

    epochs: int
    """Of the first step."""
    next_epochs: int
    """Of each later step."""

    def place(self, epochs_done: int) -> Rung:
        """Where a run stands that has finished so many epochs, at least one."""
        if epochs_done < self.epochs:
            return Rung(0, epochs_done)
        later, inside = divmod(epochs_done - self.epochs, self.next_epochs)
        return Rung(1 + later, inside)


def step_rungs(settings: StoppingSettings, steps: int) -> list[int]:
    """Finished steps after which trials are judged; never the last step, where there is nothing left to save."""
    if settings.algorithm == "none":
        return []
    first = max(1, settings.grace_steps)
    if settings.algorithm == "median":
        return list(range(first, steps))
    rungs: list[int] = []
    place = float(first)
    while int(place) < steps:
        rungs.append(int(place))
        place *= settings.reduction_factor
    return list(dict.fromkeys(rungs))


def expected_reach(settings: StoppingSettings, steps: int, n: int) -> list[float]:
    """How many of ``n`` trials of a bracket begin each step, expected of trials whose ranks come in any order.

    The k-th trial at a rung of halving is among the best int(k / factor) of k with just that probability. At one of the
    median rule every second trial goes on, once enough others have finished. Trials come one after the other, those
    audited go on and meet no further rung, epoch rungs are left out.
    """
    rungs = set(step_rungs(settings, steps))
    goes_on, audited, reach = float(n), 0.0, []
    for step in range(steps):
        if step in rungs:
            kept = _expected_kept(settings, goes_on)
            audited += settings.audit_share * (goes_on - kept)
            goes_on = kept
        reach.append(goes_on + audited)
    return reach


def _expected_kept(settings: StoppingSettings, n: float) -> float:
    if settings.algorithm == "median":
        return min(n, MEDIAN_PEERS) + max(0.0, n - MEDIAN_PEERS) / 2
    factor, whole = settings.reduction_factor, int(n)
    chances = [1.0 if k < factor else int(k / factor) / k for k in range(1, whole + 2)]
    return sum(chances[:whole]) + (n - whole) * chances[whole]


def step_rung(settings: StoppingSettings, done: int, steps: int) -> Rung | None:
    """The rung after so many finished steps of all; ``None`` if there is none.

    The median rule's averages begin with the first step, whenever it may stop.
    """
    kept = range(1, steps) if settings.algorithm == "median" else step_rungs(settings, steps)
    return Rung(done) if done in kept else None


def epoch_rung(settings: StoppingSettings, place: Rung) -> Rung | None:
    """The rung inside a step at this place; ``None`` if there is none."""
    every = settings.epoch_rungs
    if settings.algorithm == "none" or every is None:
        return None
    if not place.epochs or place.epochs % every or place.steps < settings.grace_steps:
        return None
    return place


def is_audited(share: float, key: str) -> bool:
    """Whether a trial goes on where others are stopped: a function of its key alone."""
    return derive_seed("audit", key) < share * 2**63


class Brackets:
    """What is known at every rung of every bracket; a value costs a binary search, however many there are."""

    def __init__(self, settings: StoppingSettings) -> None:
        self.settings = settings
        self._values: dict[tuple[Bracket, Rung], list[float]] = {}  # of all trials; each list ascending
        self._averages: dict[tuple[Bracket, Rung], list[float]] = {}  # of finished trials; each list ascending
        self._courses: dict[str, dict[Rung, float]] = {}  # of unfinished trials

    def add(self, bracket: Bracket, trial: str, rung: Rung, value: float) -> None:
        """A trial has come to a rung; once for each."""
        value = _comparable(value)
        if self.settings.algorithm == "median":
            self._courses.setdefault(trial, {})[rung] = value
        else:
            insort(self._values.setdefault((bracket, rung), []), value)

    def finish(self, bracket: Bracket, trial: str) -> None:
        """A trial has finished: from now on the median rule compares with it."""
        course = self._courses.pop(trial, {})
        for rung in course:
            insort(self._averages.setdefault((bracket, rung), []), _average(course, rung))

    def forget(self, trial: str) -> None:
        """A trial was stopped: it will never finish."""
        self._courses.pop(trial, None)

    def objection(self, bracket: Bracket, trial: str, rung: Rung, value: float) -> str:
        """Why a trial that was added at a rung should be stopped there; empty: it should not."""
        metric = EPOCH_METRIC if rung.epochs else self.settings.metric
        if self.settings.algorithm == "median":
            return self._below_median(bracket, trial, rung, metric)
        factor, known = self.settings.reduction_factor, self._values[bracket, rung]
        better = len(known) - bisect_right(known, _comparable(value))
        if len(known) < factor or better < int(len(known) / factor):
            return ""
        return f"{metric} {value:.4g} {rung} is not among the best 1/{factor:g} of {len(known)}"

    def _below_median(self, bracket: Bracket, trial: str, rung: Rung, metric: str) -> str:
        others = self._averages.get((bracket, rung), [])
        if len(others) < MEDIAN_PEERS:
            return ""
        median = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2
        mine = _average(self._courses[trial], rung)
        if mine >= median:
            return ""
        return f"mean {metric} {mine:.4g} {rung} is below {median:.4g}, the median of {len(others)} finished trials"


def _average(course: dict[Rung, float], rung: Rung) -> float:
    """The running average: of all steps up to a rung, inside a step of that step's rungs alone."""
    inside = rung.epochs > 0
    upto = [v for r, v in course.items() if r <= rung and (r.epochs > 0) == inside and (not inside or r[0] == rung[0])]
    return math.fsum(upto) / len(upto) if all(map(math.isfinite, upto)) else -math.inf


def _comparable(value: float) -> float:
    return -math.inf if math.isnan(value) else value


class EarlyStopping:
    """The decisions of one sweep; opened on an old journal it goes on as if it had never stopped."""

    def __init__(self, settings: StoppingSettings, defaults: Sequence[Params], trials: Iterable[TrialState]) -> None:
        """Args: settings; defaults: configurations that are never stopped; trials: what the journal knows."""
        self.settings = settings
        self._defaults = list(defaults)
        self._brackets = Brackets(settings)
        self._n_steps: dict[str, int] = {}  # by split
        for trial in trials:
            points = [(metric, x, value) for (metric, x), (value, _) in trial.points.items()]
            for rung, value in self._rungs_of(trial, points):
                if trial.stop is None or rung <= Rung(trial.stop.step, trial.stop.epoch):
                    self._brackets.add(_bracket(trial), trial.key, rung, value)
            if trial.stop is not None:
                self._brackets.forget(trial.key)
            elif trial.status == "finished":
                self.finish(trial)

    def judge(self, trial: TrialState, points: Iterable[Sequence[Any]]) -> StopDecision | None:
        """Takes notice of new points of a trial, and says whether it should end now.

        After an audited trial's first objection its later values do not count, so that an audit changes no decision.
        Nothing is said of a trial that has trained its last step already.

        Args:
            trial: as the journal knows it, without these points.
            points: (metric, x, value, ...), each for the first time.
        """
        if trial.stop is not None:
            return None
        points = list(points)
        rungs = self._rungs_of(trial, points)
        done = bool(rungs) and self._is_trained(trial, points)
        for rung, value in rungs:
            self._brackets.add(_bracket(trial), trial.key, rung, value)
            if done or rung.steps < self.settings.grace_steps or trial.params in self._defaults:
                continue
            reason = self._brackets.objection(_bracket(trial), trial.key, rung, value)
            if reason:
                self._brackets.forget(trial.key)
                return StopDecision(rung.steps, rung.epochs, reason, is_audited(self.settings.audit_share, trial.key))
        return None

    def finish(self, trial: TrialState) -> None:
        """A trial has finished."""
        self._brackets.finish(_bracket(trial), trial.key)

    def _is_trained(self, trial: TrialState, points: list[Sequence[Any]]) -> bool:
        """Whether there are points of the last step's end."""
        last = (self.settings.metric, self._steps_of(trial) - 1)
        return last in trial.points or any((point[0], point[1]) == last for point in points)

    def _rungs_of(self, trial: TrialState, points: Iterable[Sequence[Any]]) -> list[tuple[Rung, float]]:
        """The rungs among a trial's points with their values, in order."""
        if self.settings.algorithm == "none" or trial.role != "trial":
            return []  # without a look at its configuration
        steps = self._steps_of(trial)
        course = self._course(trial)
        found = []
        for metric, x, value, *_ in points:
            rung = None
            if metric == self.settings.metric:
                rung = step_rung(self.settings, x + 1, steps)
            elif metric == EPOCH_METRIC:
                rung = epoch_rung(self.settings, course.place(x))
            if rung is not None:
                found.append((rung, value))
        return sorted(found, key=lambda pair: pair[0])

    def _course(self, trial: TrialState) -> Course:
        training = trial.config["training"]
        return Course(training["epochs"], training["next_epochs"] or training["epochs"])

    def _steps_of(self, trial: TrialState) -> int:
        if trial.split not in self._n_steps:
            config = RunConfig.from_dict(trial.config)
            self._n_steps[trial.split] = n_steps(config.dataset, config.training)
        return self._n_steps[trial.split]


def _bracket(trial: TrialState) -> Bracket:
    return trial.split, trial.seed
