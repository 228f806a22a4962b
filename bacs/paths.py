"""Paths that a user gives: `~` in them, and whether such a folder can be. Nothing is made to find that out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bacs.errors import Fault, RequestError
from bacs.interpolation import hidden_faults, looked_up

MADE = ("dataset.cache", "ood.cache", "training.stages", "training.ckpt_dir")
"""Keys of a run that name folders which it makes."""
OPTIONS = {"sweep.storage": " with --storage"}
"""Flags beside keys."""
_LONGEST_NAME, _LONGEST_PATH = 255, 3072
"""Bytes of a name, and of a path that others are still put below."""


def expanded(where: str, text: str) -> Path:
    """The path that a user means, with `~` and `~user` written out; relative ones stay relative.

    Args:
        where: key or option that gave it.
        text: as given.

    Raises:
        RequestError: it can be no path, or names an unknown user.
    """
    problem, path = "", text
    try:
        path = str(Path(text).expanduser())
    except RuntimeError:
        problem = f"there is no user {text[1:].partition('/')[0]!r} here"
    if not text.strip() or "\0" in text:
        problem = "must be the path of a file or folder"
    elif len(os.fsencode(path)) > _LONGEST_PATH or any(len(os.fsencode(p)) > _LONGEST_NAME for p in path.split("/")):
        problem = f"a path has at most {_LONGEST_PATH} bytes, each name in it {_LONGEST_NAME}"
    elif "://" in text:
        problem = "must be a folder or file, on a cluster one that every node mounts at this place"
    if problem:
        shown = text if len(text) <= _LONGEST_NAME else f"{text[:40]}... ({len(text)} characters)"
        raise RequestError.of(where, f"is {shown!r}, but {problem}", f"give another path{OPTIONS.get(where, '')}")
    return Path(path)


def folder_faults(where: str, path: Path, remedy: str = "give a folder that you may write to") -> list[Fault]:
    """What keeps a folder from being made, or written to: tries it with an unnamed file in the nearest that is there.

    Args:
        where: key or option that gave it.
        path: of the folder, which may be absent.
        remedy: of the fault.
    """
    try:
        nearest = next(place for place in (path.absolute(), *path.absolute().parents) if _is_there(place))
        if not nearest.is_dir():
            return [Fault(where, f"is {path}, but {nearest} is no folder", remedy)]
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"0")
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return [Fault(where, f"is {path}, which cannot be written: {reason}", remedy)]
    return []


def made_folders_faults(values: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with the folders that a run makes. Args: values: its configuration, checked or not."""
    faults: list[Fault] = []
    for key in MADE:
        group, name = key.split(".")
        section = values.get(group)
        text = section.get(name) if isinstance(section, Mapping) else None
        if isinstance(text, str) and text.strip():
            try:
                faults += folder_faults(key, expanded(key, looked_up(text, key)))
            except RequestError as error:
                faults += error.faults
    return hidden_faults(faults)


def existing_folder(where: str, text: str, remedy: str) -> Path:
    """A folder of the user's own files, absolute. Raises: RequestError: there is none."""
    path = expanded(where, text).absolute()
    try:
        is_folder = path.is_dir()
    except OSError:  # a loop of links
        is_folder = False
    if not is_folder:
        raise RequestError.of(where, f"is {text}, which is no folder", remedy)
    return path


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
