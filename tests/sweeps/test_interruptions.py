"""Real drivers that are told to end, lose their Ray, lose a rank, or find another driver at work."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from results.state import SweepState
from sweeps.guard import EXIT_SECONDS
from tests.sweeps.conftest import TINY_SWEEP, CommandLine
from tests.sweeps.test_sweep import assert_tracked_completely, tracked
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SWEEP = [*TINY_SWEEP, "search.splits=[5-5]", "search.references=[]"]
ENDLESS = [*TINY_SWEEP, "training.iterations_per_epoch=1000000", "search.splits=[5-5]", "search.references=[]"]


def records(line: CommandLine, name: str) -> list[dict]:
    return [json.loads(text) for text in line.journal(name).read_text().splitlines()]


def children(pid: int) -> dict[int, str]:
    """Living children of a process, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            if int(parent) == pid and state != "Z":
                found[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue
    return found


def end(process: subprocess.Popen[str], *signals: int) -> tuple[float, str]:
    """Sends signals, one a second; returns the seconds to the exit, and the output."""
    started = time.monotonic()
    for number in signals:
        os.kill(process.pid, number)
        time.sleep(1)
    output, _ = process.communicate(timeout=120)
    return time.monotonic() - started, output


def assert_interrupted(line: CommandLine, name: str, process: subprocess.Popen[str], output: str) -> None:
    assert process.returncode == 1, output
    assert f"python -m sweeps resume {name}" in output
    assert "Traceback" not in output
    last = records(line, name)[-1]
    assert (last["kind"], last["status"]) == ("ended", "interrupted")
    assert not [record for record in records(line, name) if record["kind"] == "failed" and record["charged"]]


def test_signals_at_every_phase_drain_in_time_and_the_sweep_goes_on(sweeps):
    arguments = ["run", "digits", "--name", "told", *SWEEP]
    phases = [
        ("created", [signal.SIGTERM]),  # Ray starts
        ("resumed", [signal.SIGINT]),
        ("started", [signal.SIGHUP]),
        ("reported", [signal.SIGTERM, signal.SIGTERM]),  # once more while it drains
    ]
    for kind, signals in phases:
        process = sweeps.start(*arguments)
        sweeps.wait_for_record("told", kind, process)
        seconds, output = end(process, *signals)
        assert seconds < EXIT_SECONDS
        assert_interrupted(sweeps, "told", process, output)
        assert not [run for run in tracked(sweeps.storage).values() if run["status"] == "RUNNING"]
        arguments = ["resume", "told"]
    code, output = sweeps.run("resume", "told")
    assert code == 0, output
    assert_tracked_completely(sweeps, "told")


def test_a_closed_terminal_ends_the_sweep_in_order(sweeps):
    """The kernel sends SIGHUP to all that runs in the foreground, and what the driver prints goes nowhere."""
    ours, theirs = os.openpty()
    process = sweeps.start("run", "digits", "--name", "hung", *SWEEP, "search.trials=1", terminal=theirs)
    os.close(theirs)
    closed = threading.Event()
    reader = threading.Thread(target=_show_until, args=(closed, ours))
    reader.start()
    try:
        sweeps.wait_for_record("hung", "started", process)
    finally:
        closed.set()
        reader.join()
        os.close(ours)
    started = time.monotonic()
    process.wait(timeout=60)
    assert time.monotonic() - started < EXIT_SECONDS
    assert process.returncode == 1
    last = records(sweeps, "hung")[-1]
    assert (last["kind"], last["status"]) == ("ended", "interrupted")
    assert not [record for record in records(sweeps, "hung") if record["kind"] == "failed"]


def _show_until(closed: threading.Event, terminal: int) -> None:
    while not closed.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 4096)


def test_an_epoch_that_does_not_end_is_left_and_a_second_interrupt_waits_for_nothing(sweeps):
    process = sweeps.start("run", "digits", "--name", "endless", *ENDLESS)
    sweeps.wait_for_record("endless", "started", process)
    seconds, output = end(process, signal.SIGTERM)
    assert seconds < EXIT_SECONDS
    assert_interrupted(sweeps, "endless", process, output)

    process = sweeps.start("resume", "endless")
    sweeps.wait_for_record("endless", "started", process)
    seconds, output = end(process, signal.SIGINT, signal.SIGINT)
    assert seconds < 10
    assert process.returncode == 1
    assert "interrupted again" in output


