"""Trials that really diverge, raise, run out of memory and are killed, inside real sweeps."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from results.state import SweepState, TrialState
from tests.conftest import SMALL
from tests.sweeps.conftest import ROOT, CommandLine
from tests.sweeps.test_sweep import tracked
from tests.waiting import wait_until

TINY = [*SMALL[:-1], "search.splits=[5-5]", "training.val_every=2", "training.iterations_per_epoch=3"]

METHOD = """
from bacs.losses.crossentropy import *

@dataclass(frozen=True, kw_only=True)
class MineConfig:
    beyond: bool = False

class Mine(CrossEntropy):
    Config = MineConfig

    def terms(self, context, batch):
        return super().terms(context, batch) if not self.config.beyond else {"mine": [][context.step]}
"""

SPACE = """
points:
  - {optimizer.lr: 0.001, loss.beyond: false}
  - {optimizer.lr: 1.0e+30, loss.beyond: false}  # overflows float32
  - {optimizer.lr: 0.001, loss.beyond: true}
"""
BAD = (1e30, False)
BROKEN = (0.001, True)
GOOD = (0.001, False)


def state_of(line: CommandLine, name: str) -> SweepState:
    return SweepState.load(line.journal(name)) if line.journal(name).exists() else SweepState()


def pid_of(line: CommandLine, name: str, wanted: Callable[[TrialState], bool]) -> int:
    """The process of a running trial that is wanted; 0 if there is none."""
    if not line.journal(name).exists():
        return 0
    keys = {key for key, trial in state_of(line, name).trials.items() if trial.status == "running" and wanted(trial)}
    records = [
        json.loads(text) for text in line.journal(name).read_text().splitlines(keepends=True) if text[-1] == "\n"
    ]
    return next((r["pid"] for r in reversed(records) if r["kind"] == "started" and r["trial"] in keys), 0)


def setting(trial: TrialState) -> tuple[float, bool]:
    return trial.params["optimizer.lr"], trial.params["loss.beyond"]


@pytest.mark.slow
def test_a_sweep_goes_on_without_the_trials_that_diverge_or_raise(sweeps: CommandLine, tmp_path: Path):
    """The exception is raised by a method of the user's own, which he put into the package."""
    sweeps.source = tmp_path / "source"
    for package in ("bacs", "results", "search_spaces", "sweeps", "trainables"):
        shutil.copytree(ROOT / package, sweeps.source / package, ignore=shutil.ignore_patterns("__pycache__"))
    (sweeps.source / "bacs/losses/mine.py").write_text(METHOD)
    (sweeps.source / "bacs/conf/loss/mine.yaml").write_text("_target_: bacs.losses.mine.Mine\nbeyond: false\n")
    (tmp_path / "space.yaml").write_text(SPACE)
    search = [f"search.space={tmp_path}/space.yaml", "search.algorithm=grid", "search.references=[]"]
    process = sweeps.start("run", "digits", "--name", "faulty", "loss=mine", *TINY, *search)
    victim = wait_until(lambda: pid_of(sweeps, "faulty", lambda trial: setting(trial) == GOOD), 500, 0.02, process)
    assert victim
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 1, output
    assert "failed: 2 of 3 trials (1 diverged, 1 exception)" in output
    assert "python -m sweeps status faulty" in output

    trials = {setting(trial): trial for trial in state_of(sweeps, "faulty").trials.values()}
    good, bad, broken = trials[GOOD], trials[BAD], trials[BROKEN]
    assert (good.status, [failure.cause for failure in good.failures]) == ("finished", ["died"])
    assert (bad.status, bad.attempts, bad.cause) == ("failed", 1, "diverged")
    assert bad.reason.startswith("DivergedError: the loss of step 0, epoch 0 is not finite")
    assert (broken.status, broken.attempts, broken.cause) == ("failed", 2, "exception")
    assert broken.reason == "IndexError: list index out of range"
    assert "mine.py" in broken.traceback
    runs = {run["tags"]["trial"]: run for run in tracked(sweeps.storage).values() if "trial" in run["tags"]}
    assert runs[good.key]["status"] == "FINISHED"
    assert runs[bad.key]["status"] == runs[broken.key]["status"] == "FAILED"
    assert runs[bad.key]["tags"]["cause"] == "diverged"
    assert runs[bad.key]["tags"]["failed"].startswith("DivergedError")

    code, output = sweeps.run("status", "faulty")
    assert code == 0
    assert f"trial {bad.number} 5-5 failed (diverged, 1 attempt): DivergedError" in output
    code, output = sweeps.run("status", "faulty", "--traceback")
    assert "mine.py" in output
    code, output = sweeps.run("report", "faulty")
    with (sweeps.storage / "faulty/report/trials.csv").open(newline="") as file:
        assert sorted(row["cause"] for row in csv.DictReader(file)) == ["", "diverged", "exception"]

    code, output = sweeps.run("resume", "faulty", timeout=500)
    assert code == 1
    assert state_of(sweeps, "faulty").trials[bad.key].attempts == 1
    code, output = sweeps.run("resume", "faulty", "--retry-failed", timeout=900)
    assert code == 1
    again = state_of(sweeps, "faulty").trials
    assert (again[bad.key].status, again[bad.key].attempts, again[broken.key].attempts) == ("failed", 2, 4)
    assert again[good.key].final == good.final


