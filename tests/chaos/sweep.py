"""A sweep as a fault finds it: its files, its drivers, and what its journal says of its workers."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.chaos.ground import Ground
from tests.chaos.processes import Process, belonging, end_all
from tests.chaos.services import TrackingServer
from tests.small_disk import SmallDisk

ROOT = Path(__file__).parent.parent.parent
ORPHAN_SECONDS = 90.0
"""After this time nothing of a driver that is gone may live: Ray's agents look for its control store for a minute."""
STALL_SECONDS = 300.0
"""A living driver that journals nothing for so long is stuck; nothing here takes a tenth of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Driver:
    """One start of the command line."""

    number: int
    process: subprocess.Popen[Any]
    log: Path
    started: float
    """Unix seconds."""

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")


class Sweep:
    """One sweep of a campaign and all its drivers."""

    def __init__(
        self,
        ground: Ground,
        name: str,
        settings: list[str],
        *,
        disk: SmallDisk | None = None,
        server: TrackingServer | None = None,
    ) -> None:
        """Args: settings: overrides of the preset; disk: under :attr:`storage`; server: instead of sqlite."""
        self.ground, self.name, self.settings, self.disk, self.server = ground, name, settings, disk, server
        self.home = ground.folder / name
        self.storage = self.home / "runs" if disk is None else disk.folder
        self.folder = self.storage / name
        self.journal = self.folder / "journal.jsonl"
        self.database = self.storage / "mlflow.db" if server is None else server.database
        self.drivers: list[Driver] = []
        self.complaints: list[str] = []
        """Promises broken on the way, whatever the result."""
        self.copies: list[Path] = []
        """Of the tracking database, from the oldest."""
        self._gone: dict[int, float] = {}
        self.home.mkdir(exist_ok=True)

    # ------------------------------------------------------------------ drivers

    @property
    def driver(self) -> Driver:
        """The last one started."""
        return self.drivers[-1]

    @property
    def runs(self) -> bool:
        return self.driver.process.poll() is None

    def start(self) -> Driver:
        """``run`` where there is no sweep yet, else ``resume``."""
        known = any(record["kind"] == "created" for record in self.records())
        driver = self.command(*(["resume", self.name] if known else ["run", "digits", "--name", self.name]))
        self.drivers.append(driver)
        return driver

    def command(self, *arguments: str) -> Driver:
        """Starts the command line in a session of its own."""
        words = [sys.executable, "-m", "sweeps", *arguments, "--storage", str(self.storage)]
        if self.server is not None:
            words += ["--tracking-uri", self.server.uri]
        if arguments[0] == "run":
            words += self.settings
        number = len(list(self.home.glob("*.log"))) + 1
        log = self.home / f"{number:02d}-{arguments[0]}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                words, cwd=ROOT, env=self.ground.environment, stdout=file, stderr=file, start_new_session=True
            )
        self.ground.sessions.append(process.pid)
        return Driver(number, process, log, time.time())

    def has_ended(self, seconds: float) -> bool:
        """Waits for the driver's end; whether it came in time."""
        try:
            self.driver.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._gone.setdefault(self.driver.process.pid, time.monotonic())
        return True

    def wait_for(self, condition: Callable[[], object]) -> bool:
        """Whether it came true before the driver ended, by itself or killed because it was stuck."""
        seen, since = -1, time.monotonic()
        while self.runs:
            if condition():
                return True
            lines = self.n_lines()
            if lines != seen:
                seen, since = lines, time.monotonic()
            if time.monotonic() - since > STALL_SECONDS:
                words = self.last_words()
                self.complain(f"journalled nothing for {STALL_SECONDS:.0f} s and was killed; it said: {words}")
                self.driver.process.kill()
                break
            time.sleep(0.05)
        self.has_ended(20)
        return False

    def complain(self, text: str) -> None:
        self.complaints.append(f"driver {self.driver.number} {text}")

    @property
    def ray_was_too_slow(self) -> bool:
        """Ray gives its own daemons 30 s to start; on a machine that cannot keep up, nothing of ours has failed."""
        return self.driver.process.returncode == 1 and "timed out during startup" in self.driver.output

    def last_words(self) -> str:
        """The end of what the driver printed, on one line."""
        return " | ".join(self.driver.output.strip().splitlines()[-6:])[-700:]

    def check_orphans(self) -> None:
        """Complains of processes of drivers that are gone long enough; waits for those that are not."""
        for session, since in self._gone.items():
            left: list[Process] = []
            while (left := belonging([session])) and time.monotonic() < since + ORPHAN_SECONDS:
                time.sleep(0.2)
            if left:
                listed = ", ".join(process.command[:60].strip() for process in left)
                self.complaints.append(f"{ORPHAN_SECONDS:.0f} s after the driver's end there still lived: {listed}")
                end_all([session])
        self._gone.clear()

    # ------------------------------------------------------------------ files

    def n_lines(self) -> int:
        try:
            return self.journal.read_bytes().count(b"\n")
        except OSError:
            return 0

    def records(self) -> list[dict[str, Any]]:
        """What the journal holds, as far as it can be read."""
        found = []
        try:
            lines = self.journal.read_bytes().splitlines()
        except OSError:
            return []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def unfinished(self) -> dict[str, int | None]:
        """Trials that are not over, each with the pid of its last attempt."""
        found: dict[str, int | None] = {}
        for record in self.records():
            if record["kind"] == "suggested":
                found[record["trial"]] = None
            elif record["kind"] == "started":
                found[record["trial"]] = record["pid"]
            elif record["kind"] in ("finished", "stopped") or (record["kind"] == "failed" and not record["will_retry"]):
                found.pop(record["trial"], None)
        return found

    def workers(self) -> list[Process]:
        """Processes that train for the living driver."""
        pids = set(self.unfinished().values())
        return [process for process in belonging([self.driver.process.pid]) if process.pid in pids]

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders of unfinished trials, the newest last."""
        found = [
            path
            for key in self.unfinished()
            for path in (self.folder / "trials" / key / "checkpoints").glob("[!.]*")
            if path.is_dir()
        ]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def stages(self) -> list[Path]:
        """Folders of shared steps."""
        return sorted(path for path in (self.storage / "stages").glob("[!.]*") if path.is_dir())

    def copy_database(self) -> None:
        """A consistent copy of the tracking database, even while others write it."""
        copy = self.home / f"copy-{len(self.copies)}.db"
        with (
            closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=20)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        self.copies.append(copy)

    def restore_database(self, copy: Path) -> None:
        self.delete_database()
        shutil.copyfile(copy, self.database)

    def delete_database(self) -> None:
        for path in self.database.parent.glob(f"{self.database.name}*"):
            path.unlink()
