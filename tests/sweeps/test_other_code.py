"""Real sweeps whose code changes, and a sweep of classes that live outside the project."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bacs.stages import StageStore
from results.state import SweepState
from tests.sweeps.conftest import ROOT, TINY_SWEEP, CommandLine

pytestmark = pytest.mark.slow

PACKAGES = ("bacs", "trainables", "results", "search_spaces", "sweeps")
SEARCH = ["search.splits=[5-5]", "search.references=[]", "search.algorithm=random", "resources.max_concurrent=1"]


@pytest.fixture
def edited(sweeps: CommandLine, tmp_path: Path):
    """Runs a copy of the project; returns what edits one of its files, or of the lab's."""
    sweeps.source = tmp_path / "copy"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sweeps.source / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests/mylab", tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    sweeps.environment |= {"PYTHONPATH": str(tmp_path / "lab"), "COLUMNS": "160"}
    sweeps.environment.pop("BACS_PLUGINS", None)

    def edit(file: str, old: str, new: str) -> None:
        path = next(path for path in (sweeps.source / file, tmp_path / "lab" / file) if path.exists())
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def trials_of(line: CommandLine, name: str) -> list:
    return list(SweepState.load(line.journal(name)).trials.values())


def told(output: str) -> str:
    return " ".join(output.replace("│", " ").split())


def test_code_that_is_edited_while_a_sweep_runs_stops_it_before_the_next_trial(sweeps: CommandLine, edited):
    process = sweeps.start("run", "digits", "--name", "busy", *TINY_SWEEP, *SEARCH, "search.trials=3")
    sweeps.wait_for_record("busy", "started", process)
    old, new = "self.config.lkd * self._distillation", "9 * self.config.lkd * self._distillation"
    edited("bacs/losses/bacs.py", old, new)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "the code changed while the sweep ran: bacs/losses/bacs.py" in told(output)
    assert "--allow-other-code" in output
    state = SweepState.load(sweeps.journal("busy"))
    counts = state.counts()
    assert counts["finished"] >= 1, "what was under way goes on to its end, in the code that it has loaded"
    assert counts["failed"] == 0
    assert counts["pending"] >= 1
    assert state.end_status == "interrupted"

    code, output = sweeps.run("resume", "busy")
    assert code == 2
    assert "bacs/losses/bacs.py" in told(output)
    assert "mixed" in output
    edited("bacs/losses/bacs.py", new, old)
    edited("sweeps/plan.py", "from __future__", "# A comment, in a file that does not act.\nfrom __future__")
    code, output = sweeps.run("resume", "busy")
    assert code == 0, output
    assert not SweepState.load(sweeps.journal("busy")).is_mixed
    code, output = sweeps.run("report", "busy")
    assert "code: " in output
    assert "MIXED" not in output


def test_a_lab_s_own_classes_are_swept_resumed_shared_and_computed_again_after_an_edit(
    sweeps: CommandLine, edited, tmp_path: Path
):
    """Method, network, dataset, preset and space from outside; every trial trains on two ranks."""
    lab = ["stripes_sweep", "--config-path", str(tmp_path / "lab/conf"), "training.n_gpus=2", "search.trials=3"]
    process = sweeps.start("run", *lab, "--name", "lab")
    sweeps.wait_for_record("lab", "finished", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)

    code, output = sweeps.run("resume", "lab")
    assert code == 2
    assert "plugins: names mylab, but only you can allow that its code runs" in told(output)
    code, output = sweeps.run("status", "lab")
    assert code == 0, "who looks loads nothing"
    assert "trials over" in output
    code, output = sweeps.run("resume", "lab", "plugins=[mylab]")
    assert code == 0, output
    trials = trials_of(sweeps, "lab")
    assert [trial.status for trial in trials] == ["finished"] * 4
    assert {trial.tags["loss"] for trial in trials} == {"Hold", "crossentropy"}

    edited("mylab/terms.py", ".square()", ".abs()")
    code, output = sweeps.run("plan", *lab, "--name", "edited")
    assert code == 0, output
    assert "3 of these are stored, but by other code: mylab/terms.py" in told(output)
    code, output = sweeps.run("run", *lab, "--name", "edited")
    assert code == 0, output
    reused = {(trial.role, trial.tags["reused_steps"]) for trial in trials_of(sweeps, "edited")}
    assert reused == {("finetune", 2), ("trial", 1)}

    assert_mixes_only_when_asked(sweeps)
    assert_cleans_what_other_code_computed(sweeps)
    assert_predicts_only_what_is_named(sweeps, tmp_path)


def assert_mixes_only_when_asked(sweeps: CommandLine) -> None:
    sweeps.environment["BACS_PLUGINS"] = "mylab"
    code, output = sweeps.run("resume", "lab", "search.trials=4")
    assert code == 2
    assert "mylab/terms.py" in told(output)
    code, output = sweeps.run("resume", "lab", "search.trials=4", "--allow-other-code")
    assert code == 0, output
    assert "MIXED CODE" in output
    state = SweepState.load(sweeps.journal("lab"))
    assert state.is_mixed
    assert [len(trial.codes) for trial in state.trials.values()] == [1] * 5
    assert len(state.codes) == 2
    code, output = sweeps.run("report", "lab")
    assert code == 0
    assert "MIXED CODE" in output
    assert "mylab.terms" in output
    header, *rows = (sweeps.storage / "lab/report/trials.csv").read_text().splitlines()
    column = header.split(",").index("code")
    assert len({row.split(",")[column] for row in rows}) == 3  # fine-tuning, the method before and after


def assert_cleans_what_other_code_computed(sweeps: CommandLine) -> None:
    store = StageStore(sweeps.storage / "stages")
    before = len(store.keys())
    assert "0 stages would go" in sweeps.run("clean", "--dry-run")[1]
    code, output = sweeps.run("clean", "--other-code")
    assert code == 0, output
    assert output.count("of other code: mylab/terms.py") == 3
    assert len(store.keys()) == before - 3


def assert_predicts_only_what_is_named(sweeps: CommandLine, tmp_path: Path) -> None:
    sweeps.environment.pop("BACS_PLUGINS")
    Image.fromarray(np.zeros((16, 16), dtype=np.uint8)).save(tmp_path / "image.png")
    trial = next(trial for trial in trials_of(sweeps, "edited") if trial.role == "trial")
    stage = sweeps.storage / "edited/trials" / trial.key / "checkpoints/stage-001"
    command = [sys.executable, "-m", "bacs", "predict", str(stage), str(tmp_path / "image.png"), "--out", str(tmp_path)]
    codes = {}
    for words in ((), ("--plugins", "mylab")):
        command[-1] = str(tmp_path / f"masks{len(words)}")
        done = subprocess.run(
            [*command, *words], cwd=sweeps.source, env=sweeps.environment, capture_output=True, text=True, check=False
        )
        codes[words] = done.returncode, done.stdout + done.stderr
    assert codes[()][0] == 2
    assert "BACS_PLUGINS=mylab" in codes[()][1]
    assert codes["--plugins", "mylab"][0] == 0, codes
