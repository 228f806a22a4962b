"""The campaign's own eyes: a difference planted in any place is seen, and one that does not count is not."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from results import Journal
from results.tracking import Tracker
from tests.chaos import sweep as sweep_module
from tests.chaos.campaign import Campaign, Hit, Report
from tests.chaos.comparison import compare, leftovers, read_outcome
from tests.chaos.damage import cut_journal, flip_bit, tear_journal, truncate
from tests.chaos.fault import When
from tests.chaos.ground import Ground
from tests.chaos.kinds import KINDS
from tests.chaos.processes import belonging, end_all
from tests.chaos.sweep import Sweep
from tests.chaos.table import render
from tests.waiting import wait_until

FINAL = {"final/val_miou": 0.1 + 0.2, "final/miou": 0.25}
Record = dict[str, Any]


def records(uid: str) -> list[Record]:
    """A small sweep that ended well: two trials and a reference."""
    found: list[Record] = [{"kind": "created", "sweep": "digits", "uid": uid, "config": {}, "versions": {}}]
    for number, role in enumerate(("joint", "trial", "trial")):
        key, params = f"{uid}{number}", {} if role == "joint" else {"loss.lkd": float(number)}
        tags = {"mode": "overlapped", "loss": "bacs"}
        found.append(
            {"kind": "suggested", "trial": key, "number": number, "role": role, "split": "2-2", "seed": 0,
             "params": params, "config": {}, "tags": tags}
        )  # fmt: skip
        found.append({"kind": "started", "trial": key, "attempt": 1, "host": "here", "pid": 1})
        points = [[name, x, 0.1 * (x + 1), 1e9 + x] for name in ("miou/all", "time/step_seconds") for x in range(2)]
        found.append({"kind": "reported", "trial": key, "step": 2, "epoch": 2, "points": points})
        found.append({"kind": "finished", "trial": key, "final": FINAL, "seconds": 1.0})
    return [*found, {"kind": "ended", "status": "finished"}]


def write(folder: Path, contents: list[Record], start: float) -> Path:
    clock = itertools.count(start)
    with Journal(folder / "journal.jsonl", clock=lambda: float(next(clock))) as journal:
        for record in contents:
            journal.append(**record)
    return folder / "journal.jsonl"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The undisturbed sweep and another of the same settings: own uid, own times, own seconds. Both really tracked."""
    base = tmp_path_factory.mktemp("two")
    contents = records("ffff")
    for record in contents:
        if record["kind"] == "reported":
            record["points"] = [[name, x, value + 7 * name.startswith("time/"), moment + 5]
                                for name, x, value, moment in record["points"]]  # fmt: skip
    for name, lines, start in (("wanted", records("aaaa"), 2e9), ("found", contents, 2.1e9)):
        path = write(base / name, lines, start)
        Tracker(f"sqlite:///{base}/mlflow.db", "digits", path).sync_once()
    for name in ("wanted", "found"):
        shutil.copyfile(base / "mlflow.db", base / name / "mlflow.db")
    return base / "wanted", base / "found"


