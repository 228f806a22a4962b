"""Keeps MLflow up to date with a journal, in a thread that never disturbs the sweep."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from results.errors import ResultsError
from results.mlflow_store import prepare_environment
from results.reachability import check_tracking
from results.shipper import Shipper

POLL_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0


class Tracker:
    """Ships one journal to one tracking URI. `results.shipper` says what MLflow gets."""

    def __init__(
        self, uri: str, experiment: str, journal_path: Path | str, artifact_root: Path | str | None = None
    ) -> None:
        """Connect to nothing yet.

        Args:
            uri: MLflow tracking URI, ``sqlite:////...`` or ``http(s)://...``.
            experiment: name of the experiment; created when missing.
            journal_path: the journal, which may not exist yet.
            artifact_root: folder for artifacts of a SQLite experiment; default ``artifacts`` beside the
                journal. A server has its own place.
        """
        prepare_environment()
        self.uri = uri
        journal_path = Path(journal_path)
        root = Path(artifact_root or journal_path.parent / "artifacts")
        self._shipper = Shipper(uri, experiment, journal_path, root)
        self.last_error: str | None = None
        """Why the last pass failed; None after one that did not."""
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._is_drained = False

    @staticmethod
    def check(uri: str) -> None:
        """Raises ResultsError when the URI cannot be used; takes 3 s at most."""
        check_tracking(uri)

    @property
    def parent_run_id(self) -> str | None:
        """The sweep's own run, once it is known."""
        return self._shipper.parent.run_id if self._shipper.parent else None

    def sync_once(self) -> int:
        """Ship everything new in the journal. Returns: how many points were sent.

        Raises:
            ResultsError: the journal is damaged or MLflow failed; the next call goes on from there.
        """
        with self._mutex:
            try:
                sent = self._shipper.ship()
            except Exception as error:
                self.last_error = str(error)
                if isinstance(error, ResultsError):
                    raise
                raise ResultsError(
                    f"MLflow at {self.uri} failed: {error}",
                    "nothing is lost: it is in the journal; `sync` ships it once the server is well",
                ) from error
            self.last_error = None
            return sent

    def start(self) -> None:
        """Ship in the background from now on."""
        if self._thread is None or not self._thread.is_alive():
            self._stopping.clear()
            self._is_drained = False
            self._thread = threading.Thread(target=self._run, name="mlflow-tracker", daemon=True)
            self._thread.start()

    def close(self, timeout: float = 30.0) -> bool:
        """Ship what is left and stop, within ``timeout`` seconds. Returns: whether MLflow has everything.

        False loses nothing: the journal has it, another tracker ships it.
        """
        if self._thread is None:
            return self._attempt()
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        self._thread.join(timeout)
        return self._is_drained

    def _run(self) -> None:
        pause = POLL_SECONDS
        while True:
            # Read before the pass: one begun after the request to stop sees every record there is.
            stopping = self._stopping.is_set()
            succeeded = self._attempt()
            if stopping and (succeeded or time.monotonic() > self._deadline):
                self._is_drained = succeeded
                return
            if stopping:
                time.sleep(POLL_SECONDS)
                continue
            pause = POLL_SECONDS if succeeded else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._stopping.wait(pause)

    def _attempt(self) -> bool:
        try:
            self.sync_once()
        except Exception as error:  # whatever it is, the sweep must not notice
            self.last_error = str(error)
            return False
        return True
