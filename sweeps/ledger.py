"""The books of a running sweep: which trial is next, and every turn of events written to the journal first.

One object behind Ray Tune's searcher and callback. It holds no truth of its own: opened on an old journal it goes on
as if it had never stopped.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from results.journal import Journal
from results.state import SELECTION_METRIC, SweepState, TrialState
from search_spaces.propose import StudySettings, Told, propose
from search_spaces.space import Params
from search_spaces.stopping import EarlyStopping
from sweeps.retries import OWN_FAULTS, Ending, ending_of, extra_pieces, is_retried
from sweeps.settings import SweepConfig
from sweeps.trials import Trial, make_trial, placed, split_name
from trainables.folder import TrialFolder


def suggestions_per_split(sweep: SweepConfig) -> int:
    """Configurations that each split's study may suggest."""
    wanted = sweep.search.trials
    return min(wanted, len(sweep.space.grid())) if sweep.space.enumerated_by(sweep.search.algorithm) else wanted


def planned_total(sweep: SweepConfig, state: SweepState | None = None, exhausted: Container[str] = ()) -> int:
    """Trials and references of a whole sweep; splits whose space is exhausted count what they suggested."""
    search = sweep.search
    total = len(search.references) * len(search.splits)
    for name in map(split_name, search.splits):
        numbers = {t.number for t in state.trials.values() if t.role == "trial" and t.split == name} if state else set()
        total += len(numbers) if name in exhausted else suggestions_per_split(sweep)
    return total * len(search.seeds)


def trials_at_once(sweep: SweepConfig) -> int | None:
    """Trials that run at once on this machine; on a cluster, whose size only Ray knows, the limit that was set."""
    wanted = sweep.resources
    if sweep.launch.address:
        return wanted.max_concurrent
    fit = len(os.sched_getaffinity(0)) // wanted.cpus_per_trial
    return fit if wanted.max_concurrent is None else min(fit, wanted.max_concurrent)


