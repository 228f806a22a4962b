from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bacs.__main__ import main
from tests.bacs.data.trees import make_folder
from tests.conftest import TINY


@pytest.fixture
def arguments(digits_cache, tmp_path):
    return [*TINY, f"dataset.cache={digits_cache}", "training.split=5-5", f"training.ckpt_dir={tmp_path}"]


def test_a_run_shows_its_steps_and_continues_where_it_stopped(arguments, capsys):
    assert main(arguments) == 0
    first = capsys.readouterr().out
    for words in ("step 0 of 1", "step 1 of 1", "forgetting", "background", "final, in %: mIoU", "avg over steps"):
        assert words in first
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert "step 1 of 1" not in again, "finished steps are not trained again"
    assert [line for line in again.splitlines() if line.startswith("final")] == [
        line for line in first.splitlines() if line.startswith("final")
    ]


def test_wrong_requests_and_failed_runs_have_their_own_exit_codes(arguments, capsys):
    assert main([*arguments, "loss.lkd=-1", "training.split=3-2"]) == 2
    errors = capsys.readouterr().err
    assert "2 fault(s)" in errors
    assert "loss.lkd: is -1" in errors
    assert main([*arguments, "optimizer=nesterov", "optimizer.lr=1e30"]) == 1
    assert "not finite" in capsys.readouterr().err


def test_bacs_needs_neither_ray_nor_mlflow_nor_optuna():
    code = (
        "import sys\n"
        "for name in ('ray', 'mlflow', 'optuna'): sys.modules[name] = None\n"
        "import bacs.__main__, bacs.run, bacs.losses.bacs, bacs.data\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def on_files(tmp_path) -> list[str]:
    """A run of seconds on a dataset in files."""
    root = make_folder(tmp_path / "data", train=8, val=4, side=24)
    place = [f"dataset.root={root}", f"dataset.cache={tmp_path / 'cache'}", f"training.ckpt_dir={tmp_path / 'runs'}"]
    small = ["network=unet", "network.width=2", "dataset.crop_size=16", "training.split=2-1", "training.batch_size=4"]
    short = ["training.debug=true", "training.epochs=1", "training.exp_name=x", "training.threads=1"]
    return ["dataset=folder", *place, *small, *short, "training.device=cpu"]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_later_fails_the_run(on_files, tmp_path, capsys, workers):
    assert main(on_files) == 0
    for path in (tmp_path / "data/images").glob("val_*"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    capsys.readouterr()
    again = [word for word in on_files if "exp_name" not in word]
    assert main([*again, "training.exp_name=y", f"training.num_workers={workers}"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("the run failed: ")
    assert f"{tmp_path / 'data/images'}/val_" in told
    assert "cannot be read" in told
    assert "nothing was started" not in told
    assert "Traceback" not in told


def test_classes_without_pixels_are_told_at_the_start_and_in_the_result(on_files, tmp_path, capsys):
    (tmp_path / "data/classes.txt").write_text("disc\nsquare\ntriangle\nstar\n")
    arguments = [word for word in on_files if not word.startswith("training.split")]
    assert main([*arguments, "training.split=1-3"]) == 0
    note = "no test pixel of star; no held-out pixel of star; no training pixel of star"
    assert note in " ".join(capsys.readouterr().out.split())
    (metrics,) = (tmp_path / "runs").rglob("metrics.json")
    (kept,) = json.loads(metrics.read_text())["notes"]
    assert kept == f"{note}: the IoU of a class without a pixel is left out of every mean"
