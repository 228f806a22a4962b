"""Keeps MLflow up to date with a journal, in a thread that never disturbs the sweep."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from results.errors import ResultsError
from results.mlflow_store import prepare_environment
from results.reachability import check_tracking, refuse_login
from results.shipper import Shipper
from results.writer_lock import ASK_SECONDS, WriterLock

POLL_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
PASS_SECONDS = 10.0
"""After which a pass lets another process have its turn."""
TURN_SECONDS = 60.0
"""How long `Tracker.sync_once` waits for its turn."""


class Tracker:
    """Ships one journal to one tracking URI. `results.shipper` says what MLflow gets.

    It only reads the journal, and waits for nobody but MLflow and other trackers: however long a server keeps it, the
    sweep goes on.
    """

    def __init__(
        self, uri: str, experiment: str, journal_path: Path | str, artifact_root: Path | str | None = None
    ) -> None:
        """Connect to nothing yet.

        Args:
            uri: MLflow tracking URI, ``sqlite:////...`` or ``http(s)://...``.
            experiment: name of the experiment; created when missing.
            journal_path: the journal, which may not exist yet.
            artifact_root: folder for artifacts of an experiment in a database; default ``artifacts`` beside the
                journal. A server has its own place.

        Raises:
            ResultsError: the URI holds a login.
        """
        refuse_login(uri)
        prepare_environment()
        self.uri = uri
        self._journal_path = Path(journal_path)
        root = Path(artifact_root or self._journal_path.parent / "artifacts")
        self._shipper = Shipper(uri, experiment, self._journal_path, root)
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

    @property
    def refused(self) -> list[str]:
        """What MLflow refuses to take although it takes the rest, in words; it stays in the journal."""
        return [text for texts in list(self._shipper.refused.values()) for text in list(texts)]

    def sync_once(self, turn_seconds: float = TURN_SECONDS) -> int:
        """Ship everything new in the journal. Returns: how many points were sent.

        Args:
            turn_seconds: how long to wait while another process ships this journal.

        Raises:
            ResultsError: the journal is damaged, MLflow failed, or another process kept the turn; the next call goes
                on from there.
        """
        with self._mutex:
            try:
                sent = 0
                while self._shipper.has_news():
                    with _turn(self._journal_path, turn_seconds):
                        sent += self._shipper.ship(PASS_SECONDS)
                    if not self._shipper.is_behind:
                        break
                    time.sleep(5 * ASK_SECONDS)  # long enough for whoever waits to see that it is free
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
        if self._thread.is_alive():
            self.last_error = self.last_error or f"it keeps one request waiting for more than {timeout:.0f} s"
        return self._is_drained

    def _run(self) -> None:
        pause = POLL_SECONDS
        is_last = False
        while True:
            if self._stopping.is_set() and not is_last:
                is_last = True  # from here on a pass sees every record there is
                with self._mutex:
                    self._shipper.look_again()
            succeeded = self._attempt()
            if is_last and (succeeded or time.monotonic() > self._deadline):
                self._is_drained = succeeded
                return
            if is_last:
                time.sleep(POLL_SECONDS)
                continue
            pause = POLL_SECONDS if succeeded else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._stopping.wait(pause)

    def _attempt(self) -> bool:
        try:
            self.sync_once(turn_seconds=0.0)
        except Exception as error:  # whatever it is, the sweep must not notice
            self.last_error = str(error)
            return False
        return True


@contextmanager
def _turn(journal_path: Path, wait_seconds: float) -> Iterator[None]:
    """One shipper of a journal at a time: MLflow has no way to make a run only where there is none yet.

    The turn begins before the journal is read, so whoever has it knows no less than those who had it before.
    """
    try:
        lock = WriterLock.wait(journal_path.with_name(journal_path.name + ".tracking.lock"), wait_seconds)
    except ResultsError as error:
        if not isinstance(error.__cause__, BlockingIOError):
            raise
        raise ResultsError(
            f"another process ships this journal: {error.message}",
            "it brings its tracking server up to date by itself; try again when it is through",
        ) from error
    try:
        yield
    finally:
        lock.release()
