"""What a sweep stands on and the campaign can take away: a disk that is full, a tracking server that dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

START_SECONDS = 120.0
"""How long an MLflow server may take to start on a busy machine."""


class TrackingServer:
    """A real ``mlflow server`` on loopback, over a database that outlives it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        self.database = folder / "mlflow.db"
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[Any] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> int:
        """Starts it and waits until it answers. Returns: the session of its processes."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self._port, "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.database}"),
            *("--artifacts-destination", str(self._folder / "artifacts")),
        ]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        assert wait_until(self._answers, START_SECONDS, 0.2), (self._folder / "server.log").read_text()
        return self._process.pid

    def kill(self) -> None:
        """As a crash would: the server and its worker at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            return False
