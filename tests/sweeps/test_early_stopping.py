"""Early stopping through the books: what a stopped trial is, and that a journal replays to its decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from bacs.errors import RequestError
from results.journal import read_journal
from results.state import SELECTION_METRIC, SweepState
from search_spaces.stopping import is_audited
from sweeps.ledger import Ledger
from sweeps.settings import SweepConfig, compose_preset
from sweeps.trials import Trial
from tests.sweeps.conftest import TINY_SWEEP
from tests.sweeps.test_ledger import open_ledger

STEPS = {"5-5": 2, "2-2": 5}


def make_sweep(folder: Path, *overrides: str) -> SweepConfig:
    settings = ["search.references=[]", "search.splits=[2-2]", "search.trials=12", "search.lag=2"]
    stopping = ["stopping.algorithm=halving", "stopping.audit_share=0", "search.algorithm=random"]
    stopping.append("+training.stages=null")  # no trial waits for a step that another one computes
    values = compose_preset(
        "digits", [*TINY_SWEEP, *settings, *stopping, *overrides], {"storage": str(folder / "runs"), "name": "stopped"}
    )
    return SweepConfig.from_dict(values)


def quality(trial: Trial, step: int) -> float:
    """Of a made-up trial, a function of its configuration and place; the ranking changes on the way."""
    margin = trial.params["loss.prototype_margin"]
    return round(0.9 - step / 10 - abs(margin - step / 3) / 20 + trial.seed / 1000, 6)


def report(ledger: Ledger, trial: Trial, kind: str, step: int, **more) -> bool:
    """As Tune's stopper does; returns whether the trial has to end."""
    points = [["val/miou_all", step - 1, quality(trial, step), float(step)]] if kind == "step" else []
    place = {"host": "h", "pid": 1, "stage.0": "s", "notes": []} if kind == "started" else {}
    ledger.book_report(trial.key, {"kind": kind, "step": step, "epoch": 2 * step, "points": points, **place, **more})
    return ledger.is_stopped(trial.key)


def play(ledger: Ledger, at_once: int = 3) -> None:
    """All trials step by step, in turn."""
    running: list[tuple[Trial, int]] = []
    while not ledger.exhausted():
        while len(running) < at_once and (trial := ledger.next_trial()) is not None:
            report(ledger, trial, "started", 0)
            running.append((trial, 0))
        trial, step = running.pop(0)
        if report(ledger, trial, "step", step + 1):
            continue
        if step + 1 < STEPS[trial.split]:
            running.append((trial, step + 1))
        else:
            final = {SELECTION_METRIC: quality(trial, step + 1)}
            report(ledger, trial, "final", step + 1, final=final)


def test_a_stopped_trial_is_over_told_as_pruned_and_never_handed_out_again(tmp_path):
    sweep, path = make_sweep(tmp_path), tmp_path / "a.jsonl"
    journal, ledger = open_ledger(sweep, path)
    with journal:
        play(ledger)
        trials = list(ledger.state.trials.values())
        stopped = [trial for trial in trials if trial.status == "stopped"]
        assert 0 < len(stopped) < 12
        assert len(trials) == 12
        assert trials[0].status == "finished", "the default is never stopped"
        assert not any(trial.final for trial in stopped)
        assert "is not among the best 1/3 of" in stopped[0].reason
        best = max(trial.final.get(SELECTION_METRIC, 0.0) for trial in trials)
        assert ledger.state.best("2-2").mean(SELECTION_METRIC) == best
        told = [ledger._told(group) for group in ledger._suggested("2-2")]
        pruned = {i: t.pruned for i, t in enumerate(told) if t.pruned is not None}
        assert pruned.keys() == {trial.number for trial in stopped}
        for trial in stopped:
            assert list(pruned[trial.number]) == list(range(1, trial.step + 1))
        assert not any(t.is_open for t in told)
        ledger.close()
    journal, ledger = open_ledger(make_sweep(tmp_path, "search.trials=14"), path)
    with journal:
        fresh = [trial for _ in range(5) if (trial := ledger.next_trial()) is not None]
        assert [trial.number for trial in fresh] == [12, 13]