@pytest.fixture
def found(two: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(two[1], tmp_path / "found")


def seen(two: tuple[Path, Path], found: Path) -> list[str]:
    wanted = read_outcome(two[0] / "journal.jsonl", two[0] / "mlflow.db")
    return compare(wanted, found / "journal.jsonl", found / "mlflow.db")


def test_other_keys_and_other_times_are_no_difference(two, found):
    assert seen(two, found) == []


TRIAL = "(select run_uuid from tags where key = 'trial' and value = 'ffff1')"
PARENT = "(select a.run_uuid from tags a join tags b using (run_uuid) where a.value = 'sweep' and b.value = 'ffff')"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (f"update runs set status = 'RUNNING' where run_uuid = {TRIAL}", "run is RUNNING, undisturbed FINISHED"),
        (f"update runs set status = 'KILLED' where run_uuid = {PARENT}", "own run: is KILLED, undisturbed FINISHED"),
        (f"update runs set lifecycle_stage = 'deleted' where run_uuid = {TRIAL}", "has 0 MLflow runs"),
        (f"update runs set lifecycle_stage = 'deleted' where run_uuid = {PARENT}", "own run: there are 0"),
        (f"update tags set value = 'ffff1' where key = 'trial' and run_uuid != {TRIAL} and value = 'ffff2'", "has 2 "),
        ("update tags set value = 'ffff9' where value = 'ffff1'", "1 MLflow runs belong to no trial"),
        (
            f"insert into metrics select key, value, timestamp + 1, run_uuid, step, is_nan from metrics "
            f"where key = 'miou/all' and step = 1 and run_uuid = {TRIAL}",
            "MLflow has miou/all at 1 2 times",
        ),
        (
            f"insert into metrics select key, value, timestamp + 1, run_uuid, step, is_nan from metrics "
            f"where run_uuid = {PARENT}",
            "own run: MLflow has best/2-2/val_miou at 1 2 times",
        ),
        (
            f"update metrics set value = 0.30000000000000010 where key = 'final/val_miou' and run_uuid = {TRIAL}",
            "MLflow's final/val_miou at 0 is 0.3000000000000001, undisturbed 0.30000000000000004",
        ),
        (f"update metrics set value = 0.5 where run_uuid = {PARENT}", "own run: last best/2-2/val_miou is 0.5"),
        (f"delete from metrics where key = 'miou/all' and run_uuid = {TRIAL}", "miou/all at 1 is 'nothing'"),
        (f"update metrics set step = 9 where key = 'miou/all' and step = 1 and run_uuid = {TRIAL}", "at 9 is 0.2"),
        (f"delete from metrics where key = 'time/step_seconds' and run_uuid = {TRIAL}", "time/step_seconds at 0"),
        (f"update params set value = '3' where key = 'loss.lkd' and run_uuid = {TRIAL}", "parameter loss.lkd is '3'"),
        (f"update tags set value = 'mib' where key = 'loss' and run_uuid = {TRIAL}", "tag loss is 'mib'"),
        ("drop table runs", "cannot be read"),
    ],
)
def test_a_difference_in_mlflow_is_seen(two, found, statement, expected):
    with closing(sqlite3.connect(found / "mlflow.db")) as database:
        database.execute("pragma foreign_keys = off")
        assert database.execute(statement).rowcount != 0, "planted nothing"
        database.commit()
    assert any(expected in text for text in seen(two, found)), seen(two, found)


def _without_trial(lines: list[Record]) -> list[Record]:
    return [line for line in lines if line.get("trial") != "ffff2"]


def _with_another_value(lines: list[Record]) -> list[Record]:
    more = FINAL | {"final/val_miou": math.nextafter(FINAL["final/val_miou"], 1)}
    return [line | {"final": more} if line["kind"] == "finished" else line for line in lines]


def _with_another_point(lines: list[Record]) -> list[Record]:
    point = {"points": [["miou/all", 0, 0.11, 1e9]]}
    return [line | point if line["kind"] == "reported" else line for line in lines]


def _with_another_suggestion(lines: list[Record]) -> list[Record]:
    return [line | {"params": {"loss.lkd": 7.0}} if line.get("params") else line for line in lines]


def _failed(lines: list[Record]) -> list[Record]:
    failure = {"kind": "failed", "trial": "ffff1", "reason": "gone", "traceback": "", "will_retry": False}
    return [failure if (line["kind"], line.get("trial")) == ("finished", "ffff1") else line for line in lines]


@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        (_without_trial, 'trial 2 split 2-2 seed 0 {"loss.lkd": 2.0}: missing'),
        (_with_another_value, "final final/val_miou is 0.3000000000000001, undisturbed 0.30000000000000004"),
        (_with_another_point, "journalled miou/all at 0 is 0.11, undisturbed 0.1"),
        (_with_another_suggestion, '{"loss.lkd": 7.0}: not in the undisturbed sweep'),
        (_failed, "is failed, undisturbed finished"),
    ],
)
def test_a_difference_in_the_journal_is_seen(two, found, alter, expected):
    (found / "journal.jsonl").unlink()
    write(found, alter(records("ffff")), 2.1e9)
    assert any(expected in text for text in seen(two, found)), seen(two, found)


def test_a_journal_or_database_that_is_gone_is_seen(two, found):
    (found / "mlflow.db").unlink()
    assert "cannot be read" in seen(two, found)[0]
    (found / "journal.jsonl").unlink()
    assert "cannot be read" in seen(two, found)[0]


