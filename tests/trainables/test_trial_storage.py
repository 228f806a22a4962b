"""A trial on bad storage: damage is passed over and told, what killed attempts left is removed, errors get out."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

import bacs.patience
import trainables.trial
from bacs.origin import Origin
from bacs.run import ContinualRun
from results.journal import Journal
from results.state import SweepState
from results.tables import render_status, status_json
from sweeps.checks import check_request
from sweeps.ledger import Ledger
from sweeps.settings import compose_preset
from tests.sweeps.conftest import TINY_SWEEP
from trainables.folder import TrialFolder


def test_what_killed_attempts_left_is_removed_once_the_trial_is_claimed(tmp_path):
    folder = TrialFolder(tmp_path / "trial")
    folder.write_config({"a": 1})
    left_over = [
        ".config.json.0123abcd.tmp",
        ".error.json.0123abcd.tmp",
        "checkpoints/.stage-001.0123abcd.tmp/tensors.pt",
        "results/.metrics.json.0123abcd.tmp",
        "pictures/step-0/.image-0.png.0123abcd.tmp",
    ]
    for name in left_over:
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("half")
    kept = ["checkpoints/stage-000/meta.json", "results/metrics.json", "config.json"]
    for name in kept:
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("{}")
    with folder.claim():
        left = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
        assert left == {*kept, "lock", left_over[0]}  # the driver alone writes configurations
    folder.write_config({"a": 1})
    assert not list(folder.path.rglob("*.tmp"))


def test_an_error_that_cannot_be_stored_does_not_hide_behind_another(small_disk):
    folder = TrialFolder(small_disk.folder / "trial")
    folder.path.mkdir()
    small_disk.fill()
    folder.write_error("exception", "ValueError: x", "Traceback ..." * 1000)
    small_disk.free()
    assert folder.take_error() is None
    assert not list(folder.path.iterdir())


def test_a_configuration_waits_for_a_full_disk(small_disk, monkeypatch):
    monkeypatch.setattr(bacs.patience, "FIRST_PAUSE_SECONDS", 0.05)
    folder = TrialFolder(small_disk.folder / "trial")
    small_disk.fill()
    thread = threading.Thread(target=folder.write_config, args=({"a": "x" * 9000},))
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    small_disk.free()
    thread.join(60)
    assert folder.read_config() == {"a": "x" * 9000}


@pytest.fixture
def ledger(tmp_path):
    """The books of a sweep with one trial, handed out."""
    overrides = [*TINY_SWEEP, "search.splits=[5-5]", "search.trials=1", "search.references=[]"]
    sweep = check_request(compose_preset("digits", overrides, {"storage": str(tmp_path / "runs"), "name": "notes"}))
    with Journal(sweep.folder / "journal.jsonl") as journal:
        ledger = Ledger(sweep, journal, SweepState())
        ledger.book("created", sweep="notes", uid="u", config=sweep.resolved)
        yield ledger


def test_a_damaged_checkpoint_is_told_in_the_journal_and_by_status(
    ledger, tiny_config, tiny_digits, tmp_path, monkeypatch
):
    trial = ledger.next_trial()
    folder = TrialFolder(tmp_path / "trial")
    reports = []
    monkeypatch.setattr(trainables.trial.tune, "report", lambda metrics, checkpoint=None: reports.append(metrics))
    config = tiny_config("training.split=5-5", "training.epochs=1", "loss=crossentropy")

    def attempt():
        reports.clear()
        trainables.trial._drive(ContinualRun(config, tiny_digits), Origin.of(config), folder)
        for report in reports:
            ledger.book_report(trial.key, report)

    attempt()
    (folder.checkpoints / "stage-001" / "tensors.pt").write_bytes(b"")
    ledger.book_failure(trial.key, will_retry=True)
    final = reports[-1]["final"]
    attempt()
    assert reports[-1]["final"] == final
    journal = Path(ledger.sweep.folder / "journal.jsonl")
    started = [json.loads(line) for line in journal.read_text().splitlines() if '"kind":"started"' in line]
    assert "stage-001" in started[-1]["notes"][-2]
    assert started[-1]["notes"][-1] == "trains step 1 again: no checkpoint of its end can be used"
    state = SweepState.load(journal)
    assert state.trials[trial.key].notes == ledger.state.trials[trial.key].notes
    assert {"note": started[-1]["notes"][-1], "trials": [trial.key]} in status_json(state)["notes"]
    lines = [str(part) for part in render_status(state).renderables]
    assert any("note of trial 0 5-5: trains step 1 again" in line for line in lines)


def test_a_trial_that_waits_for_storage_says_so_while_it_waits(
    small_disk, ledger, tiny_config, tiny_digits, monkeypatch
):
    monkeypatch.setattr(bacs.patience, "FIRST_PAUSE_SECONDS", 0.05)
    trial = ledger.next_trial()

    def report(metrics, checkpoint=None):
        ledger.book_report(trial.key, metrics)
        if metrics["kind"] == "started":
            small_disk.fill()
        if metrics["kind"] == "note" and (small_disk.folder / "ballast").exists():
            small_disk.free()

    monkeypatch.setattr(trainables.trial.tune, "report", report)
    config = tiny_config("training.mode=joint", "training.epochs=1", "loss=crossentropy")
    folder = TrialFolder(small_disk.folder / "trial")
    trainables.trial._drive(ContinualRun(config, tiny_digits), Origin.of(config), folder)
    known = ledger.state.trials[trial.key]
    assert known.status == "finished"
    assert "waiting to write the checkpoint epoch-000-00001" in known.notes[0]
    assert "after waiting" in known.notes[1]
    assert len(known.notes) == 2