SHORTAGE = 200 << 20
"""Bytes that are taken from a trial's process at any moment; an optimisation step needs more than twice that."""

GREEDY = [
    *SMALL,
    "dataset.train_scenes=2200",
    "training.batch_size=1400",
    "training.epochs=2",
    "training.iterations_per_epoch=1",
    "loss.replay_batch_size=6",
    "search.trials=1",
    "search.splits=[5-5]",
    "search.references=[]",
    "resources.cpus_per_trial=1",
]


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_goes_on_in_pieces(sweeps: CommandLine):
    process = sweeps.start("run", "digits", "--name", "greedy", *GREEDY)
    worker = wait_until(lambda: pid_of(sweeps, "greedy", lambda trial: True), 500, 0.02, process)
    assert worker
    size = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(worker, resource.RLIMIT_AS, (size - SHORTAGE, resource.RLIM_INFINITY))
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    (trial,) = state_of(sweeps, "greedy").trials.values()
    assert (trial.status, trial.attempts) == ("finished", 2)
    assert [failure.cause for failure in trial.failures] == ["out_of_memory"]
    assert trial.config["training"]["micro_batches"] == 1
    records = [json.loads(line) for line in sweeps.journal("greedy").read_text().splitlines()]
    notes = [record["notes"] for record in records if record["kind"] == "started"]
    assert any("every batch of 1400 images in 2 pieces" in note for note in notes[-1])
    (run,) = (run for run in tracked(sweeps.storage).values() if "trial" in run["tags"])
    assert (run["status"], run["tags"]["micro_batches"]) == ("FINISHED", "2")
    _, output = sweeps.look("status", "greedy")
    assert "ran out of memory: its batches go in 2 pieces" in output


@pytest.mark.slow
def test_a_worker_that_ray_kills_for_memory_does_not_end_the_sweep(sweeps: CommandLine):
    """Ray looks every six seconds and finds that more than a thousandth of the machine's memory is in use."""
    sweeps.environment |= {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "6000"}
    endless = [*SMALL, "training.epochs=1000", "search.trials=1", "search.references=[]", "search.splits=[5-5]"]
    code, output = sweeps.run("run", "digits", "--name", "hunted", *endless, timeout=900)
    assert code == 1, output
    assert "failed: 1 of 1 trials (1 out_of_memory)" in output
    (trial,) = state_of(sweeps, "hunted").trials.values()
    assert [failure.cause for failure in trial.failures] == ["out_of_memory"] * 2
    assert "low on memory" in trial.reason
