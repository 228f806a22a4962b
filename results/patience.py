"""Waits for storage that refuses writes for a while; the journal's half of what `bacs.patience` is for a run."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path

PATIENCE_SECONDS = 600.0
"""How long one outage is waited for."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 15.0
_SLICE_SECONDS = 0.2

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
"""Errors that go away without anyone touching this process."""

_log = logging.getLogger(__name__)


class Patience:
    """Of one writer. An outage begins with the first refusal and ends with the next write that succeeds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_over = False
        """Set to ``True``, from any thread or signal handler, it ends all waiting."""
        self._since: float | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def after(self, error: OSError) -> bool:
        """Waits a little. Returns: whether to try again; ``False``, at once, when an outage has lasted too long."""
        if error.errno not in REFUSALS:
            return False
        if self._since is None:
            self._since = time.monotonic()
            _log.warning("waiting for storage: %s", refusal(self.path, error))
        left = self._since + PATIENCE_SECONDS - time.monotonic()
        self._sleep(min(left, self._pause_seconds))
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        return left > 0 and not self.is_over

    def succeeded(self) -> None:
        if self._since is not None:
            _log.warning("%s takes writes again, after %.0f s", self.path.parent, time.monotonic() - self._since)
        self._since, self._pause_seconds = None, FIRST_PAUSE_SECONDS

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.is_over and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_SECONDS))


def refusal(path: Path, error: OSError) -> str:
    """What is wrong with storage: the file, the error, the space that is left."""
    return f"cannot write {path}: {error.strerror or error}, {_free_space(path.parent)}"


def _free_space(folder: Path) -> str:
    try:
        found = os.statvfs(folder)
    except OSError:
        return "free space unknown"
    return f"{found.f_bavail * found.f_frsize / 2**20:.0f} MiB and {found.f_favail} inodes free in {folder}"
