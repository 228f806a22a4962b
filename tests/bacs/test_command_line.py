from __future__ import annotations

import subprocess
import sys

import pytest

from bacs.__main__ import main
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
