"""Runs a sweep on Ray Tune. `run` and `resume` are this one path: read the journal, hand out what is unfinished."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bacs.atomic import remove_drafts, replacing
from bacs.terminal import Terminal
from results.errors import ResultsError, StorageRefusedError
from results.journal import Journal
from results.state import SweepState
from results.tracking import Tracker
from search_spaces.recorded import space_record
from sweeps.checks import check_tracking
from sweeps.cluster import keep_secrets
from sweeps.code import is_anything_left, sweep_code
from sweeps.edits import changes_of
from sweeps.guard import Guard
from sweeps.leases import Leases
from sweeps.ledger import Ledger
from sweeps.ray_session import end_own_ray, shut_down_ray, start_ray, watch_ray
from sweeps.screen import Doing, command, shown
from sweeps.settings import SweepConfig

JOURNAL = "journal.jsonl"
CONFIG = "sweep.json"
DRAIN_SECONDS = 60.0
"""How long the end of a sweep waits for the tracking server."""
RAY_SHUTDOWN_SECONDS = 60.0
VERSIONED = ("torch", "ray", "optuna", "mlflow", "numpy")


def execute(
    sweep: SweepConfig,
    console: Terminal,
    *,
    retry_failed: bool = False,
    allow_other_code: bool = False,
    warm: Sequence[dict[str, Any]] = (),
) -> tuple[SweepState, str]:
    """Runs whatever of the sweep is not over yet.

    Args:
        sweep: a checked one.
        console: for progress.
        retry_failed: also run again what has failed for good.
        allow_other_code: trials may go on from what other code has computed.
        warm: what `sweeps.warm_start` found for a sweep that is new.

    Returns:
        What it came to, and why the tracking server lacks something of it (empty: it has everything).

    Raises:
        ResultsError: another process runs this sweep, or its journal is damaged.
        RequestError: the cluster cannot be reached.
    """
    journal_path = sweep.folder / JOURNAL
    with Journal(journal_path) as journal, _leases(sweep) as leases:
        ledger = Ledger(sweep, journal, SweepState.load(journal_path), leases)
        tracker = Tracker(sweep.tracking_uri, sweep.launch.name, journal_path, artifact_root=sweep.folder / "artifacts")
        with Guard(partial(_last_words, ledger, tracker, console), journal.hurry, end_own_ray) as guard:
            ledger.stopping = guard.draining
            save_request(sweep)
            computes = is_anything_left(ledger.state, sweep, retry_failed=retry_failed)
            _open_books(ledger, journal.repaired_bytes, warm, allow_other_code=allow_other_code, computes=computes)
            if retry_failed:
                ledger.reopen_failed()
            if sweep.launch.time_budget_minutes is not None:
                ledger.deadline = time.monotonic() + 60 * sweep.launch.time_budget_minutes
            if sweep.launch.tracking_optional and (away := check_tracking(sweep.tracking_uri)):
                console.say(f"{away[0].problem}; going on without it: it gets everything later, or by `sync`", "yellow")
            tracker.start()
            untracked = ""
            try:
                if not ledger.exhausted():
                    doing = Doing()
                    with shown(ledger, doing, console):
                        _tune(ledger, guard, doing)
            finally:
                try:
                    ledger.close()
                finally:  # also where storage takes no last record
                    untracked = _drain(tracker, guard.seconds_left(DRAIN_SECONDS))
    return ledger.state, untracked


@contextlib.contextmanager
def _leases(sweep: SweepConfig) -> Iterator[Leases | None]:
    """On steps of the store that the trials share with other sweeps, if they share any."""
    store = sweep.stages
    if store is None:
        yield None
        return
    with contextlib.closing(Leases(store, str(sweep.folder))) as leases:
        yield leases


def _drain(tracker: Tracker, seconds: float) -> str:
    """Why the tracking server lacks something; empty: it has everything."""
    if not tracker.close(seconds):
        return f"{tracker.uri} is behind: {tracker.last_error}"
    if refused := tracker.refused:
        return f"{tracker.uri} refused {len(refused)} entries, such as {refused[0]}"
    return ""


def _last_words(ledger: Ledger, tracker: Tracker, console: Terminal, reason: str, seconds: float) -> None:
    """What is still done where the process has to end at once. Its workers die with it, at their last checkpoint."""
    with contextlib.suppress(StorageRefusedError):
        ledger.close()
    with contextlib.suppress(OSError):  # the terminal may be gone
        console.show_cursor()
        console.say(f"{reason}; the sweep is interrupted, and nothing older than an epoch is lost; go on:", "red")
        console.say(f"    {command('resume', ledger.sweep.folder)}")
    tracker.close(seconds - 1.0)


def _open_books(
    ledger: Ledger,
    repaired_bytes: int,
    warm: Sequence[dict[str, Any]] = (),
    *,
    allow_other_code: bool = False,
    computes: bool = True,
) -> None:
    """Args: computes: whether this driver computes anything, so that its code is where numbers come from."""
    driver = {"host": socket.gethostname(), "pid": os.getpid()}
    if ledger.state.created_at is None:
        _refuse_lost_journal(ledger.sweep.folder)
        versions = {name: importlib.metadata.version(name) for name in VERSIONED}
        versions["python"] = platform.python_version()
        name, uid = ledger.sweep.launch.name, uuid.uuid4().hex
        what = {"config": ledger.sweep.resolved, "space": space_record(ledger.sweep.space), "warm": list(warm)}
        code = sweep_code(ledger.sweep)
        ledger.book("created", sweep=name, uid=uid, versions=versions, driver=driver, code=code, **what)
        return
    more: dict[str, Any] = {"allow_other_code": True} if allow_other_code else {}
    if computes:
        more["code"] = sweep_code(ledger.sweep)
    ledger.book("resumed", driver=driver, repaired_bytes=repaired_bytes, **more)
    changes = changes_of(ledger.state, ledger.sweep)
    if changes:
        ledger.book("edited", changes=changes)


def _refuse_lost_journal(folder: Path) -> None:
    """A new journal gives trials new keys, so that none would find its checkpoints."""
    trials = folder / "trials"
    if trials.is_dir() and any(trials.iterdir()):
        raise ResultsError(
            f"{folder / JOURNAL} is empty or missing, but there are trials in {trials}",
            "restore the journal from a copy, or give the new sweep another --name",
        )


def _tune(ledger: Ledger, guard: Guard, doing: Doing) -> None:
    sweep = ledger.sweep
    start_ray(sweep, doing)  # hears SIGTERM itself and then raises SystemExit; the guard hears it too
    from ray import tune
    from ray.tune.stopper import CombinedStopper

    from search_spaces.searcher import SweepSearcher
    from sweeps.callback import Draining, JournalCallback, Stopping, let_trials_die
    from trainables.trial import train_trial

    let_trials_die()
    keep_secrets()
    guard.listen()
    guard.is_lost = watch_ray()
    try:
        resources: dict[str, float] = {"cpu": sweep.resources.cpus_per_trial}
        if sweep.resources.gpus_per_trial:
            resources["gpu"] = sweep.resources.gpus_per_trial
        tuner = tune.Tuner(
            tune.with_resources(train_trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=SweepSearcher(ledger),
                num_samples=-1,
                max_concurrent_trials=sweep.resources.max_concurrent,
                reuse_actors=False,
            ),
            run_config=tune.RunConfig(
                name=f"driver-{uuid.uuid4().hex[:8]}",
                storage_path=str(sweep.folder / "tune"),
                failure_config=tune.FailureConfig(max_failures=0),  # what is tried again the ledger hands out anew
                stop=CombinedStopper(Stopping(ledger), Draining(guard.draining)),
                callbacks=[JournalCallback(ledger)],
                verbose=0,
            ),
        )
        guard.has_work = True
        doing("waiting for trials to start: their processes load PyTorch and open the dataset")
        tuner.fit()
    except tune.TuneError as error:
        if isinstance(error.__context__, ResultsError):  # of our books; Tune puts its traceback into a text
            raise error.__context__ from None
        raise
    finally:
        doing("ending Ray")
        guard.is_lost = _overdue(RAY_SHUTDOWN_SECONDS, "Ray does not shut down")
        shut_down_ray(guard.listen)
        guard.is_lost = lambda: None


def _overdue(seconds: float, reason: str) -> Callable[[], str | None]:
    deadline = time.monotonic() + seconds
    return lambda: reason if time.monotonic() > deadline else None


def save_request(sweep: SweepConfig) -> None:
    """Keeps the checked configuration beside the journal, for people; `resume` reads the journal's copy."""
    with contextlib.suppress(OSError):  # no reason to stop; the journal waits for storage
        remove_drafts(sweep.folder, CONFIG)
        with replacing(sweep.folder / CONFIG) as draft:
            draft.write_text(json.dumps(sweep.resolved, indent=2), encoding="utf-8")
