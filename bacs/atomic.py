"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Inside, a path to write to; at the end that file takes the place of ``path``, whose folder is made if need be.

    Whoever reads ``path`` meanwhile finds the old file or the new one. After an error the old one stays.

    Args:
        path: the file to replace.
        durable: survive a power cut, too: flush to the disk before the old file goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield draft
        if durable:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(folder: Path, name: str = "*") -> None:
    """Removes what killed writers of the file ``name`` left in a folder. Only for whoever alone writes it."""
    for draft in folder.glob(f".{name}.{'[0-9a-f]' * 8}.tmp"):
        draft.unlink(missing_ok=True)
