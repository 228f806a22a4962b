"""Explicit class lists: one list of classes per continual step, as a user writes them."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import yaml

from bacs.errors import Fault, RequestError
from bacs.reading import refuse_bombs

_EXAMPLE = "write [[a,b],[c,d,e]], one inner list per step"


def read_lists(text: str, where: str) -> list[list[str]]:
    """Reads ``[[a,b],[c]]``, names with or without quotes.

    Raises:
        RequestError: when the brackets do not make a list of lists.
    """
    if quoted := _quoted_lists(text):
        return quoted
    step = r"\[[^\[\]]*\]"
    if re.fullmatch(rf"\[\s*{step}(\s*,\s*{step})*\s*\]", text) is None:
        raise RequestError.of(where, f"is {text!r}, but a list must hold one list of classes per step", _EXAMPLE)
    insides = (found[1:-1] for found in re.findall(step, text))
    return [[entry.strip().strip("'\"") for entry in inside.split(",")] if inside.strip() else [] for inside in insides]


def _quoted_lists(text: str) -> list[list[str]] | None:
    """Lists in which names stand in quotes, and may hold commas and brackets; ``None``: there are none such."""
    if not {"'", '"'} & set(text):
        return None
    try:
        refuse_bombs(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError):
        return None
    steps = node.value if isinstance(node, yaml.SequenceNode) else []
    if not steps or not all(isinstance(step, yaml.SequenceNode) for step in steps):
        return None
    plain = all(isinstance(name, yaml.ScalarNode) for step in steps for name in step.value)
    return [[str(name.value) for name in step.value] for step in steps] if plain else None


def parse_class_lists(
    split: Sequence[Sequence[Any]], class_names: Sequence[str], where: str
) -> tuple[tuple[int, ...], ...]:
    """Original class ids (1..V) per step.

    Raises:
        RequestError: with every empty step and every class that is unknown, missing or named twice.
    """
    if not _is_list(split) or not split or not all(_is_list(step) for step in split):
        raise RequestError.of(where, f"is {split!r}, but a list must hold one list of classes per step", _EXAMPLE)
    faults: list[Fault] = []
    steps: list[tuple[int, ...]] = []
    for t, entries in enumerate(split):
        here = f"{where}[{t}]"
        if not entries:
            faults.append(Fault(here, "is empty, but a step needs at least one class", "remove the empty list"))
        found = [(entry, _class_id(entry, class_names)) for entry in entries]
        faults += [_unknown(here, entry, class_names) for entry, class_id in found if class_id is None]
        steps.append(tuple(class_id for _, class_id in found if class_id is not None))
    faults += _counted_wrong(Counter(chain.from_iterable(steps)), class_names, where)
    if faults:
        raise RequestError(faults)
    return tuple(steps)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _has_numeric_names(class_names: Sequence[str]) -> bool:
    return any(name.isdecimal() for name in class_names)


def _class_id(entry: object, class_names: Sequence[str]) -> int | None:
    """Ids are refused where names are numbers: digit 1 has id 2, nobody could tell which was meant."""
    text = str(entry).strip()
    if text in class_names:
        return list(class_names).index(text) + 1
    if _has_numeric_names(class_names) or not text.isdecimal():
        return None
    return int(text) if 1 <= int(text) <= len(class_names) else None


def _unknown(where: str, entry: object, class_names: Sequence[str]) -> Fault:
    listed = f"the classes are: {', '.join(class_names)}"
    if _has_numeric_names(class_names):
        remedy = listed
    elif close := difflib.get_close_matches(str(entry), class_names, n=1):
        remedy = f"did you mean {close[0]}?"
    else:
        remedy = f"give a class name or an id in 1..{len(class_names)}; {listed}"
    return Fault(where, f"names {entry!r}, which is not a class of the dataset", remedy)


def _counted_wrong(counts: Counter[int], class_names: Sequence[str], where: str) -> list[Fault]:
    twice = [name for class_id, name in enumerate(class_names, 1) if counts[class_id] > 1]
    missing = [name for class_id, name in enumerate(class_names, 1) if counts[class_id] == 0]
    remedy = "name every class in exactly one step"
    faults = [Fault(where, f"names more than once: {', '.join(twice)}", remedy)] if twice else []
    return faults + ([Fault(where, f"leaves out: {', '.join(missing)}", remedy)] if missing else [])
