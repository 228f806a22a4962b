"""Real sweeps: Ray, MLflow in sqlite, processes that are really killed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from results.state import SweepState
from tests.sweeps.conftest import TINY_SWEEP, CommandLine


def tracked(storage: Path) -> dict[str, dict]:
    """Every run in the tracking database, by run id, read with plain SQL."""
    with sqlite3.connect(storage / "mlflow.db") as database:
        if not database.execute("select 1 from sqlite_master where name = 'runs'").fetchone():
            return {}  # its schema is still being made
        runs = {
            run: {"status": status, "tags": {}, "params": {}, "points": []}
            for run, status in database.execute("select run_uuid, status from runs where lifecycle_stage = 'active'")
        }
        for run, key, value in database.execute("select run_uuid, key, value from tags"):
            runs[run]["tags"][key] = value
        for run, key, value in database.execute("select run_uuid, key, value from params"):
            runs[run]["params"][key] = value
        for run, key, step, value in database.execute("select run_uuid, key, step, value from metrics"):
            runs[run]["points"].append((key, step, value))
    return runs


def outcomes(state: SweepState) -> dict[tuple, dict[str, float]]:
    """Final metrics by what a trial is, which two sweeps of the same configuration share."""
    return {(t.role, t.split, t.number, t.seed, json.dumps(t.params)): t.final for t in state.trials.values()}


def assert_tracked_completely(line: CommandLine, name: str) -> None:
    state = SweepState.load(line.journal(name))
    runs = tracked(line.storage)
    mine = {run: r for run, r in runs.items() if r["tags"].get("sweep") == name}
    parents = [run for run, r in mine.items() if r["tags"]["role"] == "sweep"]
    children = [r for r in mine.values() if r["tags"]["role"] != "sweep"]
    assert len(parents) == 1
    assert all(r["status"] == "FINISHED" for r in mine.values())
    assert sorted(r["tags"]["trial"] for r in children) == sorted(state.trials)
    for run in children:
        trial = state.trials[run["tags"]["trial"]]
        assert run["tags"]["mlflow.parentRunId"] == parents[0]
        assert {"split", "mode", "seed", "loss", "stage.0", "reused_steps"} <= run["tags"].keys()
        assert run["params"] == {"training.split": trial.split} | {k: str(v) for k, v in trial.params.items()}
        points = {(key, step): value for key, step, value in run["points"]}
        assert len(points) == len(run["points"])  # nothing twice
        steps = {"5-5": 2, "2-2": 5, "6-2": 3}[trial.split] if trial.role != "joint" else 1
        assert {step for key, step in points if key == "miou/all"} == set(range(steps))
        assert points["final/miou", 0] == trial.final["final/miou"]
        assert points["miou/all", steps - 1] == trial.final["final/miou"]


def test_sweep_from_start_to_report(sweeps):
    code, output = sweeps.run(
        "run", "digits", "--name", "demo", *TINY_SWEEP, "training.iterations_per_epoch=3", "search.splits=[5-5,2-2]"
    )
    assert code == 0, output
    assert "python -m sweeps confirm demo" in output
    state = SweepState.load(sweeps.journal("demo"))
    roles = [(t.role, t.split) for t in state.trials.values()]
    assert len(roles) == 8
    assert roles.count(("trial", "5-5")) == roles.count(("trial", "2-2")) == 2
    assert roles.count(("joint", "2-2")) == roles.count(("finetune", "5-5")) == 1
    assert_tracked_completely(sweeps, "demo")
    joint = next(t for t in state.trials.values() if (t.role, t.split) == ("joint", "2-2"))
    assert joint.config["training"]["epochs"] == 10  # five steps of two epochs
    default = next(t for t in state.trials.values() if (t.role, t.split, t.number) == ("trial", "2-2", 0))
    assert default.params["loss.buffer_size"] == 20

    before = sweeps.journal("demo").read_bytes()
    code, output = sweeps.run("run", "digits", "--name", "demo", *TINY_SWEEP, "training.iterations_per_epoch=3",
                              "search.splits=[5-5,2-2]")  # fmt: skip
    assert code == 0, output
    again = SweepState.load(sweeps.journal("demo"))
    assert {t.attempts for t in again.trials.values()} == {1}, "a finished trial is never run again"
    assert sweeps.journal("demo").read_bytes().startswith(before)
    assert_tracked_completely(sweeps, "demo")

    code, output = sweeps.look("run", "digits", "--name", "demo", *TINY_SWEEP, "loss.alpha=0.5")
    assert code == 2
    assert "loss.alpha: was" in output
    code, output = sweeps.look("status", "demo", "--json")
    assert code == 0
    assert json.loads(output)["counts"]["finished"] == json.loads(output)["total"] == 8
    runs = tracked(sweeps.storage)
    code, output = sweeps.look("sync", "demo")
    assert code == 0, output
    assert tracked(sweeps.storage) == runs, "a second projection changes nothing"
    code, output = sweeps.look("sync", "demo", "--tracking-uri", f"sqlite:///{sweeps.storage}/other.db")
    assert code == 0, output
    code, output = sweeps.look("report", "demo")
    assert code == 0
    assert "winners of demo" in output
    assert {path.name for path in (sweeps.storage / "demo" / "report").iterdir()} == {
        "methods.csv",
        "winners.csv",
        "trials.csv",
        "steps.csv",
    }


KILLED = [*TINY_SWEEP, "search.splits=[5-5]", "search.trials=3", "search.lag=1", "search.references=[]"]
KILLED.append("+training.stages=null")  # the second sweep computes what the first has computed


@pytest.mark.slow
def test_driver_killed_in_mid_sweep_then_resumed_gives_the_same_numbers(sweeps):
    code, output = sweeps.run("run", "digits", "--name", "whole", *KILLED)
    assert code == 0, output
    wanted = outcomes(SweepState.load(sweeps.journal("whole")))

    first = ["run", "digits", "--name", "killed", *KILLED]
    for wait_for, arguments in (("reported", first), ("finished", ["resume", "killed"])):
        process = sweeps.start(*arguments)
        sweeps.wait_for_record("killed", wait_for, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    code, output = sweeps.run("status", "killed", "--watch")
    assert code == 0, output
    assert "nobody runs this sweep" in output
    code, output = sweeps.run("resume", "killed")
    assert code == 0, output

    state = SweepState.load(sweeps.journal("killed"))
    assert outcomes(state) == wanted
    assert max(t.attempts for t in state.trials.values()) > 1, "the kills interrupted no trial"
    assert_tracked_completely(sweeps, "killed")
    assert_tracked_completely(sweeps, "whole")


@pytest.mark.slow
def test_killed_worker_is_retried_from_its_checkpoint_and_sigterm_drains(sweeps):
    process = sweeps.start("run", "digits", "--name", "worker", *KILLED)
    sweeps.wait_for_record("worker", "reported", process)
    started = SweepState.load(sweeps.journal("worker"))
    victim = next(t for t in started.trials.values() if t.status == "running" and t.points)
    records = [json.loads(line) for line in sweeps.journal("worker").read_text().splitlines()]
    pid = next(r["pid"] for r in records if r["kind"] == "started" and r["trial"] == victim.key)
    os.kill(pid, signal.SIGKILL)
    sweeps.wait_for_record("worker", "finished", process)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "python -m sweeps resume worker" in output
    runs = tracked(sweeps.storage).values()
    assert not [r for r in runs if r["status"] == "RUNNING"]

    code, output = sweeps.run("resume", "worker")
    assert code == 0, output
    state = SweepState.load(sweeps.journal("worker"))
    assert state.trials[victim.key].attempts >= 2
    assert all(t.status == "finished" for t in state.trials.values())
    assert_tracked_completely(sweeps, "worker")


def test_wrong_requests_exit_with_2_and_start_nothing(sweeps):
    code, output = sweeps.run(
        "run", "digits", "search.splits=[3-2]", "loss.lkd=-1", "--tracking-uri", "http://127.0.0.1:9"
    )
    assert code == 2
    for words in ("nothing was started", "divisible by 2", "loss.lkd: is -1", "sweep.tracking_uri", "does not answer"):
        assert words in output
    assert not list(sweeps.storage.rglob("journal.jsonl"))
    for arguments in (["status", "nobody"], ["resume", "nobody"], ["report", "nobody"], ["run", "nopreset"]):
        code, output = sweeps.look(*arguments)
        assert code == 2, output
        assert "->" in output
