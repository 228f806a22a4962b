"""Waits for storage that refuses writes for a while: a full disk, a server that restarts, a quota that is raised."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE_SECONDS = 600.0
"""How long a write is tried again before the work is given up; well below the time-out of ranks for each other."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0

REFUSALS = frozenset(
    {
        errno.EIO,
        errno.ENOSPC,
        errno.EROFS,
        errno.EDQUOT,
        errno.EFBIG,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
    }
)
"""Errors that go away without anyone touching this process. Any other, such as a missing permission, is raised."""

Result = TypeVar("Result")


class StorageRefusedError(RuntimeError):
    """Storage refused writes for longer than `PATIENCE_SECONDS`; what was not written is not lost, but not saved."""


def patiently(action: Callable[[], Result], what: str, folder: Path, notice: Callable[[str], None]) -> Result:
    """The result of ``action``, which is tried again, with growing pauses, while storage refuses it.

    Args:
        action: writes something, whole or not at all; must be repeatable.
        what: is written, for messages: "a checkpoint".
        folder: that is written to.
        notice: is told when the waiting begins and when it is over.

    Raises:
        StorageRefusedError: storage refused for `PATIENCE_SECONDS`.
        OSError: any other failure of ``action``, at once.
    """
    since, pause = None, FIRST_PAUSE_SECONDS
    while True:
        try:
            result = action()
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            if since is None:
                since = time.monotonic()
                notice(f"waiting to write {what}: {refusal(folder, error)}")
            left = since + PATIENCE_SECONDS - time.monotonic()
            if left <= 0:
                raise StorageRefusedError(
                    f"gave up writing {what} after {PATIENCE_SECONDS:.0f} s: {refusal(folder, error)}; "
                    "free or repair that storage, then `resume`: the work goes on from the last checkpoint"
                ) from error
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        else:
            if since is not None:
                notice(f"wrote {what} after waiting {time.monotonic() - since:.0f} s for {folder}")
            return result


def refusal(folder: Path, error: OSError) -> str:
    """What is wrong with storage: the folder, the error, the space that is left."""
    return f"{folder} refuses writes ({error.strerror or error}), {_free_space(folder)}"


def _free_space(folder: Path) -> str:
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    try:
        free, inodes = shutil.disk_usage(there).free, os.statvfs(there).f_favail
    except OSError:
        return "free space unknown"
    return f"{free / 2**20:.0f} MiB and {inodes} inodes free"
