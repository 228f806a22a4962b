"""The one temporary folder of a campaign, the processes it started, and the end of both."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tests.chaos.processes import Process, belonging, end_all
from tests.chaos.services import TrackingServer
from tests.small_disk import SmallDisk, why_no_small_disk

DISK_MEGABYTES = 96


class Ground:
    """Everything of a campaign lies below ``folder``; :meth:`clear` leaves nothing of it."""

    def __init__(self, parent: Path | None = None, *, keep: bool = False) -> None:
        """Args: parent: of the new folder; a short path, because Ray's sockets lie below it."""
        self.folder = Path(tempfile.mkdtemp(prefix="c", dir=parent or "/tmp"))
        self.sessions: list[int] = []
        """Of all drivers and servers ever started, by the pid of the first process."""
        self._keep = keep
        self._disks: list[SmallDisk] = []
        for name in ("home", "r", "t"):
            (self.folder / name).mkdir()
        self.environment = os.environ | {
            "HOME": str(self.folder / "home"),  # Ray writes a token there
            "RAY_TMPDIR": str(self.folder / "r"),
            "TMPDIR": str(self.folder / "t"),
            "COLUMNS": "160",
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            self.environment.pop(name, None)

    def small_disk(self, folder: Path) -> SmallDisk:
        disk = SmallDisk(folder, DISK_MEGABYTES)
        self._disks.append(disk)
        return disk

    def why_no_small_disk(self) -> str:
        return why_no_small_disk(self.folder / "t" / "mount")

    def server(self, folder: Path) -> TrackingServer:
        return TrackingServer(folder, self.environment)

    def processes(self) -> list[Process]:
        """Everything that still lives of this campaign."""
        return belonging(self.sessions, str(self.folder))

    def clear(self) -> None:
        end_all(self.sessions, str(self.folder))
        for disk in self._disks:
            if not self._keep:
                disk.remove()
        if not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)
