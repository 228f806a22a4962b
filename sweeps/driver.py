"""Runs a sweep on Ray Tune. `run` and `resume` are this one path: read the journal, hand out what is unfinished."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from results.journal import Journal
from results.state import SweepState
from results.tables import render_status
from results.tracking import Tracker
from sweeps.cluster import address_of, keep_secrets, private_token, refusal, stay_on_loopback
from sweeps.ledger import Ledger, trials_at_once
from sweeps.settings import SweepConfig

JOURNAL = "journal.jsonl"
CONFIG = "sweep.json"
DRAIN_SECONDS = 60.0
"""How long the end of a sweep waits for the tracking server."""
VERSIONED = ("torch", "ray", "optuna", "mlflow", "numpy")

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's snapshots are never read: the journal is
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def execute(sweep: SweepConfig, console: Console) -> SweepState:
    """Runs whatever of the sweep is not over yet and returns what it came to."""
    journal_path = sweep.folder / JOURNAL
    with Journal(journal_path) as journal:
        state = SweepState.load(journal_path)
        ledger = Ledger(sweep, journal, state)
        _open_books(ledger)
        if sweep.launch.time_budget_minutes is not None:
            ledger.deadline = time.time() + 60 * sweep.launch.time_budget_minutes
        tracker = Tracker(sweep.tracking_uri, sweep.launch.name, journal_path, artifact_root=sweep.folder / "artifacts")
        tracker.start()
        try:
            if not ledger.exhausted():
                with _shown(ledger, console):
                    _tune(ledger)
        finally:
            over = all(trial.is_over for trial in state.trials.values()) and ledger.exhausted()
            failed = over and any(trial.status == "failed" for trial in state.trials.values())
            ledger.book("ended", status="failed" if failed else "finished" if over else "interrupted")
            if not tracker.close(DRAIN_SECONDS):
                console.print(
                    f"the tracking server {sweep.tracking_uri} is behind ({tracker.last_error}); "
                    f"nothing is lost: `python -m sweeps sync {sweep.launch.name}` brings it up to date",
                    style="yellow",
                    markup=False,
                )
    return state


def _open_books(ledger: Ledger) -> None:
    driver = {"host": socket.gethostname(), "pid": os.getpid()}
    if ledger.state.created_at is None:
        versions = {name: importlib.metadata.version(name) for name in VERSIONED}
        versions["python"] = platform.python_version()
        name, uid = ledger.sweep.launch.name, uuid.uuid4().hex
        ledger.book("created", sweep=name, uid=uid, config=ledger.sweep.resolved, versions=versions, driver=driver)
    else:
        ledger.book("resumed", driver=driver)


@contextmanager
def _shown(ledger: Ledger, console: Console) -> Iterator[None]:
    """Live progress in a terminal; elsewhere a line for every trial that ends."""
    if console.is_terminal:
        with Live(get_renderable=lambda: _status(ledger), console=console, refresh_per_second=2):
            yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_print_endings, args=(ledger, console, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _status(ledger: Ledger) -> Any:
    with ledger.reading() as state:
        return render_status(state, ledger.total, trials_at_once(ledger.sweep))


def _print_endings(ledger: Ledger, console: Console, done: threading.Event) -> None:
    with ledger.reading() as state:
        told = {key for key, trial in state.trials.items() if trial.is_over}
    while True:
        last_look = done.wait(1.0)
        with ledger.reading() as state:
            ended = [trial for key, trial in state.trials.items() if trial.is_over and key not in told]
            total = ledger.total
        for trial in ended:
            told.add(trial.key)
            value = trial.final.get("final/val_miou")
            text = f"val mIoU {value:.4f}" if value is not None else trial.reason
            name = f"{trial.role} {trial.number}" if trial.role == "trial" else trial.role
            line = f"[{len(told)}/{total}] {trial.status}: {name}, split {trial.split}, seed {trial.seed}: {text}"
            console.print(line, markup=False, highlight=False)
        if last_look:
            return


def _tune(ledger: Ledger) -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    stay_on_loopback(ledger.sweep.launch.address)
    import ray
    from ray import tune

    from search_spaces.searcher import SweepSearcher
    from sweeps.callback import JournalCallback
    from trainables.trial import train_trial

    sweep = ledger.sweep
    keep_secrets()
    _start_ray(sweep)
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
                failure_config=tune.FailureConfig(max_failures=sweep.launch.max_failures),
                callbacks=[JournalCallback(ledger)],
                verbose=0,
            ),
        )
        with _terminated_like_interrupted():
            tuner.fit()
    finally:
        ray.shutdown()


def _start_ray(sweep: SweepConfig) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    address = address_of(sweep.launch.address)
    if address is None:
        with private_token():
            ray.init(address="local", include_dashboard=False, num_cpus=len(os.sched_getaffinity(0)), **options)
        return
    try:
        ray.init(address=address, **options)
    except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
        raise refusal(address, error) from None


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM (SLURM, Kubernetes) stops the sweep as Ctrl-C does; Tune itself knows only SIGINT."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler: Callable[[int, Any], None] = lambda *_: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def save_request(sweep: SweepConfig) -> None:
    """Keeps the checked configuration beside the journal, for people; `resume` reads the journal's copy."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    path: Path = sweep.folder / CONFIG
    path.write_text(json.dumps(sweep.resolved, indent=2), encoding="utf-8")