class Ledger:
    """Hands out trials and books what they report. All methods may be called from any thread."""

    def __init__(self, sweep: SweepConfig, journal: Journal, state: SweepState) -> None:
        self.sweep = sweep
        self.state = state
        self.deadline: float | None = None
        """Reading of `time.monotonic` after which no more work is handed out; a clock that is set moves nothing."""
        self.stopping = threading.Event()
        """Once set no work is handed out, and workers that die are stopped, not failed."""
        self._closed = False
        self._journal = journal
        self._lock = threading.RLock()
        self._out: set[str] = set()  # handed out by this driver
        self._dropped: set[str] = set()  # of these: ended by Tune before they were over
        self._defaults = sweep.defaults if sweep.search.include_default else []
        self._exhausted: set[str] = set()
        self._early = EarlyStopping(sweep.stopping, self._defaults, state.trials.values())

    # ------------------------------------------------------------------ handing out

    @property
    def total(self) -> int:
        """Trials and references of the whole sweep, as far as is known now."""
        return planned_total(self.sweep, self.state, self._exhausted)

    def next_trial(self) -> Trial | None:
        """The next trial to start, journalled; ``None``: nothing now (see :meth:`exhausted`)."""
        with self._lock:
            if self._is_time_up():
                return None
            waiting = self._unfinished()
            if waiting is None:
                self._suggest_more()
                waiting = self._unfinished()
            if waiting is not None:
                self.folder_of(waiting.key).take_error()  # of an attempt whose end no driver saw
                self._out.add(waiting.key)
                self._place(waiting)
            return waiting

    def next_config(self) -> dict[str, Any] | None:
        """What Tune is given: only where the trial's folder is; everything else is read there."""
        trial = self.next_trial()
        if trial is None:
            return None
        pieces = extra_pieces(self.state.trials[trial.key])
        return {"trial": trial.key, "folder": str(self.folder_of(trial.key).path), "pieces": pieces}

    def exhausted(self) -> bool:
        """Whether nothing will ever follow: time is up, or every trial is over or was ended by Tune.

        A trial that is under way may fail, or lose its node, and follow once more.
        """
        with self._lock:
            return self._is_time_up() or self._is_complete(self._dropped)

    def _is_time_up(self) -> bool:
        late = self.deadline is not None and time.monotonic() > self.deadline
        return late or self._closed or self.stopping.is_set()

    def _is_complete(self, besides: Container[str] = ()) -> bool:
        trials = self.state.trials.values()
        return len(trials) >= self.total and all(trial.is_over or trial.key in besides for trial in trials)

    def _unfinished(self) -> Trial | None:
        for known in self.state.trials.values():
            if not known.is_over and known.key not in self._out:
                self._settle(known)  # a driver may have died before it could
                if not known.is_over:
                    return _trial_of(known)
        return None

    def _suggest_more(self) -> None:
        """Journals the next trials: references first, then a suggestion for the split that has the fewest.

        A driver may have died between two journal writes, so what is there is compared with what should be.
        """
        search = self.sweep.search
        there = {(t.role, t.split, t.number, t.seed) for t in self.state.trials.values()}
        wanted: list[dict[str, Any]] = [
            {"role": role, "number": 0, "split": split, "params": {}}
            for role in search.references
            for split in search.splits
        ]
        for split in search.splits:
            for trials in self._suggested(split_name(split)):
                first = trials[0]
                wanted.append({"role": "trial", "number": first.number, "split": split, "params": first.params})
        missing = [
            what | {"seed": seed}
            for what in wanted
            for seed in search.seeds
            if (what["role"], split_name(what["split"]), what["number"], seed) not in there
        ]
        for what in missing or self._new_suggestion():
            self._plan(**what)

    def _new_suggestion(self) -> list[dict[str, Any]]:
        search = self.sweep.search
        for split in sorted(search.splits, key=lambda split: len(self._suggested(split_name(split)))):
            params = self._propose(split_name(split))
            if params is not None:
                what = {
                    "role": "trial",
                    "number": len(self._suggested(split_name(split))),
                    "split": split,
                    "params": params,
                }
                return [what | {"seed": seed} for seed in search.seeds]
        return []

    def _propose(self, split: str) -> Params | None:
        search = self.sweep.search
        suggested = self._suggested(split)
        if split in self._exhausted or len(suggested) >= suggestions_per_split(self.sweep):
            return None
        visible = max(0, len(suggested) - search.lag)
        history = [self._told(trials) for trials in suggested]
        if any(told.is_open for told in history[:visible]):
            return None  # a result that this suggestion must look at is not in yet
        history = history[:visible] + [Told(told.params, None) for told in history[visible:]]
        settings = StudySettings(self.sweep.space, search.algorithm, search.seed, split, search.startup_trials)
        params = propose(settings, history, self._defaults)
        if params is None:
            self._exhausted.add(split)
        return params

    def _suggested(self, split: str) -> list[list[TrialState]]:
        """The suggestions of a split in order, each with its trials (one a seed)."""
        groups: dict[int, list[TrialState]] = {}
        for trial in self.state.trials.values():
            if trial.role == "trial" and trial.split == split:
                groups.setdefault(trial.number, []).append(trial)
        return [groups[number] for number in sorted(groups)]

    def _told(self, trials: list[TrialState]) -> Told:
        """The mean over the seeds, once all are over, so that it does not depend on which was first."""
        params = trials[0].params
        seeds = len(self.sweep.search.seeds)
        if len(trials) < seeds or not all(trial.is_over for trial in trials):
            return Told(params, None)
        if any(trial.status == "failed" and trial.cause in OWN_FAULTS for trial in trials):
            return Told(params, None, worst=True)
        if any(trial.status == "failed" for trial in trials):
            return Told(params, None, failed=True)
        if any(trial.status == "stopped" for trial in trials):
            return Told(params, None, pruned=_step_means(trials, self.sweep.stopping.metric))
        values = [trial.final.get(SELECTION_METRIC) for trial in trials]
        numbers = [value for value in values if value is not None]
        if len(numbers) < seeds:
            return Told(params, None, failed=True)
        return Told(params, sum(numbers) / seeds)

    def _place(self, trial: Trial) -> None:
        """Writes the configuration that the trial's process reads, as resources and folders are now."""
        known = self.state.trials[trial.key]
        config = placed(self.sweep, known.config, begun=known.attempts > 0)
        if config != known.config:
            self._book("placed", trial=trial.key, config=config)
        self.folder_of(trial.key).write_config(config)

    def _plan(self, **what: Any) -> None:
        trial = make_trial(self.sweep, self.state.uid, **what)
        fields = {
            name: getattr(trial, name) for name in ("number", "role", "split", "seed", "params", "config", "tags")
        }
        self._book("suggested", trial=trial.key, **fields)

    # ------------------------------------------------------------------ booking

    @contextmanager
    def reading(self) -> Iterator[SweepState]:
        """The state, held still."""
        with self._lock:
            yield self.state

    def folder_of(self, key: str) -> TrialFolder:
        return TrialFolder(self.sweep.folder / "trials" / key)

    def book_report(self, key: str, report: Mapping[str, Any]) -> None:
        """Books one report of :func:`trainables.trial.train_trial`."""
        with self._lock:
            if self._closed:
                return
            known = self.state.trials[key]
            if report["kind"] == "started":
                tags = {"stage.0": report["stage.0"]}
                if report.get("pieces", 1) > 1 or "micro_batches" in known.tags:
                    tags["micro_batches"] = report.get("pieces", 1)
                place = {"host": report["host"], "pid": report["pid"], "notes": report["notes"]}
                self._book("started", trial=key, attempt=known.attempts + 1, tags=tags, **place)
            fresh = [point for point in report["points"] if (point[0], point[1]) not in known.points]
            more = {"notes": report["notes"]} if report["kind"] != "started" and report.get("notes") else {}
            stop = None if known.is_over else self._early.judge(known, fresh)
            if stop is not None:
                more["stop"] = dataclasses.asdict(stop)
            if fresh or more:
                self._book("reported", trial=key, step=report["step"], epoch=report["epoch"], points=fresh, **more)
            self._settle(known)
            if report["kind"] == "final" and not known.is_over:
                self._book("finished", trial=key, final=report["final"], seconds=known.total("time/step_seconds"))
                self._early.finish(known)

    def _settle(self, known: TrialState) -> None:
        """Ends a trial that early stopping has objected to, unless it is audited."""
        if known.stop is not None and not known.stop.audited and not known.is_over:
            self._book("stopped", trial=known.key, reason=known.stop.reason)

    def is_stopped(self, key: str) -> bool:
        """Whether early stopping has ended a trial."""
        with self._lock:
            return self.state.trials[key].status == "stopped"

    def book_failure(self, key: str, *, will_retry: bool = False, lost_node: bool = False, ray_text: str = "") -> None:
        """Books the end of a trial's attempt that failed, and with it whether the trial will be handed out anew.

        Args:
            key: of the trial.
            will_retry: whether Tune starts it again by itself, as it does after a pre-emption alone.
            lost_node: whether it died with its machine, which is never the trial's failure.
            ray_text: what Ray tells of it, for the case that the trial had no time to leave its error in its folder.
        """
        with self._lock:
            known = self.state.trials[key]
            if self._closed or self.stopping.is_set():
                return  # the attempt was ended, it did not fail
            left = self.folder_of(key).take_error()
            if known.is_over:
                return
            ending = Ending(**left, lost_node=lost_node) if left else ending_of(ray_text, lost_node=lost_node)
            retried = will_retry or is_retried(known, ending, self.sweep.launch.max_failures)
            told = {"cause": ending.cause, "reason": ending.reason, "traceback": ending.traceback}
            charged = ending.is_charged and not will_retry
            self._book("failed", trial=key, will_retry=retried, charged=charged, **told)
            if retried and not will_retry:
                self._out.discard(key)

    def drop(self, key: str) -> None:
        """Tune has ended a trial that is not over; whoever resumes the sweep goes on with it."""
        with self._lock:
            if not self.state.trials[key].is_over:
                self._dropped.add(key)

    def reopen_failed(self) -> None:
        """Has the trials that failed for good tried again, as if they had never failed, from their checkpoints."""
        with self._lock:
            for known in list(self.state.trials.values()):
                if known.status == "failed":
                    self._book("reopened", trial=known.key)
                    self._out.discard(known.key)

    def close(self) -> None:
        """Books how the sweep ended, once; nothing can be booked after that."""
        with self._lock:
            if self._closed or self.state.created_at is None:
                return
            failed = any(trial.status == "failed" for trial in self.state.trials.values())
            over = "failed" if failed else "finished"
            self._book("ended", status=over if self._is_complete() else "interrupted")
            self._closed = True

    def book(self, kind: str, **fields: Any) -> None:
        """Books a record that is not about one trial."""
        with self._lock:
            if not self._closed:
                self._book(kind, **fields)

    def _book(self, kind: str, **fields: Any) -> None:
        self.state.apply(self._journal.append(kind, **fields))


def _step_means(trials: list[TrialState], metric: str) -> dict[int, float]:
    """Of a metric over all trials, after each continual step (1-based) that all of them finished."""
    courses = [{x + 1: value for (name, x), (value, _) in t.points.items() if name == metric} for t in trials]
    common = sorted(set.intersection(*map(set, courses)))
    return {step: sum(course[step] for course in courses) / len(courses) for step in common}


def _trial_of(known: TrialState) -> Trial:
    fields = ("key", "number", "role", "split", "seed", "params", "config", "tags")
    return Trial(**{name: getattr(known, name) for name in fields})
