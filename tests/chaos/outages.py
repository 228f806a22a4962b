"""Faults of what a sweep shares with others: its tracking database or server, its disk, its lock."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from random import Random

from tests.chaos.fault import Fault, Missed, Place, When
from tests.chaos.sweep import Driver, Sweep
from tests.waiting import wait_until

COMMAND_SECONDS = 120.0
"""Within which a short command must end on a busy machine."""
REFUSED = 2
"""Exit code of a wrong request."""


def lock_database(sweep: Sweep, random: Random) -> str:
    """Another process in the middle of a long transaction."""
    if not sweep.wait_for(sweep.database.exists):
        raise Missed
    seconds = random.uniform(2.0, 8.0)
    with closing(sqlite3.connect(sweep.database, timeout=20, isolation_level=None)) as other:
        other.execute("begin exclusive")
        time.sleep(seconds)
        other.execute("rollback")
    return f"for {seconds:.1f} s"


def delete_database(sweep: Sweep, random: Random) -> str:
    """`sync` or the next driver must build it again."""
    if not sweep.database.exists():
        raise Missed
    sweep.delete_database()
    return _synchronised(sweep) if random.random() < 0.5 else "rebuilt by the next driver"


def restore_database(sweep: Sweep, random: Random) -> str:
    """Somebody brings back last night's copy."""
    if not sweep.copies:
        raise Missed
    copy = random.choice(sweep.copies)
    sweep.restore_database(copy)
    return f"copy {sweep.copies.index(copy) + 1} of {len(sweep.copies)}"


def restart_server(sweep: Sweep, random: Random) -> str:
    assert sweep.server is not None
    seconds = random.uniform(0.0, 6.0)
    sweep.server.kill()
    time.sleep(seconds)
    sweep.ground.sessions.append(sweep.server.start())
    return f"down for {seconds:.1f} s and its start"


def fill_disk(sweep: Sweep, random: Random) -> str:
    assert sweep.disk is not None
    seconds = random.uniform(2.0, 8.0)
    sweep.disk.fill()
    try:
        time.sleep(seconds)
    finally:
        sweep.disk.free()
    return f"for {seconds:.1f} s"


def second_driver(sweep: Sweep, random: Random) -> str:
    """While one works."""
    if not sweep.wait_for(lambda: sweep.n_lines() > 0):
        raise Missed
    second = sweep.command("resume", sweep.name)
    wait_until(lambda: second.process.poll() is not None or not sweep.runs, COMMAND_SECONDS)
    if not sweep.runs and sweep.has_ended(0) and second.process.poll() != REFUSED:
        sweep.drivers.append(second)  # the first was over, so the second rightly took its place
        raise Missed
    return _refused(sweep, second)


def two_drivers(sweep: Sweep, random: Random) -> str:
    """Both started at the same moment: one works, the other is refused."""
    one, other = sweep.start(), sweep.start()
    if not wait_until(lambda: _loser(one, other), COMMAND_SECONDS):
        sweep.complaints.append(f"drivers {one.number} and {other.number}: neither of the two was refused")
        other.process.kill()
        other.process.wait()
    loser = _loser(one, other) or other
    sweep.drivers.remove(loser)
    return _refused(sweep, loser)


def _loser(one: Driver, other: Driver) -> Driver | None:
    return next((driver for driver in (other, one) if driver.process.poll() == REFUSED), None)


def _refused(sweep: Sweep, second: Driver) -> str:
    if not wait_until(lambda: second.process.poll() is not None, COMMAND_SECONDS):
        second.process.kill()
    code = second.process.wait()
    if code != REFUSED or str(sweep.driver.process.pid) not in second.output:
        said = " ".join(second.output.split())[-300:]
        sweep.complaints.append(f"a second driver was not refused naming the first: exit code {code}, {said}")
    return f"refused with {code}"


def _synchronised(sweep: Sweep) -> str:
    command = sweep.command("sync", sweep.name)
    code = command.process.wait(COMMAND_SECONDS)
    if code != 0:
        sweep.complaints.append(f"sync ended with {code}: {' '.join(command.output.split())[-300:]}")
    return "rebuilt by sync"


FAULTS = (
    Fault("database-locked", When.RUN, lock_database, Place.DATABASE),
    Fault("database-deleted", When.BETWEEN, delete_database, Place.DATABASE),
    Fault("database-restored", When.BETWEEN, restore_database, Place.DATABASE),
    Fault("server-restart", When.RUN, restart_server, Place.SERVER),
    Fault("disk-full", When.RUN, fill_disk, Place.DISK),
    Fault("second-driver", When.RUN, second_driver),
    Fault("two-drivers", When.START, two_drivers),
)