def test_trials_of_an_audit_go_on_and_change_no_decision_before_them(tmp_path):
    finals = {}
    for share in (0, 0.5, 1):
        journal, ledger = open_ledger(
            make_sweep(tmp_path, f"stopping.audit_share={share}"), tmp_path / f"{share}.jsonl"
        )
        with journal:
            play(ledger, at_once=1)
            finals[share] = {t.number: t.stop and (t.stop.step, t.stop.reason) for t in ledger.state.trials.values()}
            for trial in ledger.state.trials.values():
                if trial.stop is not None:
                    assert trial.stop.audited == is_audited(share, trial.key)
                    assert trial.status == ("finished" if trial.stop.audited else "stopped")
    assert finals[0] == finals[0.5] == finals[1]
    assert any(finals[0].values())


@pytest.mark.parametrize("algorithm", ["halving", "median"])
def test_a_journal_replays_to_its_decisions_from_any_record_on(tmp_path, algorithm):
    overrides = [f"stopping.algorithm={algorithm}", "stopping.audit_share=0.4", "search.splits=[2-2,5-5]"]
    sweep, path = make_sweep(tmp_path, *overrides, "search.seeds=[1,2]", "search.trials=6"), tmp_path / "whole.jsonl"
    journal, ledger = open_ledger(sweep, path)
    with journal:
        play(ledger)
    records, _ = read_journal(path)
    lines = path.read_bytes().splitlines(keepends=True)
    decisions = [record for record in records if record.get("stop")]
    assert {record["stop"]["audited"] for record in decisions} == {True, False}
    for cut in range(1, len(lines), 9):
        part = tmp_path / f"cut-{cut}.jsonl"
        part.write_bytes(b"".join(lines[:cut]))
        journal, ledger = open_ledger(sweep, part)
        with journal:
            for record in records[cut:]:
                replay(ledger, record)
            assert {t.key: t.stop for t in ledger.state.trials.values()} == {
                t.key: t.stop for t in SweepState.load(path).trials.values()
            }


def replay(ledger: Ledger, record: dict) -> None:
    """What a driver did, but for decisions, which it must come to by itself."""
    fields = {name: value for name, value in record.items() if name not in ("seq", "time", "kind", "crc", "stop")}
    if record["kind"] == "reported":
        ledger.book_report(record["trial"], {"kind": "step", **fields})
    elif record["kind"] == "finished":
        known = ledger.state.trials[record["trial"]]
        final = {"final": record["final"], "step": known.step, "epoch": known.epoch, "points": []}
        ledger.book_report(record["trial"], {"kind": "final", **final})
    elif record["kind"] == "stopped":
        known = ledger.state.trials[record["trial"]]
        assert known.stop is not None
        assert known.stop.reason == record["reason"]
    else:
        ledger.book(record["kind"], **fields)


def test_a_driver_that_dies_between_the_decision_and_the_stop_leaves_it_to_the_next(tmp_path):
    sweep, path = make_sweep(tmp_path), tmp_path / "d.jsonl"
    journal, ledger = open_ledger(sweep, path)
    with journal:
        play(ledger)
    lines = path.read_bytes().splitlines(keepends=True)
    records, _ = read_journal(path)
    cut = next(i for i, record in enumerate(records) if record["kind"] == "stopped")
    path.write_bytes(b"".join(lines[:cut]))
    journal, ledger = open_ledger(sweep, path)
    with journal:
        condemned = ledger.state.trials[records[cut]["trial"]]
        assert condemned.status == "pending"
        handed_out = [trial.key for _ in range(20) if (trial := ledger.next_trial()) is not None]
        assert condemned.key not in handed_out
        assert (condemned.status, condemned.reason) == ("stopped", records[cut]["reason"])


def test_a_seed_that_was_stopped_makes_its_configuration_pruned(tmp_path):
    sweep = make_sweep(tmp_path, "search.seeds=[1,2]", "search.trials=3")
    journal, ledger = open_ledger(sweep, tmp_path / "s.jsonl")
    with journal:
        first, second = [ledger.next_trial(), ledger.next_trial()]
        assert first is not None
        assert second is not None
        assert first.number == second.number
        for trial, steps in ((first, 2), (second, 3)):
            for step in range(1, steps + 1):
                report(ledger, trial, "step", step)
        ledger.book("stopped", trial=first.key, reason="poor")
        ledger.book("finished", trial=second.key, final={SELECTION_METRIC: 0.9}, seconds=1.0)
        (told,) = [ledger._told(group) for group in ledger._suggested("2-2")[:1]]
        means = {step: (quality(first, step) + quality(second, step)) / 2 for step in (1, 2)}
        assert told.pruned == pytest.approx(means)
        assert told.value is None


