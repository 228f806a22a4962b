"""The three scenario modes: which images a continual step shows, and which of their labels it reveals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bacs.data.splits import DomainSplit, TaskSplit

MODES = ("overlap", "disjoint", "sequential")
IGNORE = 255
"""Mask value of pixels that are neither trained on nor scored."""


def presence_of(labels: NDArray[np.uint8], n_classes: int) -> NDArray[np.bool_]:
    """Which classes have at least one pixel.

    Args:
        labels: (N, H, W) original mask values.
        n_classes: V, the number of foreground classes.

    Returns:
        (N, V+1) by original class id; column 0 is background. Values beyond V have no column.
    """
    present = np.zeros((len(labels), n_classes + 1), dtype=bool)
    for row, mask in zip(present, labels, strict=True):
        row[:] = np.bincount(mask.ravel(), minlength=256)[: n_classes + 1] > 0
    return present


def select_images(presence: NDArray[np.bool_], split: TaskSplit, step: int, mode: str) -> NDArray[np.int64]:
    """Indices of the images that ``step`` trains on, ascending.

    ``overlap``: at least one class of the step. ``disjoint`` and ``sequential``: besides, no class of a later
    step, so that each image belongs to the step of its latest class alone.

    Args:
        presence: (N, V+1) by original class id, of the full masks.
        split: the classes of each step.
        step: 0-based continual step.
        mode: one of ``MODES``.
    """
    _check_mode(mode)
    chosen = presence[:, list(split.steps[step])].any(axis=1)
    if mode != "overlap":
        future = [class_id for later in split.steps[step + 1 :] for class_id in later]
        chosen &= ~presence[:, future].any(axis=1)
    return np.flatnonzero(chosen)


def select_seen(presence: NDArray[np.bool_], split: TaskSplit, step: int) -> NDArray[np.int64]:
    """Indices of the images with a class of the steps 0..``step``: the rule for evaluation in all modes."""
    seen = split.class_order[: split.classes_seen(step) - 1]
    return np.flatnonzero(presence[:, list(seen)].any(axis=1))


def select_domains(group: NDArray[np.int64], split: DomainSplit, step: int) -> NDArray[np.int64]:
    """Indices of the images of the step's own domains.

    Args:
        group: (N,) 0-based domain of each image.
        split: the domains of each step, 1-based.
        step: 0-based continual step.
    """
    return np.flatnonzero(np.isin(group + 1, split.steps[step]))


def label_table(split: TaskSplit, step: int, *, mode: str, evaluation: bool) -> NDArray[np.uint8]:
    """Lookup table from original mask value to internal label.

    A table is safe where replacing values one after the other is not: with a shuffled order new labels
    collide with original ones that are still to be replaced.

    Returns:
        (256,) In a domain split every class stays what it is. Otherwise revealed classes become their 1-based position
        in the class order, other classes 0, everything that is no class (V+1..255) 255. Revealed are the classes of the
        step when training in ``overlap`` or ``disjoint``, and all classes seen so far in ``sequential`` or for
        ``evaluation``.
    """
    _check_mode(mode)
    table = np.full(256, IGNORE, dtype=np.uint8)
    if isinstance(split, DomainSplit):
        table[: split.n_classes] = np.arange(split.n_classes)
        return table
    table[: len(split.class_order) + 1] = 0
    first = 1 if evaluation or mode == "sequential" else max(split.old_classes(step), 1)
    for label in range(first, split.classes_seen(step)):
        table[split.class_order[label - 1]] = label
    return table


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode ({mode!r}) must be one of: {', '.join(MODES)}")
