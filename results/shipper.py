"""Brings MLflow to what a journal says: one parent run a sweep, one child a trial, no point twice.

The journal is folded into a state, and MLflow is brought to what that state says. Nothing depends on what an earlier
tracker did: every call is either a search by tag, a repetition that MLflow ignores (points keep their time stamps),
or a status. Any number of trackers may therefore replay a journal, one after the other; `results.tracking` lets only
one pass go on at a time. Within a process what MLflow acknowledged is not sent again.

What MLflow gets:

- the run of a trial starts with its first attempt. Statuses: RUNNING; SCHEDULED between attempts; FINISHED,
  also for pruned trials, which carry the tag ``stopped``; FAILED, with the tag ``failed``; KILLED when the
  sweep ended without finishing the trial, or its driver was killed and nobody runs the sweep.
- the first write of a (metric, x) wins. NaN and infinite points are left out.
- a run that was deleted in MLflow is written anew.
- of runs that carry the same tags one is kept. MLflow cannot make a run at most once: a request to create one that
  was not answered in time may still be carried out later, beside its repetition.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from results.journal import is_being_written
from results.mlflow_store import RemoteRun, RunStore, is_refusal
from results.projection import (
    Point,
    ProjectedState,
    final_points,
    has_run,
    milliseconds,
    run_name,
    sweep_status,
    sweep_tags,
    trial_params,
    trial_points,
    trial_status,
    trial_tags,
)
from results.state import SweepState, TrialState

_POINTS_A_CALL = 1000
_CONFIG_ATTEMPTS = 5
_STALE_TAGS = ("stopped", "failed", "cause")
_STALE_SWEEP_TAGS = ("bound",)
_SWEEP = ""
"""Stands for the sweep's own run where trials stand under their keys."""


@dataclass(kw_only=True, slots=True)
class _Shipped:
    """What of one run MLflow has acknowledged to this process."""

    run: RemoteRun
    params: bool = False
    points: int = 0
    finals: bool = False
    config: bool = False
    config_attempts: int = 0


