"""Where the images and masks of a dataset lie, what its mask values mean, and how many images it should have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from bacs.data.scenario import IGNORE
from bacs.errors import Fault, RequestError

_SHOWN = 10
"""Faults of one kind that an error lists at most."""


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


def read_list(path: Path) -> list[str]:
    """The lines of a list of images, stripped, without empty ones.

    Raises:
        RequestError: where the file is absent or not UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError.of(str(path), f"cannot be read: {error}", "put the list there as plain text") from None
    return [line.strip() for line in lines if line.strip()]


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


def raise_faults(faults: Sequence[Fault]) -> None:
    """Raises a RequestError that shows the first of many faults and counts the rest."""
    shown = list(faults[:_SHOWN])
    if len(faults) > _SHOWN:
        rest = f"{len(faults) - _SHOWN} more of the like"
        shown.append(Fault(faults[-1].where, f"is the last of {rest}", "repair these, then look again"))
    if shown:
        raise RequestError(shown)
