"""A real server that is down at the start, killed in the middle, and comes back."""

import math
import os
import signal
import socket
import time
from collections import Counter

import pytest

from results import ResultsError, SweepState, Tracker

START_SECONDS = 90


class Server:
    """`mlflow server` on a port of its own; `stop` kills it and its worker, as a crash would."""

    def __init__(self, spawn, database):
        self.spawn, self.database = spawn, database
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        self.process = self.spawn(
            "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port, "--workers", 1,
            "--backend-store-uri", f"sqlite:///{self.database}",
            "--artifacts-destination", self.database.parent / "server-artifacts",
            env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                Tracker.check(self.uri)
                return
            except ResultsError:
                time.sleep(0.3)
        pytest.fail("the server did not start")

    def stop(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(spawn, tmp_path, empty_database):
    database = tmp_path / "server" / "mlflow.db"
    database.parent.mkdir()
    database.write_bytes(empty_database)
    server = Server(spawn, database)
    yield server
    server.stop()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@pytest.mark.slow
def test_an_outage_delays_points_and_loses_none(scribe, server):
    tracker = Tracker(server.uri, "digits", scribe.path)
    tracker.start()
    scribe.created()
    scribe.run_trial(0)
    wait_for(lambda: tracker.last_error)
    server.start()
    wait_for(lambda: tracker.last_error is None and tracker.parent_run_id)
    running = scribe.suggest(1)
    scribe.start(running)
    for step in range(1, 21):
        scribe.report(running, step)
        if step == 10:
            server.stop()
            wait_for(lambda: tracker.last_error)
        time.sleep(0.05)
    server.start()
    scribe.finish(running)
    scribe.end()
    assert tracker.close(timeout=60)
    assert_equal_to_journal(scribe, server)
    Tracker(server.uri, "digits", scribe.path).sync_once()
    assert_equal_to_journal(scribe, server)


def assert_equal_to_journal(scribe, server):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    state = SweepState.load(scribe.path)
    children = {run.data.tags["trial"]: run for run in runs if "trial" in run.data.tags}
    assert len(runs) == 1 + len(state.trials)
    for key, trial in state.trials.items():
        stored = Counter(
            (name, point.step, point.value)
            for name in children[key].data.metrics
            for point in client.get_metric_history(children[key].info.run_id, name)
        )
        points = Counter((name, x, value) for (name, x), (value, _) in trial.points.items() if math.isfinite(value))
        finals = Counter((name, 0, value) for name, value in trial.final.items())
        assert stored == points + finals
        assert client.list_artifacts(children[key].info.run_id)[0].path == "config.yaml"
