"""Against a real MLflow database; `test_tracking_server` does the same against a real server."""

import json
import time
from collections import Counter

import pytest
import yaml

from results import ResultsError, Tracker
from results.tracking import POLL_SECONDS


@pytest.fixture
def runs(uri):
    """What MLflow holds: (parent, {trial key: child}), asserting one of each."""
    from mlflow import MlflowClient

    def read():
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("digits")
        found = client.search_runs([experiment.experiment_id], max_results=1000)
        (parent,) = (run for run in found if run.data.tags["role"] == "sweep")
        children = {run.data.tags["trial"]: run for run in found if "trial" in run.data.tags}
        assert len(found) == 1 + len(children), "a run was duplicated"
        return client, parent, children

    return read


def history(client, run):
    """Every stored point of a run, repetitions included."""
    return Counter(
        (point.key, point.step, point.value, point.timestamp)
        for metric in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, metric)
    )


def test_one_parent_one_child_a_trial_with_everything_in_its_place(scribe, uri, runs, tmp_path):
    done, joint, pruned, failed, cut, _never = scribe.sweep_of_every_kind()
    Tracker(uri, "digits", scribe.path).sync_once()
    _, parent, children = runs()
    assert (parent.info.status, children[cut].info.status) == ("RUNNING", "RUNNING")
    scribe.end()
    tracker = Tracker(uri, "digits", scribe.path)
    tracker.sync_once()
    _client, parent, children = runs()
    assert tracker.parent_run_id == parent.info.run_id
    statuses = {key: run.info.status for key, run in children.items()}
    assert statuses == {
        done: "FINISHED",
        joint: "FINISHED",
        pruned: "FINISHED",
        failed: "FAILED",
        cut: "KILLED",
    }
    assert children[pruned].data.tags["stopped"] == "rung 1"
    assert children[failed].data.tags["failed"] == "diverged"
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "digits")
    assert parent.data.metrics == {"best/2-2/val_miou": 0.5}
    child = children[done]
    assert child.info.run_name == "trial-000 2-2"
    assert children[joint].info.run_name == "joint 2-2 seed 0"
    assert child.data.params == {"loss.lkd": "0.25", "loss.buffer_size": "100", "training.split": "2-2"}
    expected = {
        "sweep": "digits", "sweep_uid": "0123456789abcdef", "trial": done, "role": "trial", "split": "2-2",
        "mode": "overlapped", "seed": "0", "loss": "bacs", "stage.0": "aa",
        "mlflow.parentRunId": parent.info.run_id,
    }  # fmt: skip
    assert expected.items() <= child.data.tags.items()
    (config,) = (tmp_path / "sweep" / "artifacts").glob(f"{child.info.run_id}/artifacts/config.yaml")
    assert yaml.safe_load(config.read_text())["training"] == {"split": "2-2", "seed": 0}


def test_points_equal_the_journal_without_those_that_are_not_numbers(scribe, uri, runs):
    scribe.created()
    key = scribe.run_trial(0)
    Tracker(uri, "digits", scribe.path).sync_once()
    client, _, children = runs()
    trial_records = [json.loads(line) for line in scribe.path.read_text().splitlines()]
    expected = Counter(
        (metric, x, value, round(moment * 1000))
        for record in trial_records
        for metric, x, value, moment in record.get("points", [])
        if value != "NaN"
    )
    stored = history(client, children[key])
    finals = Counter({point: count for point, count in stored.items() if point[0].startswith("final/")})
    assert stored - finals == expected
    assert len(finals) == 6
    assert {(x, moment) for _, x, _, moment in finals} == {(0, max(point[3] for point in expected))}


