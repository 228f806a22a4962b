"""Where the images and masks of a dataset lie, what its mask values mean, and how many images it should have."""

from __future__ import annotations

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from bacs.data.scenario import IGNORE
from bacs.errors import Fault, RequestError, UnreachableError
from bacs.files import file_problem

_SHOWN = 10
"""Faults of one kind that an error lists at most."""
_AS_TEXT = "put the list there as plain text"


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its mask. The files need not exist: a layout tells what should be there."""

    name: str
    """Unique within the dataset, the same on every machine: ``2007_000032``, ``aachen/aachen_000000_000019``."""
    image: Path
    mask: Path
    group: str = ""
    """The domain of the image (Cityscapes: its city)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A dataset as it should lie on disk."""

    class_names: tuple[str, ...]
    """Names of the V foreground classes; of all labels, from 0 on, where the dataset has no background."""
    train: tuple[Pair, ...]
    """Training images, the held-out share for validation included."""
    test: tuple[Pair, ...]
    table: NDArray[np.uint8]
    """(256,) Mask value -> original class id 0..V, or 255 for pixels that are neither trained on nor scored."""
    legal: frozenset[int]
    """Mask values that the format allows."""
    expected: dict[str, int] = field(default_factory=dict)
    """Images of the published dataset by subset (``train``, ``test``); empty where none is published."""


def identity_table(n_classes: int) -> NDArray[np.uint8]:
    """(256,) For masks that hold class ids 0..V already: everything beyond V is ignored."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[: n_classes + 1] = np.arange(n_classes + 1)
    return table


def read_list(path: Path, is_name: Callable[[str], bool] = lambda line: False) -> list[str]:
    """The lines of a list of images, stripped, without empty ones.

    UTF-8, or UTF-16 as Windows writes it, with any kind of line end. Unusual ones, such as U+2028, end a line too,
    unless they belong to a name.

    Args:
        path: of the list.
        is_name: whether a line that holds such a sign is a name as it stands.

    Raises:
        RequestError: where the file is absent or not such text.
    """
    try:
        if problem := file_problem(path):
            raise UnreachableError.of(str(path), problem, _AS_TEXT)
        content = path.read_bytes()
        text = content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8")
    except OSError as error:
        raise UnreachableError.of(str(path), f"cannot be read: {error.strerror or error}", _AS_TEXT) from None
    except UnicodeDecodeError as error:
        raise RequestError.of(str(path), f"cannot be read: {error}", _AS_TEXT) from None
    lines = [_stripped(line) for line in re.split(r"\r\n|\n|\r", text)]
    pieces = [[line] if is_name(line) else line.splitlines() for line in lines]
    return [_stripped(piece) for line in pieces for piece in line if _stripped(piece)]


def _stripped(line: str) -> str:
    """Lists that were joined by `cat` have a byte order mark in the middle."""
    return line.strip().strip("\ufeff").strip()


def name_fault(list_file: Path, name: str) -> Fault | None:
    """Lists come from elsewhere: a name in them must not lead out of the dataset."""
    path = PurePosixPath(name)
    plain = str(path) == name and path.name and not set(name) & {"\\", "\0"}
    if plain and not path.is_absolute() and ".." not in path.parts:
        return None
    return Fault(
        str(list_file),
        f"names {name!r}, but a name must be a path below the dataset's folder, without '..', a leading '/' or '\\\\'",
        "correct the line",
    )


def raise_faults(faults: Sequence[Fault], kind: type[RequestError] = RequestError) -> None:
    """Raises an error that shows the first of many faults and counts the rest."""
    shown = list(faults[:_SHOWN])
    if len(faults) > _SHOWN:
        rest = f"{len(faults) - _SHOWN} more of the like"
        shown.append(Fault(faults[-1].where, f"is the last of {rest}", "repair these, then look again"))
    if shown:
        raise kind(shown)
