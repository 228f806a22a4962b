from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeps.__main__ import app
from tests.bacs.data.trees import make_folder, make_voc

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "data")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Runs ``python -m sweeps data`` in this process; returns exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    for name in ("CITYSCAPES_USERNAME", "CITYSCAPES_PASSWORD"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        result = CliRunner().invoke(app, ["data", *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_the_command_line_tells_a_fault_and_fails(root):
    (root / "masks/val_1.png").rename(root / "masks/VAL_1.png")
    command = [sys.executable, "-m", "sweeps", "data", "verify", "folder", f"dataset.root={root}"]
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{root}/masks/val_1.png is not there; VAL_1.png is" in done.stdout
    assert done.stdout.rstrip().endswith("folder is not usable: 1 fault")
    assert not done.stderr.strip()


def test_a_clean_dataset_is_usable(data, root):
    code, output, _ = data("verify", "folder", f"dataset.root={root}", "--workers", "1")
    assert code == 0
    assert output.rstrip().endswith("folder is usable")
    assert re.search(r"│ +3 │ triangle +│ +9 │", output)


def test_counts_per_step_are_printed(data, tmp_path):
    code, output, _ = data("verify", "voc", f"dataset.root={make_voc(tmp_path / 'voc')}")
    assert code == 1
    assert "train: has 40 images, the published dataset 10,582" in output
    assert re.search(r"│ train +│ disjoint +│ 15-1 +│ [\d ]+ │ +8437 378 299 420 500 548 \(not comparable", output)
    assert output.rstrip().endswith("voc is not usable: 2 faults")


def test_json_lists_everything(data, root):
    for number in range(7):
        (root / f"masks/train_{number}.png").unlink()
    code, output, _ = data("verify", "folder", f"dataset.root={root}", "--json")
    assert code == 1
    found = json.loads(output)
    assert found["usable"] is False
    (fault,) = [finding for finding in found["findings"] if finding["level"] == "fault"]
    assert [Path(trouble["file"]).stem for trouble in fault["files"]] == [f"train_{number}" for number in range(7)]
    assert found["subsets"][0] == {"subset": "train", "images": 12, "expected": None}


def test_lists_that_cannot_be_used_are_findings(data, root):
    (root / "val.txt").write_text("train_0\n")
    code, output, _ = data("verify", "folder", f"dataset.root={root}")
    assert code == 1
    assert "train_0" in output
    (root / "val.txt").unlink()
    code, output, _ = data("verify", "folder", f"dataset.root={root}")
    assert code == 1
    assert "val.txt" in output


def test_digits_are_generated(data):
    assert data("verify", "digits")[0] == 0
    code, output, _ = data("prepare", "digits")
    assert code == 0
    assert "generated" in output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["verify", "imagenet"], "choose one of"),
        (["verify", "voc"], "dataset.root: is not given"),
        (["prepare", "ade20k"], "dataset.root: is not given"),
        (["verify", "voc", "dataset.root=nowhere"], "not a folder"),
        (["verify", "voc", "dataset.root=.", "dataset.rot=1"], "dataset.rot: is not a known key"),
        (["verify", "voc", "dataset.root=.", "dataset.crop_size=0"], "dataset.crop_size"),
        (["verify", "digits", "dataset.canvas=10"], "dataset.canvas"),
    ],
)
def test_wrong_requests(data, arguments, told):
    code, _, errors = data(*arguments)
    assert code == 2
    assert told in errors


def test_prepare_names_the_missing_variables(data, tmp_path):
    code, _, errors = data("prepare", "cityscapes", f"dataset.root={tmp_path / 'city'}")
    assert code == 2
    assert "CITYSCAPES_USERNAME" in errors
    assert "CITYSCAPES_PASSWORD" in errors


def test_prepare_says_what_to_do_by_hand(data, tmp_path, root):
    code, output, _ = data("prepare", "folder", f"dataset.root={tmp_path / 'mine'}")
    assert code == 1
    assert f"put together by hand in {tmp_path / 'mine'}" in output
    assert "folder is not usable yet" in output
    code, output, _ = data("prepare", "folder", f"dataset.root={root}")
    assert code == 0
    assert f"data verify folder dataset.root={root}" in output
