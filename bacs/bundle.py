"""Bundles: folders of tensors and plain metadata, written atomically, checked when read, without pickled code.

At every instant of a replacement a complete bundle is there: the old one is renamed to ``.<name>.old``, the new one
takes its name, then the old one goes. Where a writer was killed in between, readers find the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch

from bacs.files import file_problem

FORMAT = 3
TENSORS = "tensors.pt"


class BundleError(Exception):
    """A bundle is missing, incomplete or damaged; the message names the folder and what is wrong."""


def save_bundle(folder: Path, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
    """Writes a bundle so that ``folder`` holds all of it, or what it held before.

    Only one process at a time may write below the folder's parent. When this returns, the bundle is on the disk.

    Args:
        folder: where; a bundle that is already there is replaced.
        tensors: nested dictionaries and lists of tensors and plain numbers and strings.
        meta: anything JSON can hold.

    Raises:
        OSError: storage refused; nothing has changed.
    """
    with _staged(folder) as staging:
        _write_meta(staging, _write_tensors(staging / TENSORS, tensors), meta)
        _put_in_place(staging, folder)


def copy_bundle(source: Path, folder: Path, meta: dict[str, Any]) -> bool:
    """Writes the tensors of a bundle under another name, with other metadata; both share the bytes on the disk.

    Any number of processes may write to ``folder``: what is there first stays.

    Returns:
        Whether this call has put it there.

    Raises:
        BundleError: the source is damaged.
        OSError: storage refused; nothing has changed.
    """
    source = _where(source)
    digest = load_meta(source)["sha256"]
    with _staged(folder) as staging:
        _link_or_copy(source / TENSORS, staging / TENSORS)
        if _digest(staging / TENSORS) != digest:
            raise BundleError(f"{source / TENSORS}: the checksum does not match, the file is damaged")
        _write_meta(staging, digest, meta)
        try:
            staging.rename(folder)
        except OSError:
            if folder.exists():
                return False
            raise
        sync_folder(folder.parent)
    return True


def load_bundle(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, meta) of a bundle.

    Raises:
        BundleError: whatever is wrong with it, from a missing file to a flipped bit.
    """
    folder = _where(folder)
    record = load_meta(folder)
    path = folder / TENSORS
    try:
        if problem := file_problem(path):
            raise BundleError(f"{path}: {problem}")
        if _digest(path) != record["sha256"]:
            raise BundleError(f"{path}: the checksum does not match, the file is damaged")
        return torch.load(path, map_location="cpu", weights_only=True), record["meta"]
    except BundleError:
        raise
    except pickle.UnpicklingError as error:
        raise BundleError(f"{path}: holds more than tensors and plain values, such as code; not loaded") from error
    except Exception as error:  # torch does not say what it raises for a file that it cannot read
        raise BundleError(f"{path}: {error!r}") from error


def load_meta(folder: Path) -> dict[str, Any]:
    """The checked record of a bundle: ``meta`` and the checksum of its tensors."""
    path = _where(folder) / "meta.json"
    if problem := file_problem(path):
        raise BundleError(f"{path}: {problem}")
    try:
        record = json.loads(path.read_bytes().decode("utf-8"))
        check = record.pop("check")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path}: {error!r}") from error
    if check != _check(record) or record.get("format") != FORMAT:
        raise BundleError(f"{path}: the checksum does not match or the format is not {FORMAT}")
    return record


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, which is gone in the end unless it was renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_meta(staging: Path, sha256: str, meta: dict[str, Any]) -> None:
    record = {"format": FORMAT, "sha256": sha256, "meta": meta}
    with (staging / "meta.json").open("w", encoding="utf-8") as file:
        json.dump(record | {"check": _check(record)}, file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(staging)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def bundle_names(parent: Path) -> set[str]:
    """The names of all bundles in a folder, complete or damaged, also of those found under their other name."""
    names = {path.name for path in parent.glob("*")}
    return {_name_of_old(name) or name for name in names if _name_of_old(name) or not name.startswith(".")}


def clean_bundles(parent: Path) -> None:
    """Finishes or removes what killed writers left in a folder. Only for whoever alone writes there."""
    for path in parent.glob(".*"):
        name = _name_of_old(path.name)
        if name is not None and not (parent / name).exists():
            path.rename(parent / name)
        elif name is not None or path.name.endswith(".tmp"):
            shutil.rmtree(path, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _HashedFile:
    """What `torch.save` writes to. It must not fail in the middle of a save, so the first error waits for the end."""

    def __init__(self, path: Path) -> None:
        self.sha256 = hashlib.sha256()
        self._file = path.open("wb", buffering=0)
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        rest = memoryview(data)
        try:
            while self._error is None and rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered."""

    def finish(self) -> str:
        """The digest of all that is now on the disk."""
        if self._error is not None:
            raise self._error
        os.fsync(self._file.fileno())
        return self.sha256.hexdigest()

    def close(self) -> None:
        self._file.close()


def _write_tensors(path: Path, tensors: dict[str, Any]) -> str:
    """Returns: the digest of what was meant to be written, so that a disk that wrote something else is found out."""
    with contextlib.closing(_HashedFile(path)) as file:
        torch.save(tensors, cast(IO[bytes], file))
        return file.finish()


def _put_in_place(staging: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        staging.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        if old.exists() and not folder.exists():
            with contextlib.suppress(OSError):  # readers find it under its other name, too
                old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _where(folder: Path) -> Path:
    old = folder.with_name(f".{folder.name}.old")
    return old if not folder.exists() and old.exists() else folder


def _name_of_old(name: str) -> str | None:
    """The name of the bundle that was renamed to ``name`` while it is replaced."""
    return name[1:-4] if name.startswith(".") and name.endswith(".old") else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
