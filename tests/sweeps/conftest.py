"""Whole sweeps through the real command line, on the real digits, small enough for a minute."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeps.__main__ import app
from tests.conftest import SMALL
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent

TINY_SWEEP = [*SMALL, "training.val_every=1", "training.iterations_per_epoch=12", "search.trials=2"]


class CommandLine:
    """Runs ``python -m sweeps`` with its own home, Ray folder and storage, and cleans up after it."""

    def __init__(self, folder: Path, ray_folder: Path) -> None:
        self.storage = folder / "runs"
        self.source = ROOT
        """Where the code that runs lies."""
        self.environment = os.environ | {
            "HOME": str(folder),  # Ray writes a token there
            "RAY_TMPDIR": str(ray_folder),
            "COLUMNS": "120",
            "OMP_NUM_THREADS": "1",
        }
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            self.environment.pop(name, None)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, terminal: int | None = None) -> subprocess.Popen[str]:
        """Args: terminal: open terminal that the process gets as its own; default: its output goes into a pipe."""
        command = [sys.executable, "-m", "sweeps", *arguments, "--storage", str(self.storage)]
        process = subprocess.Popen(
            command,
            cwd=self.source,
            env=self.environment,
            stdin=terminal,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=None if terminal is None else _take_terminal,  # noqa: PLW1509  # one system call
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str, timeout: float = 240) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output

    def look(self, *arguments: str) -> tuple[int, str]:
        """Runs a command that starts no Ray, inside this process: the same code without the seconds of its imports."""
        words = [*arguments, "--storage", str(self.storage)]
        environment = {"COLUMNS": "120", "RAY_ADDRESS": None, "MLFLOW_TRACKING_URI": None}
        result = CliRunner().invoke(app, words, env=environment)
        return result.exit_code, result.output

    def wait_for_record(self, name: str, kind: str, process: subprocess.Popen[str]) -> None:
        """Until the journal holds one more record of a kind than now."""
        n = self._count(name, kind)
        assert wait_until(lambda: self._count(name, kind) > n, 480, process=process), f"no record '{kind}' came"

    def _count(self, name: str, kind: str) -> int:
        path = self.journal(name)
        return path.read_text().count(f'"kind":"{kind}"') if path.exists() else 0

    def journal(self, name: str) -> Path:
        return self.storage / name / "journal.jsonl"

    def processes(self) -> dict[int, str]:
        """Living processes that work for this storage or this Ray folder, with their command lines."""
        marks = (str(self.storage), self.environment["RAY_TMPDIR"])
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                command = (path / "cmdline").read_text()
                text = command + (path / "environ").read_text()
                state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state != "Z" and int(path.name) != os.getpid() and any(mark in text for mark in marks):
                found[int(path.name)] = command.replace("\0", " ").strip()
        return found

    def stop_everything(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
        # Ray's agents look for a control store that was killed for a minute.
        left = {} if wait_until(lambda: not self.processes(), 90, 0.5) else self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"processes were left behind: {left}"


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def sweeps(tmp_path: Path) -> Iterator[CommandLine]:
    ray_folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # Ray's sockets need a short path
    line = CommandLine(tmp_path, ray_folder)
    try:
        yield line
    finally:
        try:
            line.stop_everything()
        finally:
            shutil.rmtree(ray_folder, ignore_errors=True)
