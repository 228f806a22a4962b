"""The lock that lets one process at a time write a journal.

``flock`` on ``<journal>.lock``: the kernel drops it when the holder dies, however it dies, so a stale lock
cannot exist and the file never has to be deleted. It holds host, pid and start time of the holder, for the
message a second writer gets. That pid is never probed, since it says nothing about another host: the kernel,
and over NFS its server, alone know who holds the lock. A holder that was stopped (SIGSTOP) still holds it.
The lock is not inherited by programs the holder starts; it *is* shared with children made by a bare
``os.fork``, which must close the journal or exit.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from results.errors import ResultsError

ASK_SECONDS = 0.1
"""Between two attempts of one that waits."""
_ATTEMPTS, _PAUSE_SECONDS = 5, 0.02


class WriterLock:
    """Taken by the constructor, given back by `release` or the death of the process."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            ResultsError: another process holds it, or the file system cannot lock.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ResultsError(
                f"cannot open {path}: {error.strerror}", "choose a folder that you may write to"
            ) from error
        try:
            _lock(self._fd)
        except OSError as error:
            holder = _read_holder(self._fd)
            os.close(self._fd)
            raise _refusal(path, error, holder) from error
        try:
            self._write_holder()
        except OSError as error:  # a full disk
            os.close(self._fd)
            raise ResultsError(f"cannot write {path}: {error.strerror}", "free or repair that storage") from error

    @classmethod
    def wait(cls, path: Path, seconds: float) -> WriterLock:
        """Take the lock as soon as its holder gives it back.

        Raises:
            ResultsError: as the constructor; for a holder only after so many seconds, with a ``BlockingIOError`` as its
                cause.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                return cls(path)
            except ResultsError as error:
                if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() > deadline:
                    raise
                time.sleep(ASK_SECONDS)

    def release(self) -> None:
        """Give the lock back. Twice is once."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # storage may refuse; the lock goes with the file all the same
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def _write_holder(self) -> None:
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(holder).encode(), 0)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock at ``path``."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lock(fd: int) -> None:
    """Tries for a moment: `is_held` of another process takes the lock for an instant too."""
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_holder(fd: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
    except ValueError:  # the holder is just taking or giving back the lock
        return {}
    return holder if isinstance(holder, dict) else {}


def _refusal(path: Path, error: OSError, holder: dict[str, Any]) -> ResultsError:
    if not isinstance(error, BlockingIOError):
        return ResultsError(
            f"cannot lock {path}: {error.strerror}",
            "keep the sweep on a file system with file locks (a local disk, or NFS 4)",
        )
    if not holder:
        return ResultsError(f"{path} is held by another process", "try again in a moment")
    host, pid = holder.get("host"), holder.get("pid")
    age_seconds = max(0.0, time.time() - float(holder.get("started", time.time())))
    return ResultsError(
        f"{path} is held by process {pid} on {host}, a writer for {age_seconds:.0f} s",
        f"wait until it ends, or stop it with `kill {pid}` on {host}; the lock goes with it, delete nothing",
    )
