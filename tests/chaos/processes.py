"""Processes as /proc shows them, and the end of those that belong to a campaign."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One living process (zombies are not)."""

    pid: int
    parent: int
    session: int
    command: str
    """Arguments with blanks between them, or the title that the process gave itself."""
    environment: str
    """As it was at the start; empty where a title was written over it."""


def living() -> Iterator[Process]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            command, environment = (
                (path / name).read_bytes().replace(b"\0", b" ").decode(errors="replace")
                for name in ("cmdline", "environ")
            )
        except OSError:  # it has just ended
            continue
        if fields[0] not in "ZX":
            yield Process(int(path.name), int(fields[1]), int(fields[3]), command, environment)


def belonging(sessions: Collection[int], mark: str | None = None) -> list[Process]:
    """Living processes of these sessions, and those that carry a mark in their arguments or environment.

    The session is what nearly all processes of a driver keep: Ray's agents write a title over their environment,
    and workers get groups of their own.
    """
    return [
        process
        for process in living()
        if process.session in sessions
        or (mark is not None and process.pid != os.getpid() and mark in process.command + process.environment)
    ]


def send(pid: int, number: signal.Signals) -> bool:
    """Sends a signal; whether there still was somebody."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def end_all(sessions: Collection[int], mark: str | None = None) -> None:
    """Kills everything that :func:`belonging` finds, until nothing is left."""
    for _ in range(100):
        left = belonging(sessions, mark)
        if not left:
            return
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.05)
