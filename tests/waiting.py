"""Waiting for what other processes and threads do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(
    found: Callable[[], Found],
    seconds: float,
    pause_seconds: float = 0.05,
    process: subprocess.Popen[str] | None = None,
) -> Found:
    """What ``found`` returns as soon as that is truthy, else what it returned last.

    Args:
        process: fails when this one, which prints into a pipe, ends before.
    """
    deadline = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < deadline:
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(pause_seconds)
    return value
