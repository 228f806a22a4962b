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
from functools import partial
from typing import Any

from bacs.config import RunConfig
from bacs.fingerprint import run_code
from bacs.plugins import named
from results.journal import Journal
from results.objectives import mean_objective
from results.state import SweepState, TrialState
from search_spaces.propose import Told, propose
from search_spaces.space import Params
from search_spaces.stopping import EarlyStopping
from sweeps.bounds import TARGET, bound_hit
from sweeps.leases import Leases
from sweeps.prefixes import Prefixes
from sweeps.retries import OWN_FAULTS, Ending, ending_of, extra_pieces, is_retried
from sweeps.settings import SweepConfig, split_name
from sweeps.studies import split_names, studies, study_settings
from sweeps.trials import Trial, at_home, make_trial, placed
from trainables.causes import OTHER_CODE
from trainables.folder import TrialFolder


def suggestions_of(sweep: SweepConfig, study: str) -> int:
    """Configurations that a study, given by its name, may suggest, and so run on each of its splits."""
    wanted, space = sweep.search.trials, sweep.space_of(study)
    return min(wanted, len(space.grid())) if space.enumerated_by(sweep.search.algorithm) else wanted


def planned_total(sweep: SweepConfig, state: SweepState | None = None, exhausted: Container[str] = ()) -> int:
    """Trials and references of a whole sweep; studies whose space is exhausted count what they suggested."""
    search = sweep.search
    total = len(search.references) * len(search.splits)
    trials = [t for t in state.trials.values() if t.role == "trial"] if state else []
    for study, splits in studies(sweep).items():
        numbers = {t.number for t in trials if t.split in split_names(splits)}
        total += (len(numbers) if study in exhausted else suggestions_of(sweep, study)) * len(splits)
    return total * len(search.seeds)


def trials_at_once(sweep: SweepConfig) -> int | None:
    """Trials that run at once on this machine; on a cluster, whose size only Ray knows, the limit that was set."""
    wanted = sweep.resources
    if sweep.launch.address:
        return wanted.max_concurrent
    fit = len(os.sched_getaffinity(0)) // wanted.cpus_per_trial
    if wanted.gpus_per_trial:
        import torch

        fit = min(fit, int(torch.cuda.device_count() / wanted.gpus_per_trial))
    return fit if wanted.max_concurrent is None else min(fit, wanted.max_concurrent)


