"""Typed configuration: dataclass fields that carry their legal values and the step from which they act."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from bacs.errors import Fault, RequestError
from bacs.interpolation import has_reference, looked_up
from bacs.paths import expanded


def knob(
    default: Any = dataclasses.MISSING,
    *,
    acts_from: int | None = 0,
    measures: bool = False,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[Any, ...] | None = None,
    path: bool = False,
) -> Any:
    """A configuration field.

    Args:
        default: the default value; left out, the field is required.
        acts_from: the first continual step whose outcome can depend on the field (0-based); ``None`` for a field
            that never changes a result (where to cache, how often to show progress).
        measures: whether it decides what is measured or drawn, or in which order numbers are summed up: results are
            then comparable, but what is kept of a step is not the same.
        ge: smallest legal number (of each number, where the field holds a list).
        gt: number that it must exceed.
        le: largest legal number.
        lt: number that it must stay below.
        choices: the legal values.
        path: whether it is the path of a file or folder, in which `~` is a home folder.
    """
    metadata = {
        "acts_from": acts_from,
        "measures": measures,
        "ge": ge,
        "gt": gt,
        "le": le,
        "lt": lt,
        "choices": choices,
        "path": path,
    }
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse(schema: type, values: Mapping[str, Any], where: str) -> Any:
    """Builds ``schema`` from ``values``.

    Raises:
        RequestError: with every unknown key, missing key, wrong type and value out of range.
    """
    parsed, faults = parse_all(schema, values, where)
    if faults:
        raise RequestError(faults)
    return parsed


def parse_all(schema: type, values: Mapping[str, Any], where: str) -> tuple[Any, list[Fault]]:
    """As :func:`parse`, but goes on: (object, faults), with defaults in the place of what is faulty.

    So rules that span sections can be checked too, and all faults be told together. The object is ``None`` where a
    required field is missing.
    """
    faults: list[Fault] = []
    if not isinstance(values, Mapping):
        faults.append(Fault(where, f"is {values!r}, not a group of keys", f"write {where}.KEY=VALUE"))
        values = {}
    fields = {field.name: field for field in dataclasses.fields(schema)}
    hints = _type_hints(schema)
    for key in values:
        if key not in fields:
            faults.append(_unknown_key(f"{where}.{key}", str(key), list(fields)))
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            value, fault = _looked_up(field, hints[name], values[name], f"{where}.{name}")
            if fault is None:
                value, fault = _convert(hints[name], value, f"{where}.{name}")
            if fault is None and field.metadata.get("path") and isinstance(value, str):
                value, fault = _expanded(value, f"{where}.{name}")
            fault = fault or _out_of_range(field, value, f"{where}.{name}")
            if fault is None:
                arguments[name] = value
            else:
                faults.append(fault)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(Fault(f"{where}.{name}", "is required but was not given", f"set {where}.{name}=..."))
    required = {name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    return (schema(**arguments) if required <= arguments.keys() else None), faults


_type_hints = functools.cache(typing.get_type_hints)


def is_text(hint: Any) -> bool:
    """Whether a field of this type holds text, or null, and nothing else."""
    return hint is str or set(typing.get_args(hint)) == {str, types.NoneType}


def text_keys(schema: type) -> set[str]:
    """The fields that hold text."""
    return {name for name, hint in _type_hints(schema).items() if is_text(hint)}


def _looked_up(field: dataclasses.Field[Any], hint: Any, value: Any, where: str) -> tuple[Any, Fault | None]:
    """The value, with what it refers to in the environment where such a reference is legal."""
    if not has_reference(value):
        return value, None
    rules = field.metadata
    if is_text(hint) and rules.get("acts_from", 0) is None and not rules.get("measures") and not rules.get("choices"):
        try:
            return looked_up(value, where), None
        except RequestError as error:
            return value, error.faults[0]
    return value, reference_fault(where, value)


def _expanded(value: str, where: str) -> tuple[Any, Fault | None]:
    try:
        path = expanded(where, value)
        return str(path) if value.startswith("~") else value, None
    except RequestError as error:
        return value, error.faults[0]


def reference_fault(where: str, value: Any) -> Fault:
    """For a reference to the environment in a field that takes none."""
    problem = f"is {value!r}, but refers to the environment, of which only the reference is recorded"
    return Fault(where, problem, "write the value itself; references may name places, such as dataset.root")


def _unknown_key(where: str, key: str, known: list[str]) -> Fault:
    close = difflib.get_close_matches(key, known, n=1)
    remedy = (
        f"did you mean {where.removesuffix(key)}{close[0]}?" if close else f"known keys: {', '.join(sorted(known))}"
    )
    return Fault(where, "is not a known key", remedy)


def _convert(hint: Any, value: Any, where: str) -> tuple[Any, Fault | None]:
    """Accepts what YAML gives for a type (an int for a float, a list for a tuple), nothing looser."""
    if unusable := number_fault(where, value):
        return value, unusable
    if hint is Any:
        return value, None
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if isinstance(value, str) and str in typing.get_args(hint):
            return _convert(str, value, where)
        attempts = [_convert(option, value, where) for option in typing.get_args(hint)]
        for converted, fault in attempts:
            if fault is None:
                return converted, None
        return value, _wrong_type(hint, value, where)
    if origin is list:
        if not isinstance(value, list | tuple):
            return value, _wrong_type(hint, value, where)
        (item_hint,) = typing.get_args(hint)
        items = [_convert(item_hint, item, f"{where}[{i}]") for i, item in enumerate(value)]
        return [item for item, _ in items], next((fault for _, fault in items if fault), None)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        return _float(value, where)
    target = origin or hint
    if isinstance(value, bool) and target is not bool:
        return value, _wrong_type(hint, value, where)
    if not isinstance(value, target):
        return value, _wrong_type(hint, value, where)
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        return value, Fault(where, f"is {value!r}, but must be text", "leave it out, or give it a value")
    return value, None


def _float(value: int | str, where: str) -> tuple[Any, Fault | None]:
    """YAML 1.1 reads 1e-3 as a string."""
    try:
        return float(value), number_fault(where, float(value))
    except ValueError:
        return value, _wrong_type(float, value, where)


def number_fault(where: str, value: Any) -> Fault | None:
    """For a number that no computation can use; ``None`` for others, and for what is no number."""
    if isinstance(value, float) and not math.isfinite(value):
        return Fault(where, f"is {value}, but must be a finite number", f"give {where} a finite number")
    if isinstance(value, int) and abs(value) >= 2**63:
        problem = f"is a number of {value.bit_length()} bits, but must fit into 64"
        return Fault(where, problem, f"give {where} a smaller number")
    return None


def _wrong_type(hint: Any, value: Any, where: str) -> Fault:
    name = str(hint) if typing.get_origin(hint) else getattr(hint, "__name__", str(hint))
    name = name.replace("NoneType", "null").replace("None", "null").removesuffix("[typing.Any]")
    return Fault(where, f"is {value!r}, which is not {name}", f"give a value of type {name}")


def _out_of_range(field: dataclasses.Field[Any], value: Any, where: str) -> Fault | None:
    rules = field.metadata
    choices = rules.get("choices")
    if choices is not None and value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        return Fault(where, f"is {value!r}, but must be one of: {listed}", f"set {where} to one of these")
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool) or not isinstance(item, int | float):
            continue
        broken = _broken_bound(rules, float(item))
        if broken:
            return Fault(where, f"is {item}, but must be {broken}", f"set {where} to a number {broken}")
    return None


def _broken_bound(rules: Mapping[str, Any], number: float) -> str | None:
    holds = {
        "ge": lambda bound: number >= bound,
        "gt": lambda bound: number > bound,
        "le": lambda bound: number <= bound,
        "lt": lambda bound: number < bound,
    }
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    given = [(name, rules[name]) for name in holds if rules.get(name) is not None]
    if all(holds[name](bound) for name, bound in given):
        return None
    return " and ".join(f"{signs[name]} {bound:,}" for name, bound in given)


def acts_from(schema: type) -> dict[str, int | None]:
    """For each field the first step it acts in (``None``: never)."""
    return {field.name: field.metadata.get("acts_from", 0) for field in dataclasses.fields(schema)}


def measuring(schema: type) -> set[str]:
    """The fields that decide what is measured."""
    return {field.name for field in dataclasses.fields(schema) if field.metadata.get("measures")}
