"""`sync`: any tracking server is rebuilt from the journal alone, by any number of processes, any number of times."""

import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient
from tracking_servers import dump

from results import Journal, ResultsError, Tracker
from results.mlflow_store import is_database
from results.projection import milliseconds
from results.writer_lock import WriterLock
from tests.waiting import wait_until

SYNC = "import sys; from results import Tracker; Tracker(sys.argv[1], 'digits', sys.argv[2]).sync_once(300)"


@pytest.fixture
def another(tmp_path, empty_database):
    """Makes databases beside `uri`."""

    def make(name):
        (tmp_path / name).write_bytes(empty_database)
        return f"sqlite:///{tmp_path / name}"

    return make


def sync(uri, path, folder):
    return Tracker(uri, "digits", path, artifact_root=folder).sync_once()


def test_a_rebuilt_database_holds_what_the_sweep_s_own_tracker_wrote(scribe, uri, another, tmp_path):
    """Interrupted, resumed, retried and ended twice, with the tracker there all the time."""
    own = Tracker(uri, "digits", scribe.path)
    lines = []
    *_, failed, cut, never = scribe.sweep_of_every_kind()
    for turn in (
        lambda: scribe.end("interrupted"),
        lambda: scribe.journal.append("resumed", driver={"pid": 2}),
        lambda: scribe.start(cut, attempt=2),
        lambda: scribe.journal.append("failed", trial=cut, reason="node lost", traceback="", will_retry=True),
        lambda: scribe.start(cut, attempt=3),
        lambda: (scribe.report(cut, 1), scribe.finish(cut, val=0.8)),
        lambda: scribe.journal.append("failed", trial=never, reason="died", traceback="", will_retry=False),
        lambda: scribe.start(failed, attempt=2),
        lambda: scribe.finish(failed, val=0.1),
        scribe.end,
    ):
        turn()
        own.sync_once()
        lines.append(scribe.path.read_bytes())
    wanted = dump(uri)
    assert [len(points) for points in wanted["sweep"]["points"].values()] == [2], "one best value an ending"

    fresh = another("fresh.db")
    sync(fresh, scribe.path, tmp_path / "fresh")
    assert dump(fresh) == wanted
    half = tmp_path / "half" / "journal.jsonl"
    half.parent.mkdir()
    half.write_bytes(lines[4])  # in mid-sweep, by a driver that is dead since
    mended = another("mended.db")
    sync(mended, half, tmp_path / "mended")
    assert dump(mended)["sweep"]["info"][1] == "KILLED"
    for _ in range(2):
        sync(mended, scribe.path, tmp_path / "mended")
        assert dump(mended) == wanted
    sync(uri, scribe.path, tmp_path / "sweep" / "artifacts")
    assert dump(uri) == wanted


def test_a_sweep_whose_driver_was_killed_is_closed_until_it_is_resumed(scribe, uri, tmp_path):
    *_, cut, never = scribe.sweep_of_every_kind()
    Tracker(uri, "digits", scribe.path).sync_once()
    assert {dump(uri)[key]["info"][1] for key in (cut, "sweep")} == {"RUNNING"}
    scribe.journal.close()  # as the kernel does for the dead
    for _ in range(2):
        Tracker(uri, "digits", scribe.path).sync_once()
        held = dump(uri)
        for key in (cut, "sweep"):
            assert (held[key]["info"][1], held[key]["info"][3]) == ("KILLED", milliseconds(scribe.now))
        assert never not in held
    scribe.open()
    tracker = Tracker(uri, "digits", scribe.path)
    scribe.journal.append("resumed", driver={"pid": 2})
    tracker.sync_once()
    assert (dump(uri)[cut]["info"][1], dump(uri)["sweep"]["info"][1]) == ("SCHEDULED", "RUNNING")
    scribe.start(cut, attempt=2)
    tracker.sync_once()
    assert dump(uri)[cut]["info"][1] == "RUNNING"
    scribe.finish(cut)
    scribe.finish(never)
    scribe.end()
    tracker.sync_once()
    assert not {"RUNNING", "KILLED", "SCHEDULED"} & {run["info"][1] for run in dump(uri).values()}


