"""Manners of tracking: towards the sweep, the console, the settings of the user, the rules of MLflow."""

import os
import subprocess
import time

import pytest

from results import ResultsError, Tracker
from results.projection import entity_name
from results.tracking import POLL_SECONDS


def test_a_dead_server_disturbs_nobody(scribe):
    tracker = Tracker("http://127.0.0.1:9", "digits", scribe.path)
    tracker.start()
    scribe.created()
    scribe.run_trial(0)
    time.sleep(2 * POLL_SECONDS)
    started = time.monotonic()
    assert not tracker.close(timeout=2)
    assert time.monotonic() - started < 5
    assert "127.0.0.1" in tracker.last_error
    with pytest.raises(ResultsError, match="nothing is lost"):
        tracker.sync_once()


def test_a_fresh_database_is_created_without_a_word(scribe, spawn, tmp_path):
    scribe.created()
    scribe.run_trial(0)
    code = "import sys; from results import Tracker; Tracker(sys.argv[1], 'digits', sys.argv[2]).sync_once()"
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    process = spawn("-c", code, uri, scribe.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.communicate(timeout=120) == (b"", None)
    assert process.returncode == 0


def test_a_process_killed_while_it_makes_the_database_harms_nobody(scribe, spawn, tmp_path):
    scribe.created()
    scribe.run_trial(0)
    code = "import sys; from results import Tracker; Tracker(sys.argv[1], 'digits', sys.argv[2]).sync_once()"
    folder = tmp_path / "new"
    draft = folder / ".mlflow.db.tmp"
    for size in (100_000, 600_000):
        process = spawn("-c", code, f"sqlite:///{folder / 'mlflow.db'}", scribe.path)
        while not draft.exists() or draft.stat().st_size < size:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not (folder / "mlflow.db").exists()
    assert Tracker(f"sqlite:///{folder / 'mlflow.db'}", "digits", scribe.path).sync_once() > 0
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_settings_of_the_user_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    Tracker("http://127.0.0.1:9", "digits", tmp_path / "journal.jsonl")
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"


def test_checks_of_an_address(tmp_path):
    Tracker.check(f"sqlite:///{tmp_path}/not/yet/there.db")
    for uri, words in [
        (f"sqlite:///{tmp_path}", "folder"),
        (str(tmp_path), "plain folders"),
        ("http://127.0.0.1:9", "does not answer"),
    ]:
        with pytest.raises(ResultsError, match=words) as caught:
            Tracker.check(uri)
        assert caught.value.hint
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="not a folder"):
        Tracker.check(f"sqlite:///{tmp_path}/file/mlflow.db")


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("class_iou/3", "class_iou/3"),
        ("val/miou all: x-1.5", "val/miou all: x-1.5"),
        ("class_iou/potted plant (é)", "class_iou/potted plant ___"),
        ("/a//b/../c/", "a/c"),
        ("..", "_"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_mlflow_accepts(name, accepted):
    from mlflow.utils.validation import _validate_metric_name

    assert entity_name(name) == accepted
    _validate_metric_name(accepted)


def test_importing_results_imports_nothing_heavy(spawn):
    heavy = "{'mlflow', 'ray', 'torch', 'bacs', 'sweeps'}"
    code = f"import sys, results, results.tables; print({heavy} & set(sys.modules))"
    process = spawn("-c", code, stdout=subprocess.PIPE)
    assert process.communicate(timeout=60)[0] == b"set()\n"
