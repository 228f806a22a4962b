"""The books of a sweep without Ray: what is handed out when, and that a journal can be taken up at any record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from results.journal import Journal
from results.state import SweepState, TrialState
from sweeps.checks import check_request
from sweeps.ledger import Ledger
from sweeps.settings import SweepConfig, compose_preset
from sweeps.trials import Trial
from tests.sweeps.conftest import TINY_SWEEP


@pytest.fixture
def sweep(tmp_path: Path) -> SweepConfig:
    overrides = [*TINY_SWEEP, "search.splits=[5-5,2-2]", "search.trials=5", "search.seeds=[1,2]", "search.lag=1"]
    return check_request(compose_preset("digits", overrides, {"storage": str(tmp_path / "runs"), "name": "books"}))


def open_ledger(sweep: SweepConfig, path: Path) -> tuple[Journal, Ledger]:
    journal = Journal(path)
    state = SweepState.load(path)
    ledger = Ledger(sweep, journal, state)
    if state.created_at is None:
        ledger.book("created", sweep="books", uid="u", config=sweep.resolved)
    else:
        ledger.book("resumed", driver={})
    return journal, ledger


def finish(ledger: Ledger, trial: Trial) -> None:
    """A made-up score that depends on the configuration alone, as a trained one would."""
    score = 1 / (1 + abs(trial.params.get("loss.prototype_margin", 9.0) - trial.seed))
    ledger.book("started", trial=trial.key, attempt=1, host="h", pid=1)
    ledger.book("finished", trial=trial.key, final={"final/val_miou": score, "final/miou": score}, seconds=1.0)


def play(ledger: Ledger, at_once: int = 2, finish: Callable[[Ledger, Trial], None] = finish) -> list[tuple]:
    """Runs to the end with ``at_once`` workers; the later of two trials always finishes first."""
    order, running = [], []
    while not ledger.exhausted() or running:
        trial = ledger.next_trial()
        if trial is not None:
            order.append((trial.role, trial.split, trial.number, trial.seed, tuple(trial.params.items())))
            running.append(trial)
        if trial is None or len(running) >= at_once:
            finish(ledger, running.pop())
    return order


def test_every_trial_is_handed_out_once_references_first(sweep, tmp_path):
    journal, ledger = open_ledger(sweep, tmp_path / "a.jsonl")
    with journal:
        order = play(ledger)
        assert ledger.total == len(order) == len(set(order)) == 8 + 2 * 5 * 2
        assert {role for role, *_ in order[:8]} == {"joint", "finetune"}
        assert {number for role, split, number, *_ in order if role == "trial"} == set(range(5))
        assert ledger.next_trial() is None


def test_suggestions_do_not_depend_on_who_finishes_first(sweep, tmp_path):
    played = []
    for name, at_once in (("a", 1), ("b", 2), ("c", 4)):
        journal, ledger = open_ledger(sweep, tmp_path / f"{name}.jsonl")
        with journal:
            played.append(sorted(play(ledger, at_once)))
    assert played[0] == played[1] == played[2]


def test_a_journal_cut_after_any_record_leads_to_the_same_trials(sweep, tmp_path):
    journal, ledger = open_ledger(sweep, tmp_path / "whole.jsonl")
    with journal:
        wanted = sorted(play(ledger))
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines), 5):
        path = tmp_path / f"cut-{cut}.jsonl"
        path.write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        shutil.rmtree(sweep.folder, ignore_errors=True)
        journal, ledger = open_ledger(sweep, path)
        with journal:
            play(ledger)
            trials = ledger.state.trials.values()
            assert sorted((t.role, t.split, t.number, t.seed, tuple(t.params.items())) for t in trials) == wanted
            assert all(t.status == "finished" for t in trials)


def fail(ledger: Ledger, trial: Trial, cause: str, reason: str = "ValueError: boom", ray_text: str = "") -> TrialState:
    """As the callback does when an attempt ends; a trial that died leaves no word."""
    if cause != "died":
        ledger.folder_of(trial.key).write_error(cause, reason, "Traceback")
    ledger.book_failure(trial.key, will_retry=False, ray_text=ray_text)
    return ledger.state.trials[trial.key]


def test_a_failed_trial_is_told_and_the_sweep_goes_on(sweep, tmp_path):
    journal, ledger = open_ledger(sweep, tmp_path / "f.jsonl")
    with journal:
        trial = ledger.next_trial()
        assert trial is not None
        known = fail(ledger, trial, "diverged", "DivergedError: nan")
        assert (known.status, known.cause, known.reason) == ("failed", "diverged", "DivergedError: nan")
        play(ledger)
        assert ledger.exhausted()
        ledger.reopen_failed()
        assert (known.status, known.reason, known.traceback, known.failures) == ("pending", "", "", [])
        assert not ledger.exhausted()


def test_a_failed_trial_is_handed_out_anew_before_anything_else(sweep, tmp_path):
    journal, ledger = open_ledger(sweep, tmp_path / "r.jsonl")
    with journal:
        first, second = ledger.next_trial(), ledger.next_trial()
        assert first is not None
        assert second is not None
        assert fail(ledger, first, "exception").status == "pending"
        again = ledger.next_trial()
        assert again is not None
        assert again.key == first.key
        assert fail(ledger, first, "exception").status == "failed"
        finish(ledger, second)
        play(ledger)
        counts = ledger.state.counts()
        assert (counts["failed"], counts["finished"]) == (1, ledger.total - 1)


def test_a_trial_that_runs_out_of_memory_goes_on_in_pieces_whoever_drives(sweep, tmp_path):
    path = tmp_path / "m.jsonl"
    journal, ledger = open_ledger(sweep, path)
    with journal:
        config = ledger.next_config()
        assert config is not None
        assert config["pieces"] == 1
        key = config["trial"]
        ledger.folder_of(key).write_error("out_of_memory", "MemoryError: ", "Traceback")
        ledger.book_failure(key, will_retry=False)
        assert ledger.state.trials[key].cause == "out_of_memory"
    journal, ledger = open_ledger(sweep, path)  # the driver died
    with journal:
        config = ledger.next_config()
        assert config is not None
        assert (config["trial"], config["pieces"]) == (key, 2)
        started = {"kind": "started", "step": 0, "epoch": 0, "points": [], "host": "h", "pid": 1, "stage.0": "s"}
        ledger.book_report(key, started | {"notes": ["in pieces"], "pieces": 2})
        assert ledger.state.trials[key].tags["micro_batches"] == 2
        ledger.book_failure(key, will_retry=False, ray_text="OutOfMemoryError: the node running low on memory")
        assert ledger.state.trials[key].status == "failed"
        ledger.reopen_failed()
        config = ledger.next_config()
        assert config is not None
        assert (config["trial"], config["pieces"]) == (key, 1)


def test_deaths_are_forgiven_by_a_resume_and_a_lost_machine_always(sweep, tmp_path):
    path = tmp_path / "k.jsonl"
    for _ in range(3):
        journal, ledger = open_ledger(sweep, path)
        with journal:
            trial = ledger.next_trial()
            assert trial is not None
            for _ in range(sweep.launch.max_failures):
                assert fail(ledger, trial, "died").status == "pending"
                assert fail(ledger, trial, "died", ray_text="its node has died").status == "pending"
                ledger.book_failure(trial.key, will_retry=True)
                assert ledger.state.trials[trial.key].status == "pending"
    journal, ledger = open_ledger(sweep, path)
    with journal:
        for _ in range(sweep.launch.max_failures):
            fail(ledger, trial, "died")
        assert fail(ledger, trial, "died").status == "failed"


def test_what_tune_ends_is_left_for_a_resume(sweep, tmp_path):
    path = tmp_path / "e.jsonl"
    journal, ledger = open_ledger(sweep, path)
    with journal:
        dropped = ledger.next_trial()
        assert dropped is not None
        ledger.drop(dropped.key)
        play(ledger)
        assert ledger.exhausted()
        assert ledger.state.trials[dropped.key].status == "pending"
    journal, ledger = open_ledger(sweep, path)
    with journal:
        again = ledger.next_trial()
        assert again is not None
        assert again.key == dropped.key


@pytest.mark.parametrize(("cause", "fails"), [("diverged", False), ("exception", False), ("died", True)])
def test_the_searcher_is_told_of_failures(sweep, tmp_path, cause, fails):
    journal, ledger = open_ledger(sweep, tmp_path / "s.jsonl")
    with journal:
        while (trial := ledger.next_trial()) is not None and trial.role != "trial":
            finish(ledger, trial)
        assert trial is not None
        mates = [trial, ledger.next_trial()]  # the same configuration with both seeds
        assert [mate.number for mate in mates if mate] == [0, 0]
        while fail(ledger, trial, cause).status == "pending":
            pass
        (told,) = [ledger._told(group) for group in ledger._suggested(trial.split)[:1]]
        assert told.is_open, "the other seed is still at work"
        finish(ledger, mates[1])
        (told,) = [ledger._told(group) for group in ledger._suggested(trial.split)[:1]]
        assert (told.value, told.failed, told.worst) == (None, fails, not fails)


def test_no_work_is_handed_out_after_the_deadline(sweep, tmp_path):
    journal, ledger = open_ledger(sweep, tmp_path / "d.jsonl")
    with journal:
        assert ledger.next_trial() is not None
        ledger.deadline = 0.0
        assert ledger.next_trial() is None
        assert ledger.exhausted()