def test_a_driver_whose_ray_was_killed_ends_and_says_how_to_go_on(sweeps):
    """Its raylet here; its control store and both at random moments in `tests.chaos`."""
    process = sweeps.start("run", "digits", "--name", "rayless", *SWEEP, "search.trials=1")
    sweeps.wait_for_record("rayless", "started", process)
    (pid,) = [pid for pid, command in children(process.pid).items() if Path(command.split("\0")[0]).name == "raylet"]
    os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=90)
    assert_interrupted(sweeps, "rayless", process, output)
    assert wait_until(lambda: not sweeps.processes(), 30, 0.5)
    code, output = sweeps.run("resume", "rayless")
    assert code == 0, output
    assert_tracked_completely(sweeps, "rayless")


def test_a_killed_rank_costs_one_attempt(sweeps):
    ranks = ["training.n_gpus=2", "resources.cpus_per_trial=2", "search.trials=1"]
    process = sweeps.start("run", "digits", "--name", "ranks", *SWEEP, *ranks)
    sweeps.wait_for_record("ranks", "reported", process)
    worker = next(record["pid"] for record in records(sweeps, "ranks") if record["kind"] == "started")
    (rank,) = [pid for pid, command in children(worker).items() if "bacs.rank" in command]
    os.kill(rank, signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    (trial,) = SweepState.load(sweeps.journal("ranks")).trials.values()
    assert (trial.status, trial.attempts) == ("finished", 2)
    assert (trial.config["training"]["n_gpus"], trial.config["training"]["threads"]) == (2, 1)
    assert_tracked_completely(sweeps, "ranks")


def test_a_second_driver_is_refused_and_a_dead_one_replaced(sweeps):
    first = sweeps.start("run", "digits", "--name", "busy", *SWEEP)
    sweeps.wait_for_record("busy", "started", first)
    worker = next(record["pid"] for record in records(sweeps, "busy") if record["kind"] == "started")
    os.kill(worker, signal.SIGSTOP)  # the sweep cannot end by itself
    watcher = sweeps.start("status", "busy", "--watch")
    for number in (signal.SIGCONT, signal.SIGSTOP):
        os.kill(first.pid, number)
        before = sweeps.journal("busy").read_bytes()
        code, output = sweeps.run("resume", "busy", "search.trials=3")
        assert code == 2, output
        assert f"is held by process {first.pid} on {socket.gethostname()}, a writer for" in output
        assert sweeps.journal("busy").read_bytes().startswith(before)
    os.kill(worker, signal.SIGCONT)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    output, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, output
    assert "nobody runs this sweep" in output
    code, output = sweeps.run("resume", "busy", "search.trials=3")
    assert code == 0, output
    state = SweepState.load(sweeps.journal("busy"))
    assert [list(changes) for changes in state.edits] == [["search.trials"]]
    assert len(state.trials) == 3
    assert_tracked_completely(sweeps, "busy")


def test_a_sweep_goes_on_where_its_storage_was_moved_to(sweeps, tmp_path):
    process = sweeps.start("run", "digits", "--name", "moved", *SWEEP)
    sweeps.wait_for_record("moved", "reported", process)
    _, output = end(process, signal.SIGTERM)
    assert_interrupted(sweeps, "moved", process, output)
    old = sweeps.storage
    sweeps.storage = tmp_path / "mounted" / "elsewhere"
    sweeps.storage.parent.mkdir()
    old.rename(sweeps.storage)

    code, output = sweeps.run("resume", "moved", "search.seeds=[42,3]")
    assert code == 0, output
    assert not (old / "moved" / "journal.jsonl").exists()
    begun = [record for record in records(sweeps, "moved") if record["kind"] == "started"]
    assert all(not record["notes"] for record in begun), "every checkpoint was accepted"
    state = SweepState.load(sweeps.journal("moved"))
    assert {(t.number, t.seed, t.status) for t in state.trials.values()} == {
        (number, seed, "finished") for number in (0, 1) for seed in (42, 3)
    }
    assert_tracked_completely(sweeps, "moved")
    code, output = sweeps.look("status", "moved")
    assert code == 0, output
    assert "edited sweep.storage: was" in output
    code, output = sweeps.look("resume", "moved", "dataset.canvas=40")
    assert code == 2
    assert "dataset.canvas: was 32, now 40" in output
