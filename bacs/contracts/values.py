"""Other legal values of fields, to see what these change."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from bacs.errors import RequestError
from bacs.schema import parse


def other_value(schema: type, field: dataclasses.Field[Any], value: Any, section: str = "loss") -> Any:
    """A legal value of a field that is not ``value``.

    Raises:
        LookupError: where none is found.
    """
    hint = typing.get_type_hints(schema)[field.name]
    alone = dataclasses.make_dataclass("Alone", [(field.name, hint, dataclasses.field(metadata=field.metadata))])
    for candidate in _candidates(field, value):
        with contextlib.suppress(RequestError):
            found = getattr(parse(alone, {field.name: candidate}, section), field.name)
            if found != value:
                return found
    raise LookupError(f"{section}.{field.name} has no legal value but {value!r}, as far as one can tell")


def other_values(settings: Any, names: list[str], section: str) -> dict[str, Any]:
    """The same for some fields of a ``Config``; those without another value are left out."""
    found = {}
    for field in dataclasses.fields(settings):
        if field.name in names:
            with contextlib.suppress(LookupError):
                found[field.name] = other_value(type(settings), field, getattr(settings, field.name), section)
    return found


def _candidates(field: dataclasses.Field[Any], value: Any) -> Iterator[Any]:
    yield from (not value, *(field.metadata.get("choices") or ()), 3, 0.3, 1.5, 0.0)
    if isinstance(value, int | float):
        yield from (value + 1, value - 1, value / 2, 2 * value)
    if isinstance(value, list) and all(isinstance(item, int | float) for item in value):
        yield [item / 2 for item in value]
    yield None
