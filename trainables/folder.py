"""The folder of one trial on the sweep's storage: its configuration, its checkpoints, its lock, its last error."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bacs.atomic import remove_drafts, replacing
from bacs.bundle import clean_bundles
from bacs.patience import patiently

LOCK_PATIENCE_SECONDS = 120.0
_ERROR_FIELDS = ("cause", "reason", "traceback")

_log = logging.getLogger(__name__)


class TrialBusyError(RuntimeError):
    """Another process still runs this trial."""


class TrialFolder:
    """``<sweep>/trials/<key>``; whichever machine a trial is started on, it finds its state here."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def results(self) -> Path:
        return self.path / "results"

    def write_config(self, config: dict[str, Any]) -> None:
        """Stores the resolved configuration; done by the driver before the trial is handed out.

        Raises:
            bacs.patience.StorageRefusedError: storage refused for too long.
        """
        path = self.path / "config.json"
        remove_drafts(self.path, path.name)
        patiently(lambda: _write_json(path, config), "a trial's configuration", self.path, _log.warning)

    def write_code(self, code: dict[str, Any]) -> None:
        """Stores the code that the driver hands the trial out with; see :func:`bacs.origin.changes_since`."""
        path = self.path / "code.json"
        remove_drafts(self.path, path.name)
        patiently(lambda: _write_json(path, code), "a trial's code", self.path, _log.warning)

    def read_code(self) -> dict[str, Any] | None:
        """``None`` where a driver of an earlier version handed the trial out."""
        try:
            code: dict[str, Any] = json.loads((self.path / "code.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return code

    def read_config(self) -> dict[str, Any]:
        return json.loads((self.path / "config.json").read_text(encoding="utf-8"))

    def write_error(self, cause: str, reason: str, traceback: str) -> None:
        """Tells the driver why this attempt ends, if storage lets it: the error itself must get out in any case.

        Args:
            cause: one of :mod:`trainables.causes`.
            reason: in a line or a few.
            traceback: all of it.
        """
        with contextlib.suppress(OSError):
            _write_json(self.path / "error.json", {"cause": cause, "reason": reason, "traceback": traceback})

    def take_error(self) -> dict[str, str] | None:
        """The error of the attempt that just ended, once; ``None`` if it died without a word."""
        path = self.path / "error.json"
        try:
            error = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            error = None
        with contextlib.suppress(OSError):  # also one that nobody can read: it must not be taken for the next attempt's
            path.unlink(missing_ok=True)
            remove_drafts(self.path, path.name)  # its writer is dead, or its word comes too late
        known = isinstance(error, dict) and all(isinstance(error.get(name), str) for name in _ERROR_FIELDS)
        return {name: error[name] for name in _ERROR_FIELDS} if known else None

    @contextlib.contextmanager
    def claim(self, patience_seconds: float = LOCK_PATIENCE_SECONDS) -> Iterator[None]:
        """Holds the trial's lock, so that a new attempt never writes beside one that is still dying.

        What a killed attempt left half written is removed.

        Raises:
            TrialBusyError: the holder did not let go in time. The lock goes with the process that holds it.
            bacs.patience.StorageRefusedError: storage refused for too long.
        """
        with patiently(lambda: (self.path / "lock").open("a"), "a trial's lock", self.path, _log.warning) as file:
            deadline = time.monotonic() + patience_seconds
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TrialBusyError(f"{self.path} is still locked by another process") from None
                    time.sleep(0.2)
            self._tidy()
            yield

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):  # a storage that refuses is met again, with patience
            clean_bundles(self.checkpoints)
            remove_drafts(self.path, "error.json")
            for folder in (self.results, self.pictures, *self.pictures.glob("step-*")):
                remove_drafts(folder)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Atomic and durable: the driver writes this before it tells the journal."""
    with replacing(path, durable=True) as draft:
        draft.write_text(json.dumps(value, indent=1), encoding="utf-8")
