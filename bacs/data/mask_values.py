"""Whether masks hold what their format says, and, where they do not, what has probably happened to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bacs.data.layout import Layout, Pair
from bacs.data.scenario import IGNORE
from bacs.errors import Fault

_MANY = 16
"""More illegal values than these come from colours that were mixed, not from another numbering."""
_SHOWN = 8


def value_faults(layout: Layout, values: Mapping[str, NDArray[np.bool_]]) -> list[Fault]:
    """The values that the format does not allow, and masks that show no class at all.

    Args:
        layout: the dataset.
        values: (N, 256) by subset, ``train`` and ``test``: which values occur in each mask.
    """
    pairs = {"train": layout.train, "test": layout.test}
    everything = np.concatenate(list(values.values()))
    legal = np.zeros(256, dtype=bool)
    legal[sorted(layout.legal)] = True
    bad = np.flatnonzero((everything & ~legal).any(axis=1))
    cause = likely_cause(everything, layout)
    if len(bad):
        first = [*layout.train, *layout.test][bad[0]].mask
        problem = f"{len(bad)} of {len(everything)} masks hold values that the format does not allow: "
        problem += f"{illegal_counts(everything, layout.legal)} (first in {first.name}); {allowed(layout)}"
        return [Fault(str(first.parent), problem, cause)]
    return [fault for subset in pairs for fault in no_class_faults(layout, subset, pairs[subset], values[subset])]


def no_class_faults(layout: Layout, subset: str, pairs: Sequence[Pair], values: NDArray[np.bool_]) -> list[Fault]:
    """Where no mask of a subset shows a class, there is nothing to train on or to measure."""
    shown = np.flatnonzero(values.any(axis=0))
    if not len(values) or any(_is_class(layout, int(value)) for value in shown):
        return []
    held = ", ".join(f"{value} in {int(values[:, value].sum())}" for value in shown) or "nothing"
    problem = f"none of the {len(values)} masks to {subset} on has a pixel of a class: they hold {held}"
    return [Fault(str(pairs[0].mask.parent), problem, likely_cause(values, layout))]


def illegal_counts(values: NDArray[np.bool_], legal: frozenset[int]) -> str:
    """``77 in 2 masks, 200 in 1 mask``. Args: values: (N, 256) which values occur in each mask."""
    counts = {value: int(count) for value, count in enumerate(values.sum(axis=0)) if count and value not in legal}
    told = [f"{value} in {count} mask{'s' if count > 1 else ''}" for value, count in counts.items()]
    return ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")


def likely_cause(values: NDArray[np.bool_], layout: Layout) -> str:
    """What has probably happened to masks, and what to do. Args: values: (N, 256) which values occur in each."""
    found = {int(value) for value in np.flatnonzero(values.any(axis=0))}
    ids = layout.legal - {IGNORE}
    illegal = found - layout.legal
    ignored = "255 means ignored" if IGNORE in layout.legal else "255 is no class"
    nonzero = sorted(found - {0})
    step = math.gcd(*nonzero) if nonzero else 1
    if nonzero == [IGNORE]:
        return f"masks saved as black and white? {ignored}: write the pixels of the class as 1"
    if IGNORE in illegal and max(nonzero[:-1], default=0) < max(ids):
        return "train ids, which count classes from 0 and ignore 255? Get or make masks of the dataset's own ids"
    if illegal == {max(ids) + 1}:
        names = "every id one too high (then subtract 1), or a class that the list of classes lacks"
        return f"shifted by one? {max(ids) + 1} is either {names}"
    if len(illegal) > _MANY:
        return "resized with smoothing, saved as JPEG, or no masks? Draw them anew, each pixel one class id"
    if illegal and step > 1 and max(nonzero) // step <= max(ids):
        return f"ids that were multiplied so that they can be seen? All are multiples of {step}: divide them by it"
    if illegal and IGNORE in layout.legal:
        return "write pixels to be ignored as 255, and every class as its id"
    return "get masks of the dataset's own format" if illegal else "look whether the masks are those of these classes"


def allowed(layout: Layout) -> str:
    """``allowed are 0..20, 255``."""
    return f"allowed are {ranges(layout.legal)}"


def ranges(values: frozenset[int]) -> str:
    """``0..20, 255`` for these 22 numbers."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}..{last}" for first, last in runs)


def _is_class(layout: Layout, value: int) -> bool:
    """Whether a mask value is a foreground class; where a dataset has no background, label 0 is one."""
    label = int(layout.table[value])
    has_background = int(layout.table[layout.table != IGNORE].max()) == len(layout.class_names)
    return label != IGNORE and not (has_background and label == 0)