def test_temporary_and_hidden_files_are_seen_and_locks_are_not(tmp_path):
    for name in ("journal.jsonl.lock", "trials/a/lock", "tune/driver-1/.validate_storage_marker", "trials/a/x.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert leftovers(tmp_path) == []
    (tmp_path / "trials/a/.epoch-000.0a.tmp").mkdir()
    (tmp_path / "trials/a/winners.csv.tmp").touch()
    (tmp_path / ".hidden").touch()
    assert [text.rsplit("/", 1)[-1] for text in leftovers(tmp_path)] == [
        "left behind: .hidden",
        ".epoch-000.0a.tmp",
        "winners.csv.tmp",
    ]


@pytest.fixture
def ground(tmp_path: Path) -> Any:
    made = Ground(tmp_path)
    yield made
    made.clear()
    assert not made.folder.exists()


def test_a_process_that_outlives_its_driver_is_seen_and_ended(ground, monkeypatch):
    monkeypatch.setattr(sweep_module, "ORPHAN_SECONDS", 0.5)
    sweep = Sweep(ground, "orphans", [])
    process = subprocess.Popen(["sh", "-c", "sleep 60 & echo"], stdout=subprocess.DEVNULL, start_new_session=True)
    ground.sessions.append(process.pid)
    sweep.drivers.append(sweep_module.Driver(1, process, ground.folder / "log", 0.0))
    assert sweep.has_ended(10)
    sweep.check_orphans()
    assert "there still lived: sleep 60" in sweep.complaints[0]
    assert not belonging([process.pid])


def test_what_carries_the_mark_is_found_and_ended(ground):
    marked = os.environ | {"PLACE": str(ground.folder)}
    process = subprocess.Popen(["sleep", "60"], env=marked, start_new_session=True)
    assert wait_until(
        lambda: [found.pid for found in ground.processes()] == [process.pid], 10
    )  # its exec takes a moment
    end_all([], str(ground.folder))
    assert process.wait(10) < 0
    assert ground.processes() == []


def test_the_plan_is_the_seeds_and_holds_every_kind(ground):
    def keys(seed: int) -> list[str]:
        campaign = Campaign(ground, list(KINDS.values()), 60, seed, lambda text: None)
        skipped = campaign.report.skipped
        found = [fault.key for fault in campaign._waiting]
        assert set(found) | set(skipped) == set(KINDS)
        return found

    assert keys(1) == keys(1) != keys(2)
    assert len(keys(1)) == 60
    assert {kind.when for kind in KINDS.values()} == set(When)


@pytest.mark.parametrize("harm", [truncate, flip_bit])
def test_damage_changes_the_file(tmp_path, harm: Callable[[Path, Random], str]):
    path = tmp_path / "tensors.pt"
    for seed in range(20):
        path.write_bytes(bytes(range(50)))
        harm(path, Random(seed))
        assert path.read_bytes() != bytes(range(50))


@pytest.mark.parametrize("harm", [cut_journal, tear_journal])
def test_a_harmed_journal_loses_its_last_record_at_most(two, ground, harm):
    sweep = Sweep(ground, "found", [])
    shutil.copytree(two[1], sweep.folder)
    for seed in range(10):
        shutil.copyfile(two[1] / "journal.jsonl", sweep.journal)
        before = sweep.records()
        harm(sweep, Random(seed))
        with Journal(sweep.journal) as journal:
            assert journal.repaired_bytes > 0 or harm is cut_journal
        assert sweep.records() == (before[:-1] if harm is cut_journal else before)


def test_a_full_disk_takes_nothing_and_a_freed_one_does(ground):
    if reason := ground.why_no_small_disk():
        pytest.skip(reason)
    disk = ground.small_disk(ground.folder / "disk")
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        (disk.folder / "file").write_bytes(b"0")
    disk.free()
    assert (disk.folder / "file").write_bytes(bytes(1 << 20)) == 1 << 20


def test_the_table_tells_every_difference_and_the_report_is_not_clean():
    hit = Hit(fault="driver-kill", sweep="01-any", driver=1, text="after 3 records", at=0.0, turn=1)
    report = Report(seed=0, hits=[hit], differences={"01-any": ["trial 1: missing"], "02-any": []})
    console = Console(width=160)
    with console.capture() as capture:
        console.print(render(report, list(KINDS.values())))
    assert "01-any: trial 1: missing" in capture.get()
    assert "DIFFERENT: 01-any" in capture.get()
    assert not report.is_clean
    assert Report(seed=0, hits=[hit], differences={"01-any": []}).is_clean
    assert not Report(seed=0, not_hit=["driver-kill"]).is_clean
    assert Report(seed=0, hits=[hit], not_hit=["driver-kill"]).is_clean, "it has struck, if not as often as planned"
