import csv
import json
import math

import pytest
from rich.console import Console

from results import SweepState
from results.tables import (
    methods_table,
    render_methods,
    render_status,
    render_tracebacks,
    render_winners,
    status_json,
    trials_table,
    winners_table,
    write_csvs,
)


@pytest.fixture
def sweep(scribe):
    """2-2: two trials and references; 1-1: one running, one failed, none finished."""
    scribe.created(name="digits [draft]")
    scribe.run_trial(0, val=0.5, test=0.9, **{"loss.lkd": 0.25})
    scribe.run_trial(1, val=0.6, test=0.6, **{"loss.lkd": 0.5})
    for seed, test in enumerate((0.7, 0.8)):
        scribe.run_trial(2 + seed, role="joint", seed=seed, val=0.99, test=test)
    scribe.run_trial(4, role="finetune", val=0.1, test=0.2)
    running = scribe.suggest(5, split="1-1")
    scribe.start(running)
    scribe.report(running, 1, epoch=7)
    failed = scribe.suggest(6, split="1-1")
    scribe.start(failed)
    scribe.journal.append("failed", trial=failed, reason="loss is [red]NaN", traceback="tb", will_retry=False)
    return SweepState.load(scribe.path)


def text(renderable):
    console = Console(width=240, record=True)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_winners(sweep):
    first, second = winners_table(sweep)
    assert first == {
        "split": "2-2", "finished": 2, "stopped": 0, "trial": 1, "key": "000000000001", "seeds": 1, "val_miou": 0.6,
        "miou": 0.6, "miou_base": 0.7, "miou_novel": 0.4, "miou_avg": 0.65, "forgetting": 0.1,
        "joint_miou": 0.75, "joint_seeds": 2, "finetune_miou": 0.2, "finetune_seeds": 1,
        "gap_to_joint_percent": pytest.approx(20.0), "params": {"loss.lkd": 0.5},
    }  # fmt: skip
    assert (second["split"], second["finished"], second["trial"], second["miou"]) == ("1-1", 0, None, None)
    assert (second["joint_miou"], second["gap_to_joint_percent"], second["params"]) == (None, None, {})


def test_methods(scribe):
    scribe.created()
    tried = [("mib", (0.4, 0.6)), ("mib", (0.3, 0.3)), ("bacs", (0.55, 0.55)), ("er", (0.2,))]
    for number, (method, vals) in enumerate(tried):
        for seed, val in enumerate(vals):
            key = scribe.suggest(number, seed=seed, tags={"loss": method}, **{"loss.knob": 0.1 * number})
            scribe.start(key)
            scribe.report(key, 1, **{"time/step_cpu_seconds": 30.0})
            scribe.report(key, 2, **{"time/step_cpu_seconds": 10.0 + seed})
            scribe.finish(key, val=val, test=val - 0.1)
    scribe.run_trial(9, role="joint", val=0.9, test=0.8, tags={"loss": "crossentropy"})
    state = SweepState.load(scribe.path)
    rows = methods_table(state)
    assert [(row["method"], row["trials"], row["seeds"]) for row in rows] == [
        ("joint", 0, 1), ("bacs", 1, 2), ("mib", 2, 2), ("er", 1, 1),
    ]  # fmt: skip
    bacs, mib, er = rows[1:]
    assert (bacs["val_miou"], bacs["val_miou_sd"], bacs["cpu_seconds"]) == (0.55, 0.0, 40.5)
    assert mib["miou"] == pytest.approx(0.4)
    assert mib["miou_sd"] == pytest.approx(0.1 * math.sqrt(2))
    assert (mib["params"], er["miou_sd"]) == ({"loss.knob": 0.0}, None)
    shown = text(render_methods(state))
    assert "40.0±14.1" in shown
    assert shown.index("joint") < shown.index("bacs") < shown.index("mib")


def test_trials(sweep):
    rows = trials_table(sweep)
    assert [row["number"] for row in rows] == list(range(7))
    assert [row["status"] for row in rows] == ["finished"] * 5 + ["running", "failed"]
    assert rows[0]["final"]["final/miou"] == 0.9
    assert (rows[5]["step"], rows[5]["epoch"]) == (1, 7)


