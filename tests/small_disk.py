"""A real file system of a few megabytes, to be filled."""

from __future__ import annotations

import subprocess
from pathlib import Path


class SmallDisk:
    """A tmpfs at a folder."""

    def __init__(self, folder: Path, megabytes: int = 2) -> None:
        """Mounts it. Raises: subprocess.CalledProcessError: without the right to."""
        folder.mkdir(parents=True)
        self.folder = folder
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leaves not one byte."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def remount(self, option: str) -> None:
        """Args: option: ``ro`` or ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{option}", self.folder], check=True, capture_output=True)

    def remove(self) -> None:
        """Lazily, in case somebody still looks at it."""
        subprocess.run(["umount", "--lazy", self.folder], check=False, capture_output=True)


def why_no_small_disk(scratch: Path) -> str:
    """Why none can be mounted at this new folder; empty when it can."""
    try:
        SmallDisk(scratch, 1).remove()
    except (OSError, subprocess.CalledProcessError) as error:
        told = (getattr(error, "stderr", "") or "").strip()
        return f"no tmpfs can be mounted here: {told or error}"
    finally:
        scratch.rmdir()
    return ""
