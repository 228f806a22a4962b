"""Where Ray's own words go: into a file beside the journal, never onto the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "ray.log"


class _QuietHandler(logging.FileHandler):
    """Storage that refuses a line of Ray's is no reason to say so on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def keep_ray_quiet(folder: Path) -> None:
    """Sends what Ray logs in this process, and what its daemons tell drivers, to ``ray.log`` in a folder."""
    from ray._private import worker

    path = folder / NAME
    handler = _QuietHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("ray")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False

    def to_file(data: dict[str, Any], *_: Any, **__: Any) -> None:
        logger.warning("(%s) %s", data.get("pid"), "\n".join(map(str, data.get("lines", ()))))

    worker.print_to_stdstream = to_file


@contextlib.contextmanager
def stderr_in_file(folder: Path) -> Iterator[None]:
    """Inside, what native code writes to standard error lands in ``ray.log``, as Ray's core does while it connects."""
    try:
        sys.stderr.flush()
        kept, file = os.dup(2), os.open(folder / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:
        yield
        return
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
