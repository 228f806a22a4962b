"""Manners of tracking: towards the sweep, the console, the settings of the user, the rules of MLflow."""

import os
import random
import re
import sqlite3
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from results import ResultsError, Tracker
from results.mlflow_database import sqlite_uri
from results.projection import entity_name
from results.reachability import NoAnswer
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


def test_a_database_that_is_not_there_yet_is_none_that_does_not_work(tmp_path):
    (tmp_path / "empty.db").touch()
    for name in ("not/yet/there.db", "empty.db", "é (1) #%2F,=?&~[x]'/m.db"):
        Tracker.check(sqlite_uri(tmp_path / name))


def test_a_database_of_mlflow_passes(uri):
    Tracker.check(uri)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite:///{}", "names a folder"),
        ("{}", "plain folders"),
        ("http://127.0.0.1:9", "does not answer"),
        ("sqlite:///{}/file/mlflow.db", "not a folder"),
        ("sqlite:///{}/random.db", "no SQLite database"),
        ("sqlite:///{}/passwd", "no SQLite database"),
        ("sqlite:///{}/notes.db", "another program, with tables such as notes"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://", "names no file"),
        ("sqlite:////dev/null", "not a regular file"),
        ("sqlite:////proc/x/mlflow.db", "not writable"),
        ("sqlite:///{}/" + "A" * 300, "File name too long"),
        ("mysql+nosuchdriver://lab/mlflow", "nosuchdriver"),
        ("mysql+asyncmy://lab/mlflow", "asyncmy, which is not installed"),
        ("redis://lab", "no such store"),
    ],
)
def test_what_cannot_keep_results_is_refused(uri, words, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "random.db").write_bytes(random.Random(0).randbytes(8192))
    (tmp_path / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    with sqlite3.connect(tmp_path / "notes.db") as connection:
        connection.execute("CREATE TABLE notes (text)")
    with pytest.raises(ResultsError, match=words) as caught:
        Tracker.check(uri.format(tmp_path))
    assert caught.value.hint


def test_a_server_that_is_alive_but_does_not_work_is_refused():
    """Its health is well, as with a load balancer before a broken server; then it asks for a login; then it works."""
    answers = {"/health": (200, b"OK")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            code, body = answers.get(self.path.partition("?")[0], answers.get("else", (500, b"broken")))
            if code == 401 and self.headers.get("Authorization") == "Basic YW5uOnMzY3JldA==":
                code, body = 200, b'{"experiments": []}'
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, pytest.MonkeyPatch.context() as environment:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(NoAnswer, match="answers 500"):
            Tracker.check(uri)
        answers["else"] = (200, b"<html>It works!</html>")
        with pytest.raises(NoAnswer, match="no MLflow server"):
            Tracker.check(uri)
        answers["else"] = (401, b"login")
        with pytest.raises(ResultsError, match="asks for a login"):
            Tracker.check(uri)
        environment.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        environment.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
        Tracker.check(uri)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("class_iou/3", "class_iou/3"),
        ("val/miou all: x-1.5", "val/miou all: x-1.5"),
        ("class_iou/zebra à rayures 道路", "class_iou/zebra à rayures 道路"),
        ("class_iou/potted plant (é)", "class_iou/potted plant _é_-"),
        ("class_iou/potted plant [é]", "class_iou/potted plant _é_-"),
        ("class_iou/..", "class_iou/_-"),
        ("/a//b/../c/", "_/a/_/b/_/c/_-"),
        ("..", "_-"),
        ("..a", "__a-"),
        ("", "_-"),
        ("x" * 300, "x" * 243 + "-"),
        ("class_iou/\x1b[31mred\n", "class_iou/__31mred_-"),
    ],
)
def test_names_mlflow_accepts(name, accepted):
    from mlflow.utils.validation import _validate_metric_name

    found = entity_name(name)
    _validate_metric_name(found)
    assert re.fullmatch(re.escape(accepted) + (r"[0-9a-f]{6}" if accepted.endswith("-") else ""), found)


def test_no_two_names_become_one():
    names = [
        "a b",
        "a_b",
        "a(b",
        "a[b",
        "a/../b",
        "b",
        "a/./b",
        "a//b",
        *("x" * n for n in (250, 251, 300)),
        "..",
        ".",
        "",
    ]
    assert len({entity_name(name) for name in names}) == len(names)


def test_importing_results_imports_nothing_heavy(spawn):
    heavy = "{'mlflow', 'ray', 'torch', 'bacs', 'sweeps'}"
    code = f"import sys, results, results.tables; print({heavy} & set(sys.modules))"
    process = spawn("-c", code, stdout=subprocess.PIPE)
    assert process.communicate(timeout=60)[0] == b"set()\n"
