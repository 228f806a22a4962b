"""Files that users name. Only regular ones are read: a pipe or a device may never end, and is no data."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def file_problem(path: Path | str) -> str:
    """Why a path is no regular file; empty where it is one. Links are followed."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  a path may come as text, ten thousand times
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return mode_problem(mode)


def mode_problem(mode: int) -> str:
    """The same for a file whose mode is known."""
    if stat.S_ISREG(mode):
        return ""
    return f"is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, but must be a regular file"