def test_csvs(sweep, tmp_path):
    paths = write_csvs(sweep, tmp_path / "report")
    tables = {}
    for path in paths:
        with path.open(newline="") as file:
            tables[path.name] = list(csv.DictReader(file))
    winners, trials, steps = tables["winners.csv"], tables["trials.csv"], tables["steps.csv"]
    assert winners[0]["params/loss.lkd"] == "0.5"
    assert winners[1]["val_miou"] == ""
    assert (len(trials), trials[0]["final/miou"], trials[0]["params/loss.lkd"]) == (7, "0.9", "0.25")
    assert len(steps) == 5 * 2 + 1
    assert (steps[1]["number"], steps[1]["step"], steps[1]["miou/all"]) == ("0", "2", "0.52")
    assert "val/miou_all" not in steps[0]
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(tables)


def test_csvs_of_an_empty_sweep(tmp_path):
    assert all(path.exists() for path in write_csvs(SweepState(), tmp_path))


def test_winners_as_text(sweep):
    shown = text(render_winners(sweep))
    for words in ("digits [draft]", "60.0", "75.0 (2)", "20.0 (1)", "20.0 %", "loss.lkd"):
        assert words in shown


def test_status_as_text(sweep):
    shown = text(render_status(sweep, total=9, now=sweep.updated_at))
    for words in (
        "digits [draft]: 6 of 9 trials over",
        "5 finished",
        "best 2-2: trial 1  val mIoU 60.0 %",
        "best 1-1: nothing finished yet",
        "trial 6 1-1 failed: loss is [red]NaN",
        "time left 0:00:",
        "41.0",
    ):
        assert words in shown


def test_status_of_a_sweep_that_has_not_begun_and_of_one_that_ended(scribe):
    assert "0 of 3 trials over" in text(render_status(SweepState(), total=3))
    scribe.created()
    scribe.end("interrupted")
    assert "ended: interrupted" in text(render_status(SweepState.load(scribe.path)))


def test_failures_are_shown_with_cause_attempts_and_traceback(scribe):
    scribe.created()
    bad, cut = scribe.suggest(0), scribe.suggest(1, role="joint")
    told = {"reason": "DivergedError: [nan]\nmore", "traceback": "Traceback\n  [somewhere]"}
    scribe.journal.append("failed", trial=bad, cause="diverged", will_retry=False, charged=False, **told)
    memory = {"cause": "out_of_memory", "reason": "MemoryError: ", "traceback": ""}
    scribe.journal.append("failed", trial=cut, will_retry=True, charged=False, **memory)
    state = SweepState.load(scribe.path)
    shown = text(render_status(state))
    assert "trial 0 2-2 failed (diverged, 1 attempt): DivergedError: [nan]\n" in shown.replace(" \n", "\n")
    assert "joint 2-2 failed, trying again (out_of_memory, 1 attempt): MemoryError" in shown
    assert "trial 0 2-2 seed 0 (diverged, 1 attempt):\nTraceback\n  [somewhere]" in text(render_tracebacks(state))
    (first, second) = status_json(state)["failures"]
    assert (first["cause"], first["attempts"], first["traceback"]) == ("diverged", 1, "Traceback\n  [somewhere]")
    assert (second["cause"], second["will_retry"]) == ("out_of_memory", True)
    assert [row["cause"] for row in trials_table(state)] == ["diverged", "out_of_memory"]
    scribe.journal.append("started", trial=cut, attempt=2, host="h", pid=1, tags={"micro_batches": 2})
    scribe.finish(cut)
    state = SweepState.load(scribe.path)
    assert "joint 2-2 ran out of memory: its batches go in 2 pieces" in text(render_status(state))
    assert [row["cause"] for row in trials_table(state)] == ["diverged", ""]


def test_status_as_json(sweep, scribe):
    status = status_json(sweep, total=9)
    assert status == json.loads(json.dumps(status, allow_nan=False))
    assert status["counts"] == {"pending": 0, "running": 1, "finished": 5, "stopped": 0, "failed": 1}
    assert status["best"][0]["trial"] == 1
    assert status["running"][0] | {"key": ""} == {
        "trial": 5, "key": "", "role": "trial", "split": "1-1", "attempt": 1, "step": 1, "epoch": 7,
    }  # fmt: skip
    assert status["failures"][0]["reason"] == "loss is [red]NaN"
    scribe.run_trial(7, val=0.95, test=math.nan)
    again = status_json(SweepState.load(scribe.path))
    assert again["best"][0]["miou"] is None
    json.dumps(again, allow_nan=False)