class Shipper:
    """The one-shot half of a tracker: each `ship` is one pass. Not safe between threads or processes."""

    def __init__(self, uri: str, experiment: str, journal_path: Path, artifact_root: Path) -> None:
        self.uri = uri
        self.experiment = experiment
        self.journal_path = journal_path
        self.artifact_root = artifact_root
        self.refused: dict[str, list[str]] = {}
        """By run: what MLflow refuses for good, though it takes the rest of the run."""
        self._state = ProjectedState()
        self._is_abandoned = False
        self._dirty: dict[str, None] = {}  # an ordered set
        self._runs: dict[str, RemoteRun] = {}
        self._must_look = True
        self._shipped: dict[str, _Shipped] = {}
        self._store: RunStore | None = None

    @property
    def parent(self) -> RemoteRun | None:
        """The sweep's own run, once it is known."""
        return self._runs.get(_SWEEP)

    @property
    def is_behind(self) -> bool:
        """Whether something that was read in the journal is not in MLflow."""
        return bool(self._state.uid) and (self._must_look or bool(self._dirty))

    def has_news(self) -> bool:
        """Whether there is anything to ship, as far as can be told without asking MLflow."""
        try:
            size = self.journal_path.stat().st_size
        except FileNotFoundError:
            return False
        return self.is_behind or size != self._state.offset

    def look_again(self) -> None:
        """Let the next pass compare everything with what MLflow holds, and try again what was refused."""
        self._must_look = True
        for name in self.refused:
            self._shipped.pop(name, None)
        self.refused.clear()

    def ship(self, seconds: float) -> int:
        """Ship what is new in the journal, for about so long. Returns: how many points were sent.

        Raises:
            Exception: whatever journal, MLflow or network raised; the next call goes on from there.
        """
        deadline = time.monotonic() + seconds
        self._fold()
        if not self.is_behind:
            return 0
        if self._store is None or self._must_look:  # also the experiment may have gone
            self._store = RunStore(self.uri, self.experiment, self.artifact_root)
        if self._must_look:
            self._look(self._store)
        parent = self._ensure_run(self._store, _SWEEP)
        return self._ship_dirty(self._store, parent, deadline)

    def _fold(self) -> None:
        for record in self._state.refresh(self.journal_path):
            if "trial" in record:
                self._dirty[record["trial"]] = None
            else:  # the sweep began, ended or goes on: all statuses may have changed
                self._soil_everything()
        self._is_abandoned = not self._state.ended and not is_being_written(self.journal_path)

    def _soil_everything(self) -> None:
        self._dirty |= dict.fromkeys(self._state.trials)
        self._dirty.pop(_SWEEP, None)
        self._dirty[_SWEEP] = None  # last, so that a sweep does not look finished before its trials do

    def _look(self, store: RunStore) -> None:
        """Learn what MLflow holds of this sweep; of several runs for one thing, keep one."""
        found: dict[str, list[RemoteRun]] = {}
        for run in store.find_runs({"sweep_uid": self._state.uid}):
            name = _SWEEP if run.tags.get("role") == "sweep" else run.tags.get("trial")
            if name is not None:
                found.setdefault(name, []).append(run)
        self._runs = {}
        for name, runs in found.items():
            kept, *repetitions = sorted(runs, key=lambda run: (-run.metrics, run.run_id))
            self._runs[name] = kept
            for run in repetitions:
                store.delete_run(run)
        for name, shipped in list(self._shipped.items()):
            known = self._runs.get(name)
            if known is None or known.run_id != shipped.run.run_id:
                del self._shipped[name]
            else:
                shipped.run = known
        self._must_look = False
        self._soil_everything()

    def _ship_dirty(self, store: RunStore, parent: RemoteRun, deadline: float) -> int:
        """One run that MLflow refuses, or at which it stumbles, must not starve the others."""
        sent = 0
        refusal: Exception | None = None
        for name in list(self._dirty):
            try:
                if name == _SWEEP:
                    sent += self._ship_sweep(store)
                elif has_run(self._state.trials[name]):
                    sent += self._ship_trial(store, self._state.trials[name], parent)
                del self._dirty[name]
            except Exception as error:
                del self._dirty[name]
                self._dirty[name] = None  # to the end: the next pass begins with another
                if is_refusal(error):
                    self._must_look = True  # perhaps deleted: then it is made anew
                elif not isinstance(error, _Incomplete):
                    raise
                refusal = refusal or error
            if time.monotonic() > deadline:
                break
        if refusal is not None:
            raise refusal
        return sent

    def _ensure_run(self, store: RunStore, name: str) -> RemoteRun:
        """The run of a trial or of the sweep, made where there is none."""
        if name not in self._runs:
            try:
                self._runs[name] = self._create_run(store, name)
            except Exception:
                self._must_look = True  # without an answer nobody knows whether it was made
                raise
        return self._runs[name]

    def _create_run(self, store: RunStore, name: str) -> RemoteRun:
        state = self._state
        if name == _SWEEP:
            self._soil_everything()  # children of an earlier parent move to this one
            return store.create_run(sweep_tags(state), state.sweep, milliseconds(state.created_at or 0.0))
        trial = state.trials[name]
        tags = trial_tags(state, trial, self._runs[_SWEEP].run_id)
        return store.create_run(tags, run_name(trial), milliseconds(state.run_starts[name]))

    def _ship_sweep(self, store: RunStore) -> int:
        shipped = self._shipped.setdefault(_SWEEP, _Shipped(run=self._runs[_SWEEP]))
        points = self._state.best_points[shipped.points :]
        self._note(_SWEEP, store.log_points(shipped.run, points))
        shipped.points += len(points)
        self._note(_SWEEP, store.update_tags(shipped.run, sweep_tags(self._state), _STALE_SWEEP_TAGS))
        store.set_status(shipped.run, *sweep_status(self._state, abandoned=self._is_abandoned))
        return len(points)

    def _ship_trial(self, store: RunStore, trial: TrialState, parent: RemoteRun) -> int:
        run = self._ensure_run(store, trial.key)
        shipped = self._shipped.setdefault(trial.key, _Shipped(run=run))
        if not shipped.params:
            self._note(trial.key, store.log_params(run, trial_params(trial)))
            shipped.params = True
        sent = 0
        for points in _unsent(self._state, trial, shipped):
            self._note(trial.key, store.log_points(run, points))
            sent += len(points)
        tags = trial_tags(self._state, trial, parent.run_id)
        self._note(trial.key, store.update_tags(run, tags, _STALE_TAGS))
        store.set_status(run, *trial_status(self._state, trial, abandoned=self._is_abandoned))
        self._ship_config(store, trial, shipped)
        return sent

    def _ship_config(self, store: RunStore, trial: TrialState, shipped: _Shipped) -> None:
        """Last, and given up after a few attempts: artifact stores fail in ways that must not stop points."""
        if shipped.config:
            return
        try:
            store.log_config(shipped.run, trial.config)
        except Exception as error:
            store.check_writable(shipped.run)  # raises when the whole server is away, which is no reason to give up
            shipped.config_attempts += 1
            if shipped.config_attempts < _CONFIG_ATTEMPTS:
                raise _Incomplete(f"config.yaml of trial {trial.key}: {error}") from error
            self._note(trial.key, [f"config.yaml: {error}"])
        shipped.config = True

    def _note(self, name: str, refused: list[str]) -> None:
        for text in refused:
            known = self.refused.setdefault(name, [])
            if text not in known:
                known.append(text)


def _unsent(state: SweepState, trial: TrialState, shipped: _Shipped) -> Iterator[list[Point]]:
    """Batches of points; asking for the next one says that MLflow has the last."""
    while shipped.points < len(trial.points):
        stop = min(shipped.points + _POINTS_A_CALL, len(trial.points))
        yield list(trial_points(trial, shipped.points, stop))
        shipped.points = stop
    if trial.status == "finished" and not shipped.finals:
        yield list(final_points(state, trial))
        shipped.finals = True


class _Incomplete(Exception):
    """Everything but an artifact is in MLflow; another pass tries again."""