@pytest.mark.slow
def test_processes_that_ship_at_once_make_no_run_twice(scribe, uri, another, spawn, tmp_path):
    """The sweep's own tracker in its thread, and two `sync` beside it."""
    scribe.created()
    keys = [scribe.run_trial(number) for number in range(3)]
    processes = [spawn("-c", SYNC, uri, scribe.path, stderr=subprocess.PIPE) for _ in range(2)]
    own = Tracker(uri, "digits", scribe.path)
    own.start()
    for number in range(3, 6):
        time.sleep(1)
        keys.append(scribe.run_trial(number))
    scribe.end()
    assert own.close(timeout=300), own.last_error
    for process in processes:
        assert process.communicate(timeout=300)[1] == b""
        assert process.returncode == 0
    held = dump(uri)
    assert held.keys() == {"sweep", *keys}
    alone = another("alone.db")
    sync(alone, scribe.path, tmp_path / "alone")
    assert held == dump(alone)


def test_the_second_shipper_is_told_who_has_the_turn(scribe, uri):
    scribe.created()
    key = scribe.run_trial(0)
    lock = WriterLock(scribe.path.with_name("journal.jsonl.tracking.lock"))
    tracker = Tracker(uri, "digits", scribe.path)
    with pytest.raises(ResultsError, match=r"another process ships this journal.*by process \d+ on") as caught:
        tracker.sync_once(turn_seconds=0.2)
    assert "try again" in caught.value.hint
    tracker.start()
    assert wait_until(lambda: tracker.last_error, 60)
    scribe.journal.append("ended", status="finished")  # the journal is another matter
    lock.release()
    assert tracker.close(timeout=60), tracker.last_error
    assert dump(uri).keys() == {"sweep", key}


