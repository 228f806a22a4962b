"""A folder of arrays that is either complete or absent, whoever else writes it at the same time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacs.errors import Fault

Arrays = dict[str, NDArray[Any]]

_INDEX = "checksums.json"
_ATTEMPTS = 5


def cache_faults(cache: Path) -> list[Fault]:
    """The cache folder may be absent; then the first folder above it that exists must be writable."""
    where, remedy = "dataset.cache", "set dataset.cache to a writable folder"
    try:
        existing = next(path for path in (cache.absolute(), *cache.absolute().parents) if path.exists())
    except OSError as error:
        return [Fault(where, f"is {cache}: {error.strerror}", remedy)]
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return []
    rule = "cannot be written to" if existing.is_dir() else "is not a folder"
    return [Fault(where, f"is {cache}, but {existing} {rule}", remedy)]


def load_or_make(folder: Path, names: Iterable[str], make: Callable[[], Arrays]) -> Arrays:
    """Maps the arrays of ``folder`` into memory, and first makes them where the folder is absent or damaged.

    Several processes may call this at once: each writes a folder of its own, the first to rename it wins, and
    the others use the winner's.

    Args:
        folder: where the arrays are kept, one ``.npy`` file each.
        names: the arrays that must be there.
        make: computes all of them.

    Returns:
        Read-only memory maps by name.

    Raises:
        OSError: when the folder cannot be written, or does not survive being written.
    """
    wanted = set(names)
    for _ in range(_ATTEMPTS):
        arrays = _load(folder, wanted)
        if arrays is not None:
            return arrays
        _publish(folder, wanted, make())
    raise OSError(f"{folder}: is damaged again each time it is written; another process deletes or alters it")


def _load(folder: Path, names: set[str]) -> Arrays | None:
    """The arrays, or ``None`` where any is missing, cut short or altered."""
    try:
        checksums = json.loads((folder / _INDEX).read_text())
        if not isinstance(checksums, dict) or set(checksums) != names:
            return None
        if any(_checksum(folder / f"{name}.npy") != checksums[name] for name in names):
            return None
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    except (OSError, ValueError):
        return None


def _publish(folder: Path, names: set[str], arrays: Arrays) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        _write(draft, arrays)
        if _renamed(draft, folder) or _load(folder, names) is not None:
            return
        damaged = draft.with_name(f"{draft.name}.damaged")
        with contextlib.suppress(FileNotFoundError):  # another process has moved it away already
            folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
        _renamed(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    checksums = {name: _checksum(folder / f"{name}.npy") for name in arrays}
    (folder / _INDEX).write_text(json.dumps(checksums, indent=1, sort_keys=True))


def _renamed(draft: Path, folder: Path) -> bool:
    """False where another folder stands there already; a folder is never renamed onto a full one."""
    try:
        draft.rename(folder)
    except OSError as error:
        # Whether one stands there must come from this error: asked again, another process may have moved it away.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
