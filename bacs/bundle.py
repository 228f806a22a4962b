"""Bundles: folders of tensors and plain metadata, written atomically, checked when read, without pickled code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch

FORMAT = 2


class BundleError(Exception):
    """A bundle is missing, incomplete or damaged; the message names the folder and what is wrong."""


def save_bundle(folder: Path, tensors: dict[str, Any], meta: dict[str, Any]) -> None:
    """Writes a bundle so that ``folder`` either holds all of it or does not exist.

    Args:
        folder: where; a bundle that is already there is replaced.
        tensors: nested dictionaries and lists of tensors and plain numbers and strings.
        meta: anything JSON can hold.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    staging.mkdir()
    try:
        with (staging / "tensors.pt").open("wb") as file:
            torch.save(tensors, file)
            _flush(file.fileno())
        record = {"format": FORMAT, "sha256": _digest(staging / "tensors.pt"), "meta": meta}
        with (staging / "meta.json").open("w", encoding="utf-8") as file:
            json.dump(record | {"check": _check(record)}, file)
            file.flush()
            _flush(file.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load_bundle(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, meta) of a bundle.

    Raises:
        BundleError: whatever is wrong with it, from a missing file to a flipped bit.
    """
    meta = load_meta(folder)
    path = folder / "tensors.pt"
    try:
        if _digest(path) != meta["sha256"]:
            raise BundleError(f"{path}: the checksum does not match, the file is damaged")
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BundleError(f"{path}: holds more than tensors and plain values, such as code; not loaded") from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: {error}") from error
    return tensors, meta["meta"]


def load_meta(folder: Path) -> dict[str, Any]:
    """The checked record of a bundle: ``meta`` and the checksum of its tensors."""
    path = folder / "meta.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        check = record.pop("check")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BundleError(f"{path}: {error!r}") from error
    if check != _check(record) or record.get("format") != FORMAT:
        raise BundleError(f"{path}: the checksum does not match or the format is not {FORMAT}")
    return record


def sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _flush(handle)
    finally:
        os.close(handle)


def _flush(handle: int) -> None:
    os.fsync(handle)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