def test_replays_and_restarted_trackers_change_nothing(scribe, uri, runs):
    done, *_ = scribe.sweep_of_every_kind()
    first = Tracker(uri, "digits", scribe.path)
    first.sync_once()
    Tracker(uri, "digits", scribe.path).sync_once()  # a replay in the middle
    scribe.end()
    first.sync_once()
    assert first.sync_once() == 0
    client, parent, children = runs()
    before = {key: (run.info.to_proto(), history(client, run)) for key, run in children.items()}
    for _ in range(2):
        Tracker(uri, "digits", scribe.path).sync_once()
    client, again, children = runs()
    assert {key: (run.info.to_proto(), history(client, run)) for key, run in children.items()} == before
    assert (again.info.to_proto(), history(client, again)) == (
        parent.info.to_proto(),
        history(client, parent),
    )
    assert max(before[done][1].values()) == 1


def test_a_resumed_sweep_reopens_its_run_and_ends_it_again(scribe, uri, runs):
    *_, cut, _never = scribe.sweep_of_every_kind()
    scribe.end("interrupted")
    Tracker(uri, "digits", scribe.path).sync_once()
    _, parent, children = runs()
    assert (parent.info.status, children[cut].info.status) == ("KILLED", "KILLED")
    tracker = Tracker(uri, "digits", scribe.path)
    scribe.journal.append("resumed", driver={"pid": 2})
    tracker.sync_once()
    assert runs()[1].info.status == "RUNNING"
    assert runs()[2][cut].info.status == "SCHEDULED"
    scribe.start(cut, attempt=2)
    scribe.finish(cut, val=0.8)
    scribe.end()
    tracker.sync_once()
    _, parent, children = runs()
    assert (parent.info.status, children[cut].info.status) == ("FINISHED", "FINISHED")
    assert parent.data.metrics == {"best/2-2/val_miou": 0.8}
    assert parent.info.end_time == round(scribe.now * 1000)


def test_a_failure_overcome_leaves_no_tag(scribe, uri, runs):
    scribe.created()
    key = scribe.suggest(0)
    scribe.start(key)
    scribe.journal.append("failed", trial=key, reason="node lost", traceback="", will_retry=False)
    Tracker(uri, "digits", scribe.path).sync_once()
    scribe.start(key, attempt=2)
    scribe.finish(key)
    Tracker(uri, "digits", scribe.path).sync_once()
    child = runs()[2][key]
    assert child.info.status == "FINISHED"
    assert "failed" not in child.data.tags
    assert child.data.tags["attempts"] == "2"


def test_more_points_than_fit_into_one_call(scribe, uri, runs):
    scribe.created()
    key = scribe.suggest(0)
    scribe.start(key)
    points = [[f"class_iou/{number}", 1, number / 3000, scribe.now] for number in range(2500)]
    scribe.journal.append("reported", trial=key, step=1, epoch=1, points=points)
    assert Tracker(uri, "digits", scribe.path).sync_once() == 2500
    assert len(runs()[2][key].data.metrics) == 2500


def test_a_run_deleted_by_hand_is_written_anew(scribe, uri, runs):
    scribe.created()
    deleted, other = scribe.suggest(0), scribe.suggest(1)
    tracker = Tracker(uri, "digits", scribe.path)
    for key in (deleted, other):
        scribe.start(key)
        scribe.report(key, 1)
    tracker.sync_once()
    client, _, children = runs()
    client.delete_run(children[deleted].info.run_id)
    for key in (deleted, other):
        scribe.report(key, 2)
    with pytest.raises(ResultsError):
        tracker.sync_once()
    assert "active" in tracker.last_error
    client, _, children = runs()
    assert len(history(client, children[other])) == 5  # one refused trial does not hold up the others
    tracker.sync_once()
    assert tracker.last_error is None
    client, _, children = runs()
    assert history(client, children[deleted]).total() == 5


def test_the_thread_follows_the_journal_and_drains_it_at_the_end(scribe, uri, runs, tmp_path):
    tracker = Tracker(uri, "digits", scribe.path)
    tracker.start()
    scribe.created()
    keys = [scribe.run_trial(number) for number in range(3)]
    time.sleep(2 * POLL_SECONDS)
    keys.append(scribe.run_trial(3))
    scribe.end()
    assert tracker.close(timeout=30)
    assert sorted(runs()[2]) == sorted(keys)
    assert runs()[1].info.status == "FINISHED"
