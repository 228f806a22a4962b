"""A real server that is down at the start, killed in the middle, and comes back."""

import math
import time
from collections import Counter

import pytest

from results import SweepState, Tracker
from tests.waiting import wait_until


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.mark.slow
def test_an_outage_delays_points_and_loses_none(scribe, server):
    tracker = Tracker(server.uri, "digits", scribe.path)
    tracker.start()
    scribe.created()
    scribe.run_trial(0)
    assert wait_until(lambda: tracker.last_error, 60)
    server.start()
    assert wait_until(lambda: tracker.last_error is None and tracker.parent_run_id, 60)
    running = scribe.suggest(1)
    scribe.start(running)
    for step in range(1, 21):
        scribe.report(running, step)
        if step == 10:
            server.stop()
            assert wait_until(lambda: tracker.last_error, 60)
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
