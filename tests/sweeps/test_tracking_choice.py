"""The choice when the tracking server is away, and secrets in its address, through the real command line."""

from __future__ import annotations

import json
import os
import signal
import sqlite3

import pytest

from bacs.errors import RequestError
from results.state import SweepState
from sweeps.checks import check_request
from sweeps.settings import compose_preset
from tests.sweeps.conftest import TINY_SWEEP, CommandLine
from tests.waiting import wait_until

NOBODY = "http://127.0.0.1:9"
QUICK = [*TINY_SWEEP, "search.splits=[5-5]", "search.trials=1", "search.references=[]"]


def request(storage, *overrides, **launch):
    return check_request(compose_preset("digits", list(overrides), {"storage": str(storage), **launch}))


def test_a_server_that_does_not_answer_is_refused_unless_it_is_optional(tmp_path):
    with pytest.raises(RequestError) as caught:
        request(tmp_path, tracking_uri=NOBODY)
    (fault,) = caught.value.faults
    assert fault.where == "sweep.tracking_uri"
    assert NOBODY in fault.problem
    assert "--tracking-optional" in fault.remedy
    for sweep in (
        request(tmp_path, tracking_uri=NOBODY, tracking_optional=True),
        request(tmp_path, "sweep.tracking_optional=true", tracking_uri=NOBODY),
    ):
        assert sweep.resolved["sweep"]["tracking_optional"] is True


@pytest.mark.parametrize("uri", ["./mlruns", "http://ann:s3cret@127.0.0.1:9"])
def test_what_can_never_be_used_is_refused_even_if_it_is_optional(tmp_path, uri):
    for overrides, launch in (([], {"tracking_uri": uri}), ([f"sweep.tracking_uri='{uri}'"], {})):
        with pytest.raises(RequestError) as caught:
            request(tmp_path, *overrides, tracking_optional=True, **launch)
        assert [fault.where for fault in caught.value.faults] == ["sweep.tracking_uri"]
        assert "s3cret" not in str(caught.value)


def test_a_password_in_the_address_reaches_neither_output_nor_storage(sweeps: CommandLine):
    sweeps.environment["MLFLOW_TRACKING_URI"] = "http://ann:s3cret@127.0.0.1:9"
    code, output = sweeps.run("run", "digits", *QUICK, "--tracking-optional")
    assert code == 2, output
    assert "http://ann:***@127.0.0.1:9" in output
    assert "MLFLOW_TRACKING_PASSWORD" in output
    assert "s3cret" not in output
    assert not list(sweeps.storage.rglob("journal.jsonl"))


def statuses(database) -> dict[str, str]:
    """By trial key; the sweep's own run under ``sweep``."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "select coalesce(t.value, 'sweep'), r.status from runs r left join tags t "
            "on t.run_uuid = r.run_uuid and t.key = 'trial' where r.lifecycle_stage = 'active'"
        ).fetchall()
    assert len(dict(rows)) == len(rows), "a run was duplicated"
    return dict(rows)


@pytest.mark.slow
def test_a_sweep_without_its_server_is_synchronised_later(sweeps: CommandLine):
    code, output = sweeps.run(
        "run", "digits", "--name", "alone", *QUICK, "--tracking-uri", NOBODY, "--tracking-optional",
        timeout=480,
    )  # fmt: skip
    assert code == 0, output
    assert output.count("going on without it") == 1
    assert "python -m sweeps sync alone" in output
    state = SweepState.load(sweeps.journal("alone"))
    assert state.config["sweep"]["tracking_optional"] is True
    code, output = sweeps.look("sync", "alone")
    assert code == 2, "the server it was started with is still away"
    assert NOBODY in output
    later = sweeps.storage / "later.db"
    for _ in range(2):
        code, output = sweeps.look("sync", "alone", "--tracking-uri", f"sqlite:///{later}")
        assert code == 0, output
        assert statuses(later) == dict.fromkeys(["sweep", *state.trials], "FINISHED")


@pytest.mark.slow
def test_runs_of_a_killed_driver_are_closed_by_sync_and_reopened_by_resume(sweeps: CommandLine):
    process = sweeps.start("run", "digits", "--name", "killed", *QUICK)
    database = sweeps.storage / "mlflow.db"
    assert wait_until(lambda: database.exists() and _running_trials(database), 480, process=process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    for _ in range(2):
        code, output = sweeps.look("sync", "killed")
        assert code == 0, output
        found = statuses(database)
        assert found["sweep"] == "KILLED"
        assert "KILLED" in {found[key] for key in found if key != "sweep"}
        assert "RUNNING" not in found.values()
    code, output = sweeps.run("resume", "killed", timeout=480)
    assert code == 0, output
    state = SweepState.load(sweeps.journal("killed"))
    assert statuses(database) == dict.fromkeys(["sweep", *state.trials], "FINISHED")
    code, output = sweeps.look("status", "killed", "--json")
    assert json.loads(output)["counts"]["finished"] == len(state.trials)


def _running_trials(database) -> list[str]:
    try:
        return [key for key, status in statuses(database).items() if status == "RUNNING" and key != "sweep"]
    except sqlite3.OperationalError:  # tables are being made
        return []
