"""Configurations that a sweep lists itself (``search.points``), by task split and name, in the place of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bacs.errors import Fault, RequestError
from search_spaces.space import Params, Space, has_twins, raise_method_faults

_WHERE = "search.points"
_FORM = "write points: {SPLIT: {NAME: {loss.lkd: 0.5, ...}, ...}, ...}"


def space_of_listed(points: Mapping[str, Any], splits: Sequence[str]) -> Space:
    """The space of the points of all splits together, each once; ``{}`` is the sweep's own configuration.

    Args:
        points: split -> name -> dotted configuration key -> value.
        splits: those of the sweep; each needs points, and no other may have any.

    Raises:
        RequestError: with every fault.
    """
    faults = [Fault(_WHERE, f"has none for the split {split}", _FORM) for split in splits if split not in points]
    for split, named in points.items():
        if split not in splits:
            faults.append(Fault(_WHERE, f"has the split {split}, which search.splits does not list", "add it there"))
        if not isinstance(named, Mapping) or not named or not all(isinstance(p, Mapping) for p in named.values()):
            faults.append(Fault(f"{_WHERE}.{split}", f"is {named!r}, no configurations by name", _FORM))
        elif not all(isinstance(key, str) for point in named.values() for key in point):
            faults.append(Fault(f"{_WHERE}.{split}", f"is {named!r}, with keys that are no text", _FORM))
        elif has_twins(list(named.values())):
            faults.append(Fault(f"{_WHERE}.{split}", f"is {named!r}, with repetitions", "list each once"))
    if faults:
        raise RequestError(faults)
    together: list[Params] = []
    for named in points.values():
        together += [dict(point) for point in named.values() if point not in together]
    raise_method_faults(_WHERE, together)
    return Space("points", None, (), points=tuple(together))
