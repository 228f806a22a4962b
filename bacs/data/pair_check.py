"""One look at the files of every image and mask: what is wrong with them, and which values the masks hold.

Files are opened and decoded by the functions that a run reads them with, so that both say the same of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bacs.data.folders import Folders
from bacs.data.layout import Pair
from bacs.data.pixels import Header, WrongKindError, decode_picture, look_at_picture, open_mask
from bacs.errors import Fault, RequestError

MISSING, OTHER_NAME, UNREADABLE, WRONG_KIND, SIZES_DIFFER, TURNED, ILLEGAL_VALUES = TROUBLES = (
    "missing",
    "other name",
    "unreadable",
    "wrong kind",
    "sizes differ",
    "turned",
    "illegal values",
)
"""The kinds of trouble a file can make."""

REMEDIES = {
    SIZES_DIFFER: "get image and mask from the same release",
    TURNED: "store the images as they are shown, without the note (`mogrify -auto-orient`, or Pillow's exif_transpose)",
}
"""Of the kinds whose files do not say it themselves."""

_PAIRS_A_TASK = 16
"""Pairs that a worker process fetches at a time."""
_LYING = (5, 6, 7, 8)
"""Orientations that swap height and width."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong with one file."""

    kind: str
    """One of ``TROUBLES``."""
    file: str
    detail: str = ""
    """What is particular to this file: the error, the two sizes, the values."""
    remedy: str = ""

    @property
    def fault(self) -> Fault:
        return Fault(self.file, self.detail, self.remedy or REMEDIES[self.kind])


@dataclass(frozen=True, slots=True)
class PairReport:
    """What the files of one image and its mask hold."""

    troubles: tuple[Trouble, ...]
    pixels: NDArray[np.int64] | None
    """(256,) Number of pixels by mask value; ``None`` where the mask could not be read."""
    size: tuple[int, int] | None = None
    """(height, width) of the image; ``None`` where it could not be read."""
    is_doubtful: bool = False
    """Whether the camera has noted that the image is to be turned, and the sizes do not tell what the mask follows."""


def inspect_pairs(
    pairs: Sequence[Pair], legal: frozenset[int], workers: int, advanced: Callable[[], None] | None = None
) -> list[PairReport]:
    """Decodes every mask and every image once.

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
    reports = []
    with _mapping(min(workers, len(pairs) // _PAIRS_A_TASK)) as run:
        for report in run(partial(_inspect, legal, True), pairs, _absences(pairs)):
            reports.append(report)
            if advanced is not None:
                advanced()
    return reports


def glance_at_pairs(pairs: Sequence[Pair], legal: frozenset[int]) -> list[PairReport]:
    """The same, but of an image whose file has its end only the header is read.

    In threads: Pillow decodes and counts without holding the interpreter, and nothing must be forked or imported
    afresh wherever a dataset happens to be built.
    """
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(partial(_inspect, legal, False), pairs, _absences(pairs)))


def _absences(pairs: Sequence[Pair]) -> list[tuple[Trouble | None, Trouble | None]]:
    folders = Folders()
    return [(_absence(folders, pair.image, pair.name), _absence(folders, pair.mask, pair.name)) for pair in pairs]


def _absence(folders: Folders, path: Path, name: str) -> Trouble | None:
    """Whether a file is absent or has another name.

    The listing decides: a file system that does not distinguish cases would find a file under any of them.
    """
    if folders.has(path):
        return None
    return Trouble(OTHER_NAME if folders.alike(path) else MISSING, str(path), *folders.absence(path, name))


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterator[PairReport]]]:
    if workers <= 1:
        yield map
        return
    import torchvision.io  # noqa: F401  once, before it is forked

    with ProcessPoolExecutor(workers) as executor:
        yield partial(executor.map, chunksize=_PAIRS_A_TASK)


def _inspect(
    legal: frozenset[int], decoding: bool, pair: Pair, absent: tuple[Trouble | None, Trouble | None]
) -> PairReport:
    no_image, no_mask = absent
    troubles = [trouble for trouble in absent if trouble]
    header: Header | None = None
    mask_size: tuple[int, int] | None = None
    pixels: NDArray[np.int64] | None = None
    if no_image is None:
        with _told(troubles):
            header = look_at_picture(str(pair.image))
            if decoding or not header.is_whole:
                decode_picture(str(pair.image))
    if no_mask is None:
        with _told(troubles):
            mask = open_mask(str(pair.mask))
            mask_size, pixels = mask.size, np.array(mask.histogram(), dtype=np.int64)
    if header and mask_size and header.size != mask_size:
        troubles.append(_sizes_differ(pair, header, mask_size))
    illegal = [] if pixels is None else [int(value) for value in np.flatnonzero(pixels) if value not in legal]
    if illegal:
        troubles.append(Trouble(ILLEGAL_VALUES, str(pair.mask), f"holds {', '.join(map(str, illegal))}"))
    size = None if header is None else (header.size[1], header.size[0])
    return PairReport(tuple(troubles), pixels, size, header is not None and _is_doubtful(header))


def _sizes_differ(pair: Pair, header: Header, mask: tuple[int, int]) -> Trouble:
    if header.orientation in _LYING and header.size == mask[::-1]:
        detail = f"lies on its side (EXIF orientation {header.orientation}, not applied), its mask {pair.mask} does not"
        return Trouble(TURNED, str(pair.image), detail)
    return Trouble(SIZES_DIFFER, str(pair.mask), f"is {_size(mask)}, its image {pair.image} {_size(header.size)}")


def _is_doubtful(header: Header) -> bool:
    told_by_size = header.orientation in _LYING and header.size[0] != header.size[1]
    return header.orientation != 1 and not told_by_size


@contextmanager
def _told(troubles: list[Trouble]) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        kind = WRONG_KIND if isinstance(error, WrongKindError) else UNREADABLE
        troubles += [Trouble(kind, fault.where, fault.problem, fault.remedy) for fault in error.faults]


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
