"""One look at all files of a dataset when it is opened; what it finds out is kept on disk.

Which classes each mask shows, the size of each image, and everything about the files that would end a run later on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacs.data.array_cache import load_or_make
from bacs.data.layout import Layout, raise_faults
from bacs.data.mask_values import value_faults
from bacs.data.pair_check import ILLEGAL_VALUES, PairReport, glance_at_pairs
from bacs.data.scenario import IGNORE


@dataclass(frozen=True, slots=True)
class Index:
    """What is known of the N images of a subset; read-only memory maps."""

    presence: NDArray[np.bool_]
    """(N, labels) whether a mask has a pixel of a label, by original class id."""
    sizes: NDArray[np.int64]
    """(N, 2) height and width."""
    doubtful: NDArray[np.bool_]
    """(N,) whether a viewer may turn the image; see :class:`bacs.data.pair_check.PairReport`."""


def load_index(layout: Layout, folder: Path) -> tuple[Index, Index]:
    """Of train and of test.

    Args:
        layout: the dataset.
        folder: where the index is kept; it must belong to these files alone.

    Raises:
        RequestError: with the files that cannot be used, or with the values of masks that the format does not allow.
    """
    subsets = {"train": layout.train, "test": layout.test}
    parts = ("presence", "sizes", "doubtful")

    def index() -> dict[str, NDArray[Any]]:
        reports = {subset: glance_at_pairs(pairs, layout.legal) for subset, pairs in subsets.items()}
        troubles = [trouble for found in reports.values() for report in found for trouble in report.troubles]
        raise_faults([trouble.fault for trouble in troubles if trouble.kind != ILLEGAL_VALUES])
        values = {subset: values_present(found) for subset, found in reports.items()}
        raise_faults(value_faults(layout, values))
        arrays: dict[str, NDArray[Any]] = {}
        for subset, found in reports.items():
            arrays[f"{subset}_presence"] = labels_present(values[subset], layout.table)
            arrays[f"{subset}_sizes"] = np.array([report.size for report in found], dtype=np.int64).reshape(-1, 2)
            arrays[f"{subset}_doubtful"] = np.array([report.is_doubtful for report in found], dtype=bool)
        return arrays

    arrays = load_or_make(folder, [f"{subset}_{part}" for subset in subsets for part in parts], index)
    train, test = (Index(*(arrays[f"{subset}_{part}"] for part in parts)) for subset in subsets)
    return train, test


def values_present(reports: Sequence[PairReport]) -> NDArray[np.bool_]:
    """(N, 256) which values occur in each mask; none in one that could not be read."""
    return np.array([_nothing() if r.pixels is None else r.pixels > 0 for r in reports], dtype=bool).reshape(-1, 256)


def labels_present(values: NDArray[np.bool_], table: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(N, labels) which labels are present, from (N, 256) which mask values are."""
    n_labels = int(table[table != IGNORE].max()) + 1
    present = np.zeros((len(values), n_labels), dtype=bool)
    for value, label in enumerate(table):
        if label != IGNORE:
            present[:, label] |= values[:, value]
    return present


def _nothing() -> NDArray[np.bool_]:
    return np.zeros(256, dtype=bool)
