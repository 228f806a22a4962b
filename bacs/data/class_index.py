"""Which classes each mask shows: every mask is opened once, and the answer kept on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bacs.data.array_cache import load_or_make
from bacs.data.layout import Layout, raise_faults
from bacs.data.pixels import open_mask
from bacs.data.scenario import IGNORE
from bacs.errors import Fault, RequestError


def load_presence(layout: Layout, folder: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Presence of every label in the masks of train and of test.

    Args:
        layout: the dataset.
        folder: where the index is kept; it must belong to these masks alone.

    Returns:
        Two arrays (N, labels) by original class id, read-only memory maps: whether a mask has a pixel of it.

    Raises:
        RequestError: with the masks that cannot be read.
    """

    def index() -> dict[str, NDArray[np.bool_]]:
        masks = {"train": [pair.mask for pair in layout.train], "test": [pair.mask for pair in layout.test]}
        return {subset: labels_present(value_presence(paths), layout.table) for subset, paths in masks.items()}

    arrays = load_or_make(folder, ("train", "test"), index)
    return arrays["train"], arrays["test"]


def labels_present(values: NDArray[np.bool_], table: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(N, labels) which labels are present, from (N, 256) which mask values are."""
    n_labels = int(table[table != IGNORE].max()) + 1
    present = np.zeros((len(values), n_labels), dtype=bool)
    for value, label in enumerate(table):
        if label != IGNORE:
            present[:, label] |= values[:, value]
    return present


def value_presence(masks: Sequence[Path]) -> NDArray[np.bool_]:
    """(N, 256) which values occur in each mask.

    In threads: Pillow decodes and counts without holding the interpreter, and nothing must be forked or imported
    afresh wherever a dataset happens to be built.

    Raises:
        RequestError: with the masks that cannot be read.
    """
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        found = list(threads.map(_values_of, masks))
    raise_faults([fault for row in found if isinstance(row, list) for fault in row])
    return np.array(found, dtype=bool).reshape(len(masks), 256)


def _values_of(mask: Path) -> NDArray[np.bool_] | list[Fault]:
    try:
        return np.array(open_mask(str(mask)).histogram()) > 0
    except RequestError as error:
        return error.faults
