"""Faults of processes: killed, told to end, or stopped for a while."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from random import Random

from tests.chaos.fault import Act, Fault, Missed, Place, When
from tests.chaos.processes import Process, belonging, send
from tests.chaos.sweep import Sweep

DRAIN_SECONDS = 30.0
"""What is promised after SIGTERM, SIGINT and SIGHUP."""
GIVE_UP_SECONDS = 90.0
"""How long a driver whose Ray is gone may take to go on or to end."""


def kill_driver(sweep: Sweep, random: Random) -> str:
    os.kill(sweep.driver.process.pid, signal.SIGKILL)
    sweep.has_ended(20)
    return f"after {sweep.n_lines()} records"


def told_to_end(number: signal.Signals, *, everyone: bool) -> Act:
    """A signal to the driver, or to all its processes as a terminal and SLURM send it."""

    def act(sweep: Sweep, random: Random) -> str:
        lines, started = sweep.n_lines(), time.monotonic()
        (os.killpg if everyone else os.kill)(sweep.driver.process.pid, number)
        if not sweep.has_ended(DRAIN_SECONDS):
            sweep.complain(f"had not ended {DRAIN_SECONDS:.0f} s after {number.name}; it said: {sweep.last_words()}")
            os.kill(sweep.driver.process.pid, signal.SIGKILL)
            sweep.has_ended(20)
        code = sweep.driver.process.returncode
        return f"after {lines} records; ended with {code} in {time.monotonic() - started:.0f} s"

    return act


def kill_worker(sweep: Sweep, random: Random) -> str:
    victim = _chosen(sweep, random, sweep.workers)
    send(victim.pid, signal.SIGKILL)
    return f"of {len(sweep.unfinished())} unfinished trials"


def kill_rank(sweep: Sweep, random: Random) -> str:
    victim = _chosen(sweep, random, lambda: _ranks(sweep))
    send(victim.pid, signal.SIGKILL)
    return "the rank that is not the worker itself"


def kill_of_ray(name: str) -> Act:
    """The end of a daemon of the driver's Ray, which the driver must notice."""

    def act(sweep: Sweep, random: Random) -> str:
        victim = _chosen(sweep, random, lambda: _children(sweep, name))
        started, lines = time.monotonic(), sweep.n_lines()
        send(victim.pid, signal.SIGKILL)
        while time.monotonic() < started + GIVE_UP_SECONDS:
            if sweep.has_ended(0.2):
                code = sweep.driver.process.returncode
                return f"the driver ended with {code} after {time.monotonic() - started:.0f} s"
            if sweep.n_lines() > lines + 1 and _children(sweep, name):
                return f"the driver went on after {time.monotonic() - started:.0f} s"
        sweep.complain(f"did nothing for {GIVE_UP_SECONDS:.0f} s after its {name} was killed")
        send(sweep.driver.process.pid, signal.SIGKILL)
        sweep.has_ended(20)
        return "the driver did not notice and was killed"

    return act


def pause_driver(sweep: Sweep, random: Random) -> str:
    return _pause(sweep.driver.process.pid, random)


def pause_worker(sweep: Sweep, random: Random) -> str:
    return _pause(_chosen(sweep, random, sweep.workers).pid, random)


def _pause(pid: int, random: Random) -> str:
    seconds = random.uniform(1.0, 6.0)
    send(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        send(pid, signal.SIGCONT)
    return f"for {seconds:.1f} s"


def _chosen(sweep: Sweep, random: Random, candidates: Callable[[], list[Process]]) -> Process:
    """One of them, as soon as there is one."""
    found: list[Process] = []

    def look() -> bool:
        found[:] = candidates()
        return bool(found)

    if not sweep.wait_for(look):
        raise Missed
    return random.choice(sorted(found, key=lambda process: process.pid))


def _children(sweep: Sweep, name: str) -> list[Process]:
    driver = sweep.driver.process.pid
    return [p for p in belonging([driver]) if p.parent == driver and name in p.command.split(" ")[0]]


def _ranks(sweep: Sweep) -> list[Process]:
    workers = {worker.pid for worker in sweep.workers()}
    return [p for p in belonging([sweep.driver.process.pid]) if p.parent in workers and "bacs.rank" in p.command]


FAULTS = (
    Fault("driver-kill", When.STOP, kill_driver),
    Fault("driver-term", When.STOP, told_to_end(signal.SIGTERM, everyone=False)),
    Fault("driver-int", When.STOP, told_to_end(signal.SIGINT, everyone=False)),
    Fault("driver-hup", When.STOP, told_to_end(signal.SIGHUP, everyone=False)),
    Fault("group-term", When.STOP, told_to_end(signal.SIGTERM, everyone=True)),
    Fault("group-int", When.STOP, told_to_end(signal.SIGINT, everyone=True)),
    Fault("group-hup", When.STOP, told_to_end(signal.SIGHUP, everyone=True)),
    Fault("worker-kill", When.RUN, kill_worker),
    Fault("rank-kill", When.RUN, kill_rank, Place.RANKS),
    Fault("raylet-kill", When.RUN, kill_of_ray("raylet")),
    Fault("gcs-kill", When.RUN, kill_of_ray("gcs_server")),
    Fault("driver-pause", When.RUN, pause_driver),
    Fault("worker-pause", When.RUN, pause_worker),
)