class Ledger:
    """Hands out trials and books what they report. All methods may be called from any thread."""

    def __init__(self, sweep: SweepConfig, journal: Journal, state: SweepState, leases: Leases | None = None) -> None:
        """Args: leases: on steps, where other sweeps may compute the same ones meanwhile."""
        self.sweep = sweep
        self.state = state
        self.deadline: float | None = None
        """Reading of `time.monotonic` after which no more work is handed out; a clock that is set moves nothing."""
        self.stopping = threading.Event()
        """Once set no work is handed out, and workers that die are stopped, not failed."""
        self.waits_for_others = False
        """Whether all that is left needs a step that another sweep computes just now."""
        self.edited_code = ""
        """Files that are not as they were when this driver began; nothing more is handed out then."""
        self._leases = leases
        self._closed = False
        self._journal = journal
        self._lock = threading.RLock()
        self._out: set[str] = set()  # handed out by this driver
        self._dropped: set[str] = set()  # of these: ended by Tune before they were over
        self._defaults = sweep.defaults if sweep.search.include_default else []
        self._exhausted: set[str] = set()
        self._prefixes = Prefixes(partial(at_home, sweep.base))
        self._heard: dict[str, float] = {}  # reading of `time.monotonic` when a trial under way was last heard of
        self._early = EarlyStopping(sweep.stopping, self._defaults, state.trials.values())

    # ------------------------------------------------------------------ handing out

    @property
    def total(self) -> int:
        """Trials and references of the whole sweep, as far as is known now."""
        return planned_total(self.sweep, self.state, self._exhausted)

    def next_trial(self) -> Trial | None:
        """The next trial to start, journalled; ``None``: nothing now (see :meth:`exhausted`)."""
        with self._lock:
            if self._is_stopped():
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
        options = {"plugins": list(named()), "allow_other_code": self.state.allows_other_code}
        return {"trial": trial.key, "folder": str(self.folder_of(trial.key).path), "pieces": pieces, **options}

    def exhausted(self) -> bool:
        """Whether nothing will ever follow: a bound is hit, or every trial is over or was ended by Tune.

        A trial that is under way may fail, or lose its node, and follow once more.
        """
        with self._lock:
            return self._is_stopped() or self._is_complete(self._dropped)

    def _bound(self) -> str:
        return bound_hit(self.sweep, self.state, self.deadline)

    def _is_stopped(self) -> bool:
        return self._closed or self.stopping.is_set() or bool(self.edited_code) or bool(self._bound())

    def _is_complete(self, besides: Container[str] = ()) -> bool:
        trials = self.state.trials.values()
        return len(trials) >= self.total and all(trial.is_over or trial.key in besides for trial in trials)

    def _unfinished(self) -> Trial | None:
        """The first that is not over, not out, and would not compute what one that is out computes just now.

        So no step is computed twice. A trial is only ever held back by one that runs: when that finishes the step, or
        is taken back because it died, the other one is free.
        """
        for known in self.state.trials.values():
            if known.key not in self._out:
                self._settle(known)  # a driver may have died before it could
        waiting = [trial for trial in self.state.trials.values() if not trial.is_over and trial.key not in self._out]
        if not self._shares_stages():
            return _trial_of(waiting[0]) if waiting else None
        done = self._done()
        under_way = self._under_way(done)
        self.waits_for_others = False
        for known in waiting:
            steps = self._prefixes.left_of(known, done)
            if steps and steps[0] in under_way:
                continue
            # Where another sweep is ahead of it, the first step that it lacks is one of those leased there.
            if self._leases is None or self._leases.take(steps):
                return _trial_of(known)
            self.waits_for_others = not under_way
        return None

    def _done(self) -> set[str]:
        return self._prefixes.done(self.state.trials, self.state.fingerprint)

    def _under_way(self, done: Container[str]) -> set[str]:
        """Steps that trials which are out will have computed when they end."""
        trials = [self.state.trials[key] for key in self._out - self._dropped]
        running = [trial for trial in trials if not trial.is_over]
        return {prefix for trial in running for prefix in self._prefixes.of(trial) if prefix not in done}

    def _give_leases_back(self) -> None:
        """All but those on what the trials that are out will compute."""
        if self._leases is not None:
            self._leases.keep(self._under_way(self._done()))

    def _shares_stages(self) -> bool:
        return self.sweep.base["training"].get("stages") is not None

    def _suggest_more(self) -> None:
        """Journals the next trials: references first, then a suggestion of the study that has the fewest.

        A driver may have died between two journal writes, so what is there is compared with what should be.
        """
        search = self.sweep.search
        there = {(t.role, t.split, t.number, t.seed) for t in self.state.trials.values()}
        wanted: list[dict[str, Any]] = [
            {"role": role, "number": 0, "split": split, "params": {}}
            for role in search.references
            for split in search.splits
        ]
        for study, splits in studies(self.sweep).items():
            for trials in self._suggested(study):
                first = {"role": "trial", "number": trials[0].number, "params": trials[0].params}
                wanted += [first | {"split": split} for split in splits]
        missing = [
            what | {"seed": seed}
            for what in wanted
            for seed in search.seeds
            if (what["role"], split_name(what["split"]), what["number"], seed) not in there
        ]
        for what in missing or self._new_suggestion():
            self._plan(**what)

    def _new_suggestion(self) -> list[dict[str, Any]]:
        by_study = studies(self.sweep)
        for study in sorted(by_study, key=lambda study: len(self._suggested(study))):
            params = self._propose(study)
            if params is not None:
                what = {"role": "trial", "number": len(self._suggested(study)), "params": params}
                places = [
                    {"split": split, "seed": seed} for split in by_study[study] for seed in self.sweep.search.seeds
                ]
                return [what | place for place in places]
        return []

    def _propose(self, study: str) -> Params | None:
        search = self.sweep.search
        suggested = self._suggested(study)
        if study in self._exhausted or len(suggested) >= suggestions_of(self.sweep, study):
            return None
        visible = max(0, len(suggested) - search.lag)
        history = [self._told(trials) for trials in suggested]
        if any(told.is_open for told in history[:visible]):
            return None  # a result that this suggestion must look at is not in yet
        history = history[:visible] + [Told(told.params, None) for told in history[visible:]]
        params = propose(study_settings(self.sweep, study), history, self._defaults, self._warm(study))
        if params is None:
            self._exhausted.add(study)
        return params

    def _warm(self, study: str) -> list[Told]:
        """What earlier sweeps tell a study, as the journal keeps it."""
        splits = split_names(studies(self.sweep)[study])
        found = [(row["params"], row["values"]) for row in self.state.warm if row["splits"] == splits]
        return [Told(params, value, others=tuple(others)) for params, (value, *others) in found]

    def _suggested(self, study: str) -> list[list[TrialState]]:
        """The suggestions of a study in order, each with its trials (one a split of the study and seed)."""
        splits = split_names(studies(self.sweep)[study])
        groups: dict[int, list[TrialState]] = {}
        for trial in self.state.trials.values():
            if trial.role == "trial" and trial.split in splits:
                groups.setdefault(trial.number, []).append(trial)
        return [groups[number] for number in sorted(groups)]

    def _told(self, trials: list[TrialState]) -> Told:
        """The mean over seeds and splits, once all are over, so that it does not depend on which was first."""
        params, search = trials[0].params, self.sweep.search
        runs = len(search.seeds) * (len(search.splits) if search.robust else 1)
        if len(trials) < runs or not all(trial.is_over for trial in trials):
            return Told(params, None)
        if any(trial.status == "failed" and trial.cause in OWN_FAULTS for trial in trials):
            return Told(params, None, worst=True)
        if any(trial.status == "failed" for trial in trials):
            return Told(params, None, failed=True)
        if any(trial.status == "stopped" for trial in trials):
            return Told(params, None, pruned=_step_means(trials, self.sweep.stopping.metric))
        means = [mean_objective(trials, objective) for objective in search.objectives]
        values = [mean for mean in means if mean is not None]
        if len(values) < len(means):
            return Told(params, None, failed=True)
        return Told(params, values[0], others=tuple(values[1:]))

    def _place(self, trial: Trial) -> None:
        """Writes the configuration that the trial's process reads, as resources and folders are now."""
        known = self.state.trials[trial.key]
        config = placed(self.sweep, known.config, begun=known.attempts > 0)
        if config != known.config:
            self._book("placed", trial=trial.key, config=config)
        folder = self.folder_of(trial.key)
        folder.write_config(config)
        folder.write_code({"code": run_code(RunConfig.from_dict(config)).modules})

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

    def steps_of(self, trial: TrialState) -> int:
        """Continual steps that it has."""
        return len(self._prefixes.of(trial))

    def folder_of(self, key: str) -> TrialFolder:
        return TrialFolder(self.sweep.folder / "trials" / key)

    def book_report(self, key: str, report: Mapping[str, Any]) -> None:
        """Books one report of :func:`trainables.trial.train_trial`."""
        with self._lock:
            if self._closed:
                return
            known = self.state.trials[key]
            if report["kind"] == "started":
                self._heard[key] = time.monotonic()
                tags = {"stage.0": report["stage.0"]}
                if report.get("reused_steps", 0) > known.step:  # else an earlier attempt of it has computed them
                    tags["reused_steps"] = report["reused_steps"]
                if report.get("pieces", 1) > 1 or "micro_batches" in known.tags:
                    tags["micro_batches"] = report.get("pieces", 1)
                origin = report.get("origin") or {}
                if origin:
                    tags["code"] = origin["fingerprint"]
                if origin.get("mixed"):
                    tags["mixed_code"] = ", ".join(origin["mixed"])
                place = {"host": report["host"], "pid": report["pid"], "notes": report["notes"], "origin": origin}
                self._book("started", trial=key, attempt=known.attempts + 1, tags=tags, **place)
            fresh = [point for point in report["points"] if (point[0], point[1]) not in known.points]
            more = {"notes": report["notes"]} if report["kind"] != "started" and report.get("notes") else {}
            stop = None if known.is_over else self._early.judge(known, fresh)
            if stop is not None:
                more["stop"] = dataclasses.asdict(stop)
            if fresh or more or report["step"] > known.step:
                place = {"step": report["step"], "epoch": report["epoch"]}
                self._book("reported", trial=key, **place, points=fresh, **more, **self._held(key))
            self._settle(known, **self._held(key))
            if report["kind"] == "final" and not known.is_over:
                seconds = _own_seconds(known)
                self._book("finished", trial=key, final=report["final"], seconds=seconds, **self._held(key))
                self._early.finish(known)
            if report["kind"] != "epoch":
                self._give_leases_back()

    def _settle(self, known: TrialState, **held: Any) -> None:
        """Ends a trial that early stopping has objected to, unless it is audited."""
        if known.stop is not None and not known.stop.audited and not known.is_over:
            self._book("stopped", trial=known.key, reason=known.stop.reason, **held)

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
            if ending.cause == OTHER_CODE:
                self.edited_code = ending.reason.removeprefix("OtherCodeError: ")
            retried = will_retry or is_retried(known, ending, self.sweep.launch.max_failures)
            told = {"cause": ending.cause, "reason": ending.reason, "traceback": ending.traceback}
            charged = ending.is_charged and not will_retry
            self._book("failed", trial=key, will_retry=retried, charged=charged, **told, **self._held(key))
            self._heard.pop(key, None)
            if retried and not will_retry:
                self._out.discard(key)
            self._give_leases_back()

    def _held(self, key: str) -> dict[str, float]:
        """For how long a trial has held its resources since it was last heard of, by a clock that nobody sets."""
        now = time.monotonic()
        before, self._heard[key] = self._heard.get(key, now), now
        return {"held_seconds": now - before}

    def drop(self, key: str) -> None:
        """Tune has ended a trial that is not over; whoever resumes the sweep goes on with it."""
        with self._lock:
            if not self.state.trials[key].is_over:
                self._dropped.add(key)
            self._give_leases_back()

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
            is_done = self._is_complete()
            bound = "" if is_done or self.stopping.is_set() else self._bound()  # a signal ends it whatever the bounds
            if bound == TARGET:  # it did what was asked, unless a trial was cut short
                is_done = all(trial.is_over for trial in self.state.trials.values() if trial.attempts)
            why = {"bound": bound or None} | ({"edited_code": self.edited_code} if self.edited_code else {})
            self._book("ended", status=over if is_done else "interrupted", **why)
            self._closed = True

    def book(self, kind: str, **fields: Any) -> None:
        """Books a record that is not about one trial."""
        with self._lock:
            if not self._closed:
                self._book(kind, **fields)

    def _book(self, kind: str, **fields: Any) -> None:
        self.state.apply(self._journal.append(kind, **fields))


def _own_seconds(trial: TrialState) -> float:
    """What was spent on it, without the steps that another run has computed."""
    reused = int(trial.tags.get("reused_steps", 0))
    return sum(value for (name, x), (value, _) in trial.points.items() if name == "time/step_seconds" and x >= reused)


def _step_means(trials: list[TrialState], metric: str) -> dict[int, float]:
    """Of a metric over all trials, after each continual step (1-based) that all of them finished."""
    courses = [{x + 1: value for (name, x), (value, _) in t.points.items() if name == metric} for t in trials]
    common = sorted(set.intersection(*map(set, courses)))
    return {step: sum(course[step] for course in courses) / len(courses) for step in common}


def _trial_of(known: TrialState) -> Trial:
    fields = ("key", "number", "role", "split", "seed", "params", "config", "tags")
    return Trial(**{name: getattr(known, name) for name in fields})
