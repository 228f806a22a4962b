"""The books of a sweep whose driver dies between any two writes, on a clock that jumps, on a journal that is lost."""

from __future__ import annotations

import shutil
from itertools import cycle
from pathlib import Path

import pytest

import sweeps.ledger
from results.errors import ResultsError
from results.journal import Journal
from results.projection import milliseconds, sweep_status, trial_status
from results.state import SweepState
from sweeps.checks import check_request
from sweeps.driver import JOURNAL, _open_books
from sweeps.ledger import Ledger
from sweeps.settings import SweepConfig, compose_preset
from sweeps.trials import Trial
from tests.sweeps.conftest import TINY_SWEEP

STEPS = 2
Checkpoints = dict[str, list[list]]


@pytest.fixture
def sweep(tmp_path: Path) -> SweepConfig:
    overrides = [*TINY_SWEEP, "search.splits=[5-5]", "search.trials=3", "search.seeds=[1,2]", "search.lag=1"]
    overrides.append("search.startup_trials=1")  # so that suggestions depend on results
    return check_request(compose_preset("digits", overrides, {"storage": str(tmp_path / "runs"), "name": "faults"}))


class Driver:
    """A driver without Ray. Trials' scores are a function of their configuration; checkpoints outlive a driver."""

    def __init__(self, sweep: SweepConfig, path: Path, checkpoints: Checkpoints, clock=lambda: 1.7e9) -> None:
        self.journal = Journal(path, clock=clock)
        self.ledger = Ledger(sweep, self.journal, SweepState.load(path))
        self.checkpoints = checkpoints
        if self.ledger.state.created_at is None:
            self.ledger.book("created", sweep="faults", uid="u", config=sweep.resolved)
        else:
            self.ledger.book("resumed", driver={}, repaired_bytes=self.journal.repaired_bytes)

    def play(self) -> None:
        with self.journal:
            while not self.ledger.exhausted():
                trial = self.ledger.next_trial()
                assert trial is not None
                self.attempt(trial)
            status = "finished" if all(t.is_over for t in self.ledger.state.trials.values()) else "interrupted"
            self.ledger.book("ended", status=status)

    def attempt(self, trial: Trial) -> None:
        """From wherever its checkpoints stand, with their history told again."""
        kept = self.checkpoints.setdefault(trial.key, [])
        place = {"host": "h", "pid": 1, "stage.0": "s", "notes": []}
        done = len(kept)
        self.report(trial, "started", done, kept, **place)
        for step in range(done, STEPS):
            kept.append(["miou/all", step, score(trial) + step, 1.6e9 + step])
            self.report(trial, "step", step + 1, kept[-1:])
        self.report(trial, "final", STEPS, [], final={"final/val_miou": score(trial)})

    def report(self, trial: Trial, kind: str, step: int, points: list[list], **more) -> None:
        self.ledger.book_report(trial.key, {"kind": kind, "step": step, "epoch": step, "points": points, **more})


def score(trial: Trial) -> float:
    return 1 / (1 + abs(trial.params.get("loss.prototype_margin", 9.0) - trial.seed))


def outcome(path: Path) -> dict[str, tuple]:
    return {
        key: (t.role, t.split, t.number, t.seed, t.params, t.status, t.final, t.points)
        for key, t in SweepState.load(path).trials.items()
    }


@pytest.mark.slow
def test_a_driver_killed_before_or_in_any_write_leads_to_the_same_sweep(sweep, tmp_path):
    whole, checkpoints = tmp_path / "whole.jsonl", {}
    Driver(sweep, whole, checkpoints).play()
    wanted = outcome(whole)
    assert len(wanted) == 2 * 2 + 3 * 2
    lines = whole.read_bytes().splitlines(keepends=True)
    for cut in range(len(lines)):
        path = tmp_path / "cut.jsonl"
        torn = (7 * cut) % len(lines[cut])  # how much of the next line was written, from nothing to all but its end
        path.write_bytes(b"".join(lines[:cut]) + lines[cut][:torn])
        shutil.rmtree(sweep.folder, ignore_errors=True)
        # The trials themselves may be ahead of the journal by a report, or by the whole of their work.
        reached = {key: list(points) for key, points in checkpoints.items()} if cut % 2 else {}
        Driver(sweep, path, reached).play()
        assert outcome(path) == wanted, f"cut after record {cut}"
        records = path.read_bytes()
        assert records.startswith(b"".join(lines[:cut]))


def test_a_clock_that_jumps_makes_nothing_negative_and_moves_no_point(sweep, tmp_path, monkeypatch):
    hour = 3600.0
    clock = cycle([1.7e9, 1.7e9 + hour, 1.7e9 - 10 * hour, 1.7e9 + 1e8, 5.0])
    path, checkpoints = tmp_path / "jumps.jsonl", {}
    driver = Driver(sweep, path, checkpoints, clock=lambda: next(clock))
    trial = driver.ledger.next_trial()
    driver.report(trial, "started", 0, [], host="h", pid=1, notes=[], **{"stage.0": "s"})
    driver.ledger.book_failure(trial.key, will_retry=True)
    failed = driver.ledger.state.trials[trial.key]
    assert failed.seconds is not None
    assert failed.seconds >= 0
    driver.ledger._out.clear()
    driver.play()

    state = SweepState.load(path)
    assert len({record.suggested_at for record in state.trials.values()}) > 2, "the clock did not jump"
    start = milliseconds(state.created_at)
    assert sweep_status(state, abandoned=False)[1] >= start
    for known in state.trials.values():
        assert known.status == "finished"
        assert known.seconds >= 0
        _, end = trial_status(state, known, abandoned=False)
        assert end >= milliseconds(known.attempt_started_at)
        times = {(metric, x): moment for (metric, x), (_, moment) in known.points.items()}
        assert times == {("miou/all", step): 1.6e9 + step for step in range(STEPS)}
    for now in (0.0, 1.7e9, 4e9):
        assert state.eta_seconds(100, 2, now) >= 0
    calm = tmp_path / "calm.jsonl"
    shutil.rmtree(sweep.folder)
    Driver(sweep, calm, {}).play()
    assert outcome(calm) == outcome(path)


def test_a_time_budget_is_not_used_up_by_setting_the_clock(sweep, tmp_path, monkeypatch):
    driver = Driver(sweep, tmp_path / "budget.jsonl", {})
    driver.ledger.deadline = sweeps.ledger.time.monotonic() + 600
    with driver.journal:
        for jump in (1e9, -1e9):
            monkeypatch.setattr(sweeps.ledger.time, "time", lambda jump=jump: 1.7e9 + jump)
            assert driver.ledger.next_trial() is not None
            assert not driver.ledger.exhausted()


def test_a_lost_journal_is_refused_where_trials_are(sweep, tmp_path):
    path = sweep.folder / JOURNAL
    driver = Driver(sweep, path, {})
    driver.ledger.next_trial()
    driver.journal.close()
    path.write_bytes(b"")
    with Journal(path) as journal:
        ledger = Ledger(sweep, journal, SweepState.load(path))
        with pytest.raises(ResultsError, match="there are trials in") as caught:
            _open_books(ledger, 0)
        assert "restore the journal" in caught.value.hint
    assert path.read_bytes() == b""