def test_a_trial_that_has_trained_its_last_step_is_not_stopped_when_it_repeats_its_history(tmp_path):
    sweep = make_sweep(tmp_path, "search.include_default=false")
    journal, ledger = open_ledger(sweep, tmp_path / "h.jsonl")
    with journal:
        trials = [ledger.next_trial() for _ in range(3)]
        for trial, value in zip(trials, (0.8, 0.7, 0.1), strict=True):
            assert trial is not None
            steps = 5 if value == 0.1 else 1
            points = [["val/miou_all", step, value, 1.0] for step in range(steps)]
            ledger.book_report(trial.key, {"kind": "epoch", "step": steps, "epoch": 10, "points": points})
        assert [ledger.state.trials[trial.key].stop for trial in trials if trial] == [None] * 3


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["stopping.reduction_factor=1"], "stopping.reduction_factor"),
        (["stopping.metric=miou/all"], "stopping.metric"),
        (["stopping.audit_share=1.5"], "stopping.audit_share"),
        (["stopping.epoch_rungs=3", "training.val_every=2"], "stopping.epoch_rungs"),
        (["stopping.epoch_rungs=2", "training.steps_per_class=5"], "stopping.epoch_rungs"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, overrides, where):
    with pytest.raises(RequestError) as caught:
        make_sweep(tmp_path, *overrides)
    assert [fault.where for fault in caught.value.faults] == [where]


def test_epoch_rungs_stop_inside_a_step(tmp_path):
    sweep = make_sweep(tmp_path, "training.epochs=4", "stopping.epoch_rungs=1", "search.include_default=false")
    journal, ledger = open_ledger(sweep, tmp_path / "i.jsonl")
    with journal:
        for value in (0.8, 0.7, 0.1):
            trial = ledger.next_trial()
            assert trial is not None
            for epoch in (5, 6):
                points = [["val/miou", epoch, value, 1.0]]
                ledger.book_report(trial.key, {"kind": "epoch", "step": 1, "epoch": epoch, "points": points})
        stop = ledger.state.trials[trial.key].stop
        assert stop is not None
        assert (stop.step, stop.epoch) == (1, 1)
        assert stop.reason == "val/miou 0.1 in step 2 after 1 epoch is not among the best 1/3 of 3"


def test_tune_stops_a_trial_at_the_report_that_decides(tmp_path):
    from sweeps.callback import Stopping

    sweep = make_sweep(tmp_path, "search.include_default=false")
    journal, ledger = open_ledger(sweep, tmp_path / "t.jsonl")
    with journal:
        stopper, answers = Stopping(ledger), []
        for value in (0.8, 0.7, 0.1):
            config = ledger.next_config()
            result = {"kind": "step", "step": 1, "epoch": 2, "points": [["val/miou_all", 0, value, 1.0]]}
            answers.append(stopper("tune-id", result | {"config": config, "done": False}))
        assert answers == [False, False, True]
        assert not stopper("tune-id", {"training_iteration": 1})
        assert not stopper.stop_all()


@pytest.mark.slow
def test_a_real_sweep_stops_trials_and_reports_what_it_cost(sweeps):
    overrides = ["search.splits=[2-2]", "search.trials=4", "search.references=[]", "search.lag=1"]
    stopping = ["stopping.algorithm=halving", "stopping.reduction_factor=2", "stopping.audit_share=0.3"]
    words = [*TINY_SWEEP, "training.iterations_per_epoch=3", *overrides, *stopping]
    code, output = sweeps.run("run", "digits", "--name", "early", *words, timeout=600)
    assert code == 0, output
    state = SweepState.load(sweeps.journal("early"))
    for trial in state.trials.values():
        wanted = "stopped" if trial.stop is not None and not trial.stop.audited else "finished"
        assert trial.status == wanted
        if wanted == "stopped":
            assert trial.stop is not None
            assert trial.step == trial.stop.step, "it ended at the report that decided"
    code, output = sweeps.look("report", "early")
    assert code == 0, output
    assert "early stopping in early" in output
    assert (sweeps.storage / "early" / "report" / "stopping.csv").is_file()
    arguments = ["--simulate", "--workers", "1000", "search.trials=10000", "--curves", "early"]
    code, output = sweeps.look("plan", "digits", "--name", "big", *words, *arguments)
    assert code == 0, output
    assert "10000 trials on 1000 workers" in output
