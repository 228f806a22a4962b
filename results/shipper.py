"""Brings MLflow to what a journal says: one parent run a sweep, one child a trial, no point twice.

The journal is folded into a `SweepState`, and MLflow is brought to what that state says. Nothing depends on
what an earlier tracker did: every call is either a search by tag, a repetition that MLflow ignores (points
keep their time stamps), or a status. Any number of trackers may therefore replay a journal, one after the
other; two at the same time could both create a run.

What MLflow gets:

- the run of a trial starts with its first attempt. Statuses: RUNNING; SCHEDULED between attempts; FINISHED,
  also for pruned trials, which carry the tag ``stopped``; FAILED, with the tag ``failed``; KILLED when the
  sweep ended without finishing the trial.
- the first write of a (metric, x) wins. NaN and infinite points are left out.
- a run that was deleted in MLflow is written anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from results.mlflow_store import RemoteRun, RunStore, is_refusal
from results.projection import (
    best_points,
    final_points,
    has_run,
    milliseconds,
    run_name,
    sweep_identity,
    sweep_status,
    trial_identity,
    trial_params,
    trial_points,
    trial_status,
    trial_tags,
)
from results.state import SweepState, TrialState

_CONFIG_ATTEMPTS = 3
_STALE_TAGS = ("stopped", "failed", "cause")


@dataclass(kw_only=True, slots=True)
class _Shipped:
    """What of one trial is in MLflow."""

    run: RemoteRun
    points: int = 0
    config_attempts: int = 0
    """`_CONFIG_ATTEMPTS` when the configuration is there, or was given up."""


class Shipper:
    """The one-shot half of a tracker: each `ship` is one pass. Not safe between threads."""

    def __init__(self, uri: str, experiment: str, journal_path: Path, artifact_root: Path) -> None:
        self.uri = uri
        self.experiment = experiment
        self.journal_path = journal_path
        self.artifact_root = artifact_root
        self.parent: RemoteRun | None = None
        self._state = SweepState()
        self._parent_is_dirty = False
        self._dirty: dict[str, None] = {}
        self._shipped: dict[str, _Shipped] = {}
        self._store: RunStore | None = None

    def ship(self) -> int:
        """Ship everything new in the journal. Returns: how many points were sent.

        Raises:
            Exception: whatever journal, MLflow or network raised; the next call goes on from there.
        """
        self._fold()
        if not (self._parent_is_dirty or self._dirty) or not self._state.uid:
            return 0
        if self._store is None:
            self._store = RunStore(self.uri, self.experiment, self.artifact_root)
        parent = self._ensure_parent(self._store)
        sent, refused = self._ship_trials(self._store, parent)
        self._ship_parent(self._store, parent)
        if refused is not None:
            raise refused
        return sent

    def _fold(self) -> None:
        if not self.journal_path.exists():
            return
        for record in self._state.refresh(self.journal_path):
            if "trial" in record:
                self._dirty[record["trial"]] = None
            else:  # the sweep began, ended or goes on: all statuses may have changed
                self._parent_is_dirty = True
                self._dirty |= dict.fromkeys(self._state.trials)

    def _ship_trials(self, store: RunStore, parent: RemoteRun) -> tuple[int, Exception | None]:
        """Returns: the points sent, and the first refusal of a trial, which must not starve the rest."""
        sent = 0
        refused: Exception | None = None
        for key in list(self._dirty):
            try:
                sent += self._ship_trial(store, self._state.trials[key], parent)
                del self._dirty[key]
            except Exception as error:
                if not isinstance(error, _Incomplete) and not is_refusal(error):
                    raise
                if is_refusal(error):
                    self._shipped.pop(key, None)  # perhaps deleted: look for it again, send all of it
                refused = refused or error
        return sent, refused

    def _ensure_parent(self, store: RunStore) -> RemoteRun:
        if self.parent is None:
            state = self._state
            identity = sweep_identity(state)
            start = milliseconds(state.created_at or 0.0)
            tags = identity | {"sweep": state.sweep}
            self.parent = store.get_or_create_run(identity, tags, state.sweep, start)
        return self.parent

    def _ship_parent(self, store: RunStore, parent: RemoteRun) -> None:
        if self._parent_is_dirty:
            try:
                store.log_points(parent.run_id, best_points(self._state))
                store.set_status(parent, *sweep_status(self._state))
            except Exception:
                self.parent = None  # perhaps deleted: look for it again
                raise
            self._parent_is_dirty = False

    def _ship_trial(self, store: RunStore, trial: TrialState, parent: RemoteRun) -> int:
        if not has_run(trial):
            return 0
        tags = trial_tags(self._state, trial, parent.run_id)
        shipped = self._shipped.get(trial.key)
        if shipped is None:
            start = milliseconds(trial.started_at or trial.suggested_at)
            identity = trial_identity(self._state, trial)
            run = store.get_or_create_run(identity, tags, run_name(trial), start)
            store.log_params(run.run_id, trial_params(trial))
            shipped = self._shipped[trial.key] = _Shipped(run=run)
        known = len(trial.points)
        sent = store.log_points(shipped.run.run_id, trial_points(trial, shipped.points))
        shipped.points = known
        sent += store.log_points(shipped.run.run_id, final_points(trial))
        store.update_tags(shipped.run, tags, _STALE_TAGS)
        store.set_status(shipped.run, *trial_status(self._state, trial))
        self._ship_config(store, trial, shipped)
        return sent

    def _ship_config(self, store: RunStore, trial: TrialState, shipped: _Shipped) -> None:
        """Last, and given up after a few attempts: artifact stores fail in ways that must not stop points."""
        if shipped.config_attempts >= _CONFIG_ATTEMPTS:
            return
        shipped.config_attempts += 1
        try:
            store.log_config(shipped.run.run_id, trial.config)
        except Exception as error:
            if shipped.config_attempts < _CONFIG_ATTEMPTS:
                raise _Incomplete(f"config.yaml of trial {trial.key}: {error}") from error
        else:
            shipped.config_attempts = _CONFIG_ATTEMPTS


class _Incomplete(Exception):
    """Everything but an artifact is in MLflow; another pass tries again."""
