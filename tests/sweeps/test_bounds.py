"""What ends a sweep early, without Ray: hours that trials held, a target that is reached, time."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

import sweeps.ledger
from bacs.errors import RequestError
from results.rows import status_json
from results.state import SweepState
from results.tables import render_status
from sweeps.bounds import BUDGET, TARGET, TIME, told
from sweeps.edits import edited
from sweeps.ledger import Ledger
from sweeps.trials import Trial
from tests.sweeps.test_edits import open_books, requested

ALONE = "+training.stages=null"
"""No trial waits for a step that another one computes."""

PLACE = {"step": 0, "epoch": 0, "points": [], "host": "h", "pid": 1, "stage.0": "s", "notes": []}


class Watch:
    """In the place of the machine's clocks; only the one that nobody sets counts."""

    def __init__(self) -> None:
        self.now = 1e6

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.7e9 - self.now


@pytest.fixture
def watch(monkeypatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(sweeps.ledger.time, "monotonic", watch.monotonic)
    monkeypatch.setattr(sweeps.ledger.time, "time", watch.time)
    return watch


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def start(ledger: Ledger) -> Trial:
    trial = ledger.next_trial()
    assert trial is not None
    ledger.book_report(trial.key, PLACE | {"kind": "started"})
    return trial


def finish(ledger: Ledger, trial: Trial, score: float = 0.5) -> None:
    point = ["time/step_seconds", 1, 1.0, 1.7e9]
    final = {"final/val_miou": score, "final/miou": score}
    ledger.book_report(trial.key, PLACE | {"kind": "step", "step": 1, "points": [point]})
    ledger.book_report(trial.key, PLACE | {"kind": "final", "step": 1, "final": final})


def resumed(storage: Path, *overrides: str) -> tuple:
    return open_books(edited(SweepState.load(storage / "books" / "journal.jsonl"), storage, overrides, {}))


def shown(state: SweepState) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_status(state))
    return capture.get()


def test_hours_are_counted_over_drivers_lost_work_included(storage, watch):
    """Two cores a trial: half an hour of one is a core hour."""
    journal, ledger = open_books(requested(storage, "sweep.budget_hours=3", "resources.cpus_per_trial=2", ALONE))
    with journal:
        first, second = start(ledger), start(ledger)
        watch.now += 1800
        finish(ledger, first)
        ledger.book_report(second.key, PLACE | {"kind": "epoch", "points": [["val/miou", 0, 0.1, 1.7e9]]})
        assert ledger.state.cpu_seconds == 2 * 2 * 1800
        watch.now += 7200  # nothing more is heard: the driver was killed
    journal, ledger = resumed(storage)
    with journal:
        assert ledger.state.cpu_seconds == 2 * 2 * 1800
        again, third = start(ledger), start(ledger)
        assert again.key == second.key
        watch.now += 900
        ledger.book_failure(again.key, ray_text="it died")
        assert ledger.state.cpu_seconds / 3600 == 2.5
        assert not ledger.exhausted()
        watch.now += 900
        finish(ledger, third)
        assert ledger.next_trial() is None, "3.5 of 3 hours are spent"
        assert ledger.exhausted()
        ledger.close()
    state = ledger.state
    assert (state.end_status, state.end_bound) == ("interrupted", BUDGET)
    assert "ended: interrupted by sweep.budget_hours" in shown(state)
    assert status_json(state)["end_bound"] == BUDGET
    assert status_json(state)["cpu_hours"] == 3.5
    assert told(ledger.sweep, state, BUDGET) == "sweep.budget_hours=3 is spent: 3.5 CPU core hours"

    journal, ledger = resumed(storage, "sweep.budget_hours=9", "resources.cpus_per_trial=1")
    with journal:
        assert (ledger.state.ended, ledger.state.end_bound) == (False, "")
        trial = start(ledger)
        watch.now += 3600
        finish(ledger, trial)
        assert ledger.state.cpu_seconds / 3600 == 4.5, "what was held then is not counted anew"
        while not ledger.exhausted():
            finish(ledger, start(ledger))
        ledger.close()
    assert (ledger.state.end_status, ledger.state.end_bound) == ("finished", "")


def test_a_target_ends_the_sweep_once_every_split_has_it_with_all_seeds(storage):
    asked = ["sweep.target_metric=0.8", "search.splits=[5-5,2-2]", "search.seeds=[1,2]", "search.references=[]"]
    journal, ledger = open_books(requested(storage, *asked))
    reached: dict[str, set[int]] = {"5-5": set(), "2-2": set()}
    with journal:
        while not ledger.exhausted():
            assert not all(len(seeds) == 2 for seeds in reached.values())
            trial, score = start(ledger), 0.1
            if trial.number == 1:
                reached[trial.split].add(trial.seed)
                score = 0.9
            finish(ledger, trial, score)
        running = [len(seeds) for seeds in reached.values()]
        assert running == [2, 2]
        ledger.close()
    assert (ledger.state.end_status, ledger.state.end_bound) == ("finished", TARGET), "it did what was asked"
    assert told(ledger.sweep, ledger.state, TARGET) == "sweep.target_metric=0.8 is reached in every split"

    journal, ledger = resumed(storage, "sweep.target_metric=0.95")
    with journal:
        assert ledger.next_trial() is not None


def test_a_target_with_a_trial_under_way_is_no_whole_sweep(storage):
    journal, ledger = open_books(requested(storage, "sweep.target_metric=0.3", "search.references=[]", ALONE))
    with journal:
        first, second = start(ledger), start(ledger)
        finish(ledger, first)
        assert ledger.exhausted()
        ledger.drop(second.key)
        ledger.close()
    assert (ledger.state.end_status, ledger.state.end_bound) == ("interrupted", TARGET)


def test_time_and_signals(storage):
    journal, ledger = open_books(requested(storage, "sweep.time_budget_minutes=5"))
    with journal:
        ledger.deadline = 0.0
        ledger.stopping.set()
        ledger.close()
    assert (ledger.state.end_status, ledger.state.end_bound) == ("interrupted", "")
    journal, ledger = resumed(storage)
    with journal:
        ledger.deadline = 0.0
        ledger.close()
    assert ledger.state.end_bound == TIME
    assert told(ledger.sweep, ledger.state, TIME) == "sweep.time_budget_minutes=5 is over"


def test_impossible_bounds_are_refused(storage):
    for override in ("sweep.budget_hours=0", "sweep.target_metric=55"):
        with pytest.raises(RequestError, match=override.split("=")[0]):
            requested(storage, override)
