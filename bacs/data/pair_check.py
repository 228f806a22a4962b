"""One look at the files of every image and mask: what is wrong with them, and which values the masks hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bacs.data.layout import Pair

MISSING, OTHER_CASE, UNREADABLE, WRONG_MODE, SIZES_DIFFER, ILLEGAL_VALUES = TROUBLES = (
    "missing",
    "other case",
    "unreadable",
    "wrong mode",
    "sizes differ",
    "illegal values",
)
"""The kinds of trouble a file can make."""

_INDEX_MODES = ("L", "P")
"""Modes of Pillow in which a pixel is one number of 0..255. Anything else would have to be converted: no index."""
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB\x60\x82"}
"""What a complete file ends in. Inside the pixels of a JPEG these bytes cannot occur."""
_TAIL_BYTES = 64
_PAIRS_A_TASK = 16
"""Pairs that a worker process fetches at a time."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong with one file."""

    kind: str
    """One of ``TROUBLES``."""
    file: str
    detail: str = ""
    """What is particular to this file: the error, the two sizes, the values."""


@dataclass(frozen=True, slots=True)
class PairReport:
    """What the files of one image and its mask hold."""

    troubles: tuple[Trouble, ...]
    pixels: NDArray[np.int64] | None
    """(256,) Number of pixels by mask value; ``None`` where the mask could not be read."""


class Folders:
    """Names of the files that exist; every folder is listed once, however many of its files are asked for."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}
        self._twins: dict[Path, dict[str, str]] = {}

    def trouble(self, path: Path) -> Trouble | None:
        """Whether a file is absent or has its name in another case.

        The listing decides: a file system that does not distinguish cases would find a file under any of them.
        """
        folder = path.parent
        if folder not in self._names:
            self._names[folder] = _listed(folder)
            self._twins[folder] = {name.lower(): name for name in self._names[folder]}
        if path.name in self._names[folder]:
            return None
        twin = self._twins[folder].get(path.name.lower())
        return Trouble(OTHER_CASE, str(path), f"is there as {twin}") if twin else Trouble(MISSING, str(path))


def _listed(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()


def inspect_pairs(
    pairs: Sequence[Pair], legal: frozenset[int], workers: int, advanced: Callable[[], None] | None = None
) -> list[PairReport]:
    """Reads every mask and the header of every image once.

    Args:
        pairs: the files to check.
        legal: mask values that the format allows.
        workers: processes; 1 reads in this one.
        advanced: called after each pair.

    Returns:
        A report per pair, in their order. Whatever is wrong with a file is in its report.

    Raises:
        BrokenProcessPool: when a worker process was killed, for want of memory for example.
    """
    folders = Folders()
    absences = [(folders.trouble(pair.image), folders.trouble(pair.mask)) for pair in pairs]
    reports = []
    with _mapping(min(workers, len(pairs) // _PAIRS_A_TASK)) as run:
        for report in run(partial(_inspect, legal), pairs, absences):
            reports.append(report)
            if advanced is not None:
                advanced()
    return reports


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterator[PairReport]]]:
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers) as executor:
        yield partial(executor.map, chunksize=_PAIRS_A_TASK)


def _inspect(legal: frozenset[int], pair: Pair, absent: tuple[Trouble | None, Trouble | None]) -> PairReport:
    no_image, no_mask = absent
    troubles = [trouble for trouble in absent if trouble]
    image_size = mask_size = pixels = None
    if no_image is None:
        with _unreadable_told(pair.image, troubles):
            image_size = _image_size(pair.image)
    if no_mask is None:
        with _unreadable_told(pair.mask, troubles):
            mode, mask_size, pixels = _read_mask(pair.mask)
            if pixels is None:
                troubles.append(Trouble(WRONG_MODE, str(pair.mask), f"has mode {mode}"))
    if image_size and mask_size and image_size != mask_size:
        sizes = f"is {_size(mask_size)}, its image {_size(image_size)}"
        troubles.append(Trouble(SIZES_DIFFER, str(pair.mask), sizes))
    illegal = [] if pixels is None else [int(value) for value in np.flatnonzero(pixels) if value not in legal]
    if illegal:
        troubles.append(Trouble(ILLEGAL_VALUES, str(pair.mask), f"holds {', '.join(map(str, illegal))}"))
    return PairReport(tuple(troubles), pixels)


@contextmanager
def _unreadable_told(path: Path, troubles: list[Trouble]) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError:
        detail = "is empty" if path.stat().st_size == 0 else "is no image"
        troubles.append(Trouble(UNREADABLE, str(path), detail))
    except Exception as error:  # decoders raise whatever their format's parser met, and one file must not end it all
        troubles.append(Trouble(UNREADABLE, str(path), f"cannot be read: {str(error) or type(error).__name__}"))


def _image_size(path: Path) -> tuple[int, int]:
    """(width, height). The pixels are decoded only where the end of the file looks cut off."""
    with Image.open(path) as image:
        size = image.size
        ending = _ENDINGS.get(image.format or "")
        if ending is None or ending not in _tail(path):
            image.load()
        return size


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read()


def _read_mask(path: Path) -> tuple[str, tuple[int, int], NDArray[np.int64] | None]:
    """Mode, (width, height), and the number of pixels by value where the mode is one of ``_INDEX_MODES``."""
    with Image.open(path) as mask:
        if mask.mode not in _INDEX_MODES:
            return mask.mode, mask.size, None
        return mask.mode, mask.size, np.array(mask.histogram(), dtype=np.int64)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
