"""A real server behind a proxy that troubles it. In the end MLflow holds what it would have held without trouble."""

import itertools
import random
import sqlite3

import pytest
from tracking_servers import Proxy, dump

from results import ResultsError, Tracker
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(make_server):
    server = make_server()
    server.start()
    return server


@pytest.fixture
def proxy(server):
    proxy = Proxy(server)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setattr("results.tracking.LONGEST_PAUSE_SECONDS", 0.5)


def undisturbed(server, scribe):
    Tracker(server.uri, f"undisturbed {scribe.path}", scribe.path).sync_once()
    return dump(server.uri, f"undisturbed {scribe.path}")


def test_answers_of_every_bad_kind_lose_nothing_and_double_nothing(scribe, server, proxy):
    draw = random.Random(7)
    kinds = [500, "swallow", "drop", 429, "swallow", 503, 0.5]
    coming = itertools.cycle(kinds)
    proxy.trouble = lambda method, path, body: next(coming) if draw.random() < 0.35 else None
    tracker = Tracker(proxy.uri, "troubled", scribe.path)
    tracker.start()
    *_, cut, _never = scribe.sweep_of_every_kind()
    for step in range(1, 9):
        seen = len(proxy.seen)
        scribe.report(cut, step)
        assert wait_until(lambda: len(proxy.seen) > seen, 60)  # noqa: B023 - at once
    scribe.finish(cut)
    scribe.end()
    assert tracker.close(timeout=300), tracker.last_error
    assert {trouble for _, _, trouble in proxy.seen} == {None, *kinds}
    assert dump(server.uri, "troubled") == undisturbed(server, scribe)
    with sqlite3.connect(server.database) as database:
        arrived = database.execute("select run_uuid, key, step from metrics order by rowid").fetchall()
    for run, key in {row[:2] for row in arrived}:
        steps = [step for *where, step in arrived if where == [run, key]]
        assert steps == sorted(steps), "points arrived out of order"


def test_a_silent_server_holds_up_neither_the_journal_nor_the_end(scribe, server, proxy):
    proxy.trouble = lambda method, path, body: "hold"
    tracker = Tracker(proxy.uri, "silent", scribe.path)
    tracker.start()
    scribe.created()
    assert proxy.holding.acquire(timeout=60)  # the tracker's first request waits for its answer ...
    keys = [scribe.run_trial(number) for number in range(20)]  # ... and trials go on
    scribe.end()
    assert not any(method == "POST" for method, _, _ in proxy.seen)
    assert not tracker.close(timeout=0.5)
    assert tracker.last_error
    proxy.release()
    Tracker(proxy.uri, "silent", scribe.path).sync_once(turn_seconds=120)
    held = dump(server.uri, "silent")
    assert held.keys() == {"sweep", *keys}
    assert held == undisturbed(server, scribe)


def test_a_refused_point_and_a_refused_run_stand_in_nobody_s_way(scribe, server, proxy):
    bad, *others = _begun(scribe)
    tracker = Tracker(proxy.uri, "refusing", scribe.path)
    tracker.sync_once()
    run_of_bad = _run_id(server, "refusing", bad)

    def trouble(method, path, body):
        if run_of_bad.encode() in body:
            return 403
        return 400 if b'"odd"' in body else None

    proxy.trouble = trouble
    for key in (bad, *others):
        scribe.report(key, 1, odd=1.0)
        scribe.report(key, 2)
        scribe.finish(key)
    scribe.end()
    for _ in range(2):
        with pytest.raises(ResultsError, match="403"):
            tracker.sync_once()
    held, wanted = dump(server.uri, "refusing"), undisturbed(server, scribe)
    assert held[bad]["info"][1] == "RUNNING"
    assert held["sweep"] == wanted["sweep"]
    for key in others:
        odd = wanted[key]["points"].pop("odd")
        assert len(odd) == 1
        assert held[key] == wanted[key]
    assert len(tracker.refused) == len(others)
    assert all("metric odd at 1" in text and "400" in text for text in tracker.refused)
    proxy.trouble = lambda method, path, body: None
    Tracker(proxy.uri, "refusing", scribe.path).sync_once()
    assert dump(server.uri, "refusing") == undisturbed(server, scribe)


def test_a_run_that_is_made_after_the_client_gave_up_is_not_there_twice(scribe, server, proxy):
    creations = []

    def trouble(method, path, body):
        if path.endswith("runs/create") and b'"trial-000' in body:
            creations.append(path)
            return "hold" if len(creations) == 1 else None
        return None

    proxy.trouble = trouble
    tracker = Tracker(proxy.uri, "late", scribe.path)
    tracker.start()
    scribe.created()
    key = scribe.run_trial(0)
    assert wait_until(lambda: len(creations) == 2, 60)
    assert wait_until(lambda: tracker.last_error is None, 60)
    proxy.release()
    assert wait_until(lambda: len(_ids(server, "late", key)) == 2, 60)
    scribe.end()
    assert tracker.close(timeout=120), tracker.last_error
    assert dump(server.uri, "late") == undisturbed(server, scribe)


def _begun(scribe):
    scribe.created()
    keys = [scribe.suggest(number) for number in range(3)]
    for key in keys:
        scribe.start(key)
    return keys


def _run_id(server, experiment, key):
    (run_id,) = _ids(server, experiment, key)
    return run_id


def _ids(server, experiment, key):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server.uri)
    found = client.search_runs(
        [client.get_experiment_by_name(experiment).experiment_id], f"tags.trial = '{key}'", max_results=10
    )
    return [run.info.run_id for run in found]
