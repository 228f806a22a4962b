"""Runs that meet code, or a device, other than that of their earlier steps: real commands on an edited copy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bacs.checkpoints import CheckpointFolder
from bacs.events import EpochEnded, StepEnded
from bacs.lineage import run_identity
from bacs.origin import UNKNOWN, Origin, changes_since
from bacs.precision import Numerics
from bacs.run import ContinualRun
from bacs.stages import begin
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent.parent
SHORT = [text for text in TINY if not text.startswith("loss.")]
SHORT += ["loss=mib", "training.split=5-5", "training.epochs=1", "training.iterations_per_epoch=2"]
CROSS_ENTROPY = "losses/functional/cross_entropy.py"


class Copy:
    """A copy of the package that may be edited, and runs of it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        shutil.copytree(ROOT / "bacs", folder / "bacs", ignore=shutil.ignore_patterns("__pycache__"))

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / "bacs" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def run(self, name: str, *words: str) -> tuple[int, str]:
        place = [f"training.exp_name={name}", "training.ckpt_dir=runs", f"dataset.cache={self.cache}"]
        command = [sys.executable, "-m", "bacs", *SHORT, *place, "training.stages=stages", *words]
        environment = os.environ | {"PYTHONPATH": str(self.folder), "COLUMNS": "200"}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def results(self, name: str) -> tuple[dict, dict]:
        folder = self.folder / "runs" / name / "results"
        metrics, origin = (json.loads((folder / f"{file}.json").read_text()) for file in ("metrics", "origin"))
        return metrics, origin


@pytest.fixture
def copy(tmp_path, digits_cache):
    return Copy(tmp_path, digits_cache)


def test_an_edited_loss_trains_again_and_nothing_goes_on_from_it_unseen(copy):
    assert copy.run("first")[0] == 0
    code, output = copy.run("same")
    assert code == 0
    assert "steps 0 to 1 were found in" in output
    copy.edit(CROSS_ENTROPY, "loss = F.cross_entropy(", "loss = 9 * F.cross_entropy(")

    code, output = copy.run("first")
    assert code == 2
    assert "nothing was started" in output
    assert f"bacs/{CROSS_ENTROPY} -> give the run a name" in output
    assert "--allow-other-code" in output

    code, output = copy.run("other")
    assert code == 0
    assert "were found" not in output
    before, after = copy.results("same"), copy.results("other")
    assert before[0] != after[0]
    assert before[1]["fingerprint"] != after[1]["fingerprint"]
    assert not after[1]["mixed"]
    assert "mixed_code" not in after[0]

    code, output = copy.run("first", "--allow-other-code")
    assert code == 0
    assert "MIXED CODE" in output
    metrics, origin = copy.results("first")
    assert metrics["mixed_code"] == origin["mixed"] == [f"bacs/{CROSS_ENTROPY}"]


def test_an_edit_that_does_not_act_is_no_change_and_one_of_a_later_step_costs_that_step(copy):
    assert copy.run("first")[0] == 0
    copy.edit(CROSS_ENTROPY, '"""Softmax cross-entropy', '"""The cross-entropy')
    copy.edit("losses/plop.py", "BINS, OFFICIAL_BINS = 10_000, 100", "BINS, OFFICIAL_BINS = 10_001, 100")
    copy.edit("view.py", 'return "-" if', 'return "none" if')
    assert copy.run("first")[0] == 0
    assert "steps 0 to 1 were found in" in copy.run("same")[1]
    copy.edit("losses/mib.py", "self.config.kd_weight * distillation", "2 * self.config.kd_weight * distillation")
    assert "steps 0 to 0 were found in" in copy.run("later")[1]


def test_a_checkpoint_that_tells_no_code_is_of_other_code():
    assert changes_since(None) == changes_since({"code": {}}) == [UNKNOWN]


@pytest.fixture
def execute(tiny_config, tiny_digits, tmp_path):
    """Runs a configuration with shared steps; ``model`` stands for the kind of device."""

    def make(name, model, *overrides, steps=2):
        words = ["loss=crossentropy", "training.split=5-5", "training.epochs=1", f"training.stages={tmp_path}/stages"]
        config = tiny_config(*words, *overrides)
        notes: list[str] = []
        origin = Origin.of(config)
        folder = CheckpointFolder(tmp_path / name, run_identity(config), notes.append, origin.state)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Numerics, "model", property(lambda self: model))
            run = ContinualRun(config, tiny_digits)
            shared = begin(run, folder, origin, notes.append)
            for event in run.events():
                if isinstance(event, EpochEnded | StepEnded):
                    folder.save(run.snapshot())
                if isinstance(event, StepEnded):
                    shared.give(event.step)
                    if event.step + 1 == steps:
                        break
        return shared, origin, notes

    return make


def test_steps_of_another_device_are_taken_by_those_alone_who_accept_them(execute):
    assert execute("a", "AVX2")[0].taken == 0
    assert execute("b", "AVX2")[0].taken == 2
    shared, origin, notes = execute("c", "NEON", steps=1)
    assert (shared.taken, origin.devices, notes) == (0, ["cpu NEON"], [])
    shared, origin, notes = execute("d", "VSX", "training.any_device=true")
    assert shared.taken == 2
    assert set(origin.devices) == {"cpu VSX", "cpu AVX2"}
    assert notes == ["steps 0 to 1 were computed on cpu AVX2 (training.any_device)"]


def test_a_run_that_goes_on_elsewhere_shares_nothing_more_under_the_key_of_one_device(execute):
    execute("a", "AVX2", steps=1)
    shared, origin, notes = execute("a", "NEON")
    assert shared.taken == 0
    assert origin.devices == ["cpu NEON", "cpu AVX2"]
    assert "step 1 is not shared, as several codes or devices have a part in it: cpu NEON, cpu AVX2" in notes
    assert execute("b", "NEON")[0].taken == 0
    assert execute("c", "AVX2")[0].taken == 1