def test_runs_made_twice_become_one_again(scribe, uri):
    """As a server leaves them that carried out a request long after the client gave up."""
    from mlflow import MlflowClient

    scribe.created()
    keys = [scribe.run_trial(number) for number in range(2)]
    scribe.end()
    Tracker(uri, "digits", scribe.path).sync_once()
    wanted = dump(uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    for run in client.search_runs([experiment]):
        for _ in range(2):
            client.create_run(experiment, start_time=1, tags=run.data.tags)
    Tracker(uri, "digits", scribe.path).sync_once()
    assert dump(uri) == wanted
    assert wanted.keys() == {"sweep", *keys}


def test_a_parent_deleted_by_hand_gets_its_children_back(scribe, uri):
    from mlflow import MlflowClient

    scribe.created()
    keys = [scribe.run_trial(number) for number in range(2)]
    tracker = Tracker(uri, "digits", scribe.path)
    tracker.sync_once()
    MlflowClient(tracking_uri=uri).delete_run(tracker.parent_run_id)
    scribe.end()
    with pytest.raises(ResultsError, match="active"):
        tracker.sync_once()
    tracker.sync_once()
    held = dump(uri)
    assert held["sweep"]["info"][1] == "FINISHED"
    assert {held[key]["tags"]["mlflow.parentRunId"] for key in keys} == {"sweep"}


def test_a_server_that_came_back_with_nothing_gets_everything_again(scribe, uri, tmp_path):
    scribe.created()
    keys = [scribe.run_trial(number) for number in range(2)]
    tracker = Tracker(uri, "digits", scribe.path)
    tracker.sync_once()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs", "experiment_tags", "experiments"):
            database.execute(f"delete from {table}")
    scribe.end()
    with pytest.raises(ResultsError, match="not found"):
        tracker.sync_once()
    tracker.sync_once()
    held = dump(uri)
    assert held.keys() == {"sweep", *keys}
    assert {run["info"][1] for run in held.values()} == {"FINISHED"}
    assert {len(held[key]["points"]) for key in keys} == {9}


LOCKER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("begin exclusive")
print("locked", flush=True)
sys.stdin.readline()
database.execute("rollback")
"""


def test_a_database_locked_by_another_process_delays_points_and_holds_nothing_up(scribe, uri, tmp_path, spawn):
    locker = spawn("-c", LOCKER, tmp_path / "mlflow.db", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert locker.stdout.readline() == "locked\n"
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(tmp_path / "mlflow.db", timeout=0).execute("begin immediate")
    tracker = Tracker(uri, "digits", scribe.path)
    scribe.created()
    tracker.start()
    keys = []
    for number in range(10):
        keys.append(scribe.run_trial(number))
        time.sleep(0.1)
    scribe.end()
    assert not tracker.close(timeout=1)
    assert tracker.last_error
    locker.communicate("\n", timeout=60)
    tracker = Tracker(uri, "digits", scribe.path)
    tracker.sync_once()
    held = dump(uri)
    assert held.keys() == {"sweep", *keys}
    assert {run["info"][1] for run in held.values()} == {"FINISHED"}
    assert {len(run["points"]["miou/all"]) for key, run in held.items() if key != "sweep"} == {2}


def test_a_journal_that_another_process_goes_on_writing_is_not_abandoned(scribe, uri, tmp_path, spawn):
    """`sync` from a process of its own while the driver lives."""
    *_, cut, _never = scribe.sweep_of_every_kind()
    process = spawn("-c", SYNC, uri, scribe.path)
    assert process.wait(timeout=120) == 0
    assert dump(uri)[cut]["info"][1] == "RUNNING"
    with pytest.raises(ResultsError):
        Journal(scribe.path)


@pytest.mark.parametrize("copied", [False, True])
def test_artifacts_follow_a_storage_folder_that_was_moved(copied, scribe, empty_database, tmp_path):
    """The old one is not written to again, whether it is still there or not."""
    old, new = tmp_path / "old", tmp_path / "new"
    for name in ("digits", "other"):
        (old / name).mkdir(parents=True)
    (old / "mlflow.db").write_bytes(empty_database)
    scribe.created()
    first = scribe.run_trial(0)
    shutil.copy(scribe.path, old / "digits" / "journal.jsonl")
    shutil.copy(scribe.path, old / "other" / "journal.jsonl")
    for name in ("digits", "other"):
        Tracker(f"sqlite:///{old}/mlflow.db", name, old / name / "journal.jsonl").sync_once()
    shutil.copytree(old, new)
    if not copied:
        shutil.rmtree(old)
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*")}
    second = scribe.run_trial(1)
    shutil.copy(scribe.path, new / "digits" / "journal.jsonl")
    moved = [f"sqlite:///{new}/mlflow.db", new / "digits" / "journal.jsonl"]
    subprocess.run([sys.executable, "-c", SYNC, *moved], check=True)  # MLflow remembers places within a process

    client = MlflowClient(f"sqlite:///{new}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    runs = {run.data.tags.get("trial"): run for run in client.search_runs([experiment.experiment_id])}
    for key in (first, second):
        assert (new / "digits" / "artifacts" / runs[key].info.run_id / "artifacts" / "config.yaml").is_file()
        assert [file.path for file in client.list_artifacts(runs[key].info.run_id)] == ["config.yaml"]
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*")} == before
    (left,) = client.search_runs([client.get_experiment_by_name("other").experiment_id], "tags.role != 'sweep'")
    assert left.info.artifact_uri.startswith((old / "other").as_uri()), "it moves when it is looked at itself"


@pytest.mark.parametrize(
    ("uri", "ours"),
    [
        ("sqlite:////data/mlflow.db", True),
        ("postgresql://lab/mlflow", True),
        ("mysql+pymysql://lab/mlflow", True),
        ("https://lab", False),
        ("databricks", False),
    ],
)
def test_the_artifacts_of_a_database_lie_where_the_sweep_does(uri, ours):
    assert is_database(uri) is ours
