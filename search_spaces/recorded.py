"""A space as a journal keeps it, so that a sweep that exists needs no file to know what it searches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces.space import Dimension, Space


def space_record(space: Space) -> dict[str, Any]:
    """All of a space, as plain values."""
    settings = {"name": space.name, "loss": space.loss, "equal_trials": space.equal_trials}
    return settings | {"dimensions": space.describe(), "points": [dict(point) for point in space.points]}


def recorded_space(record: Mapping[str, Any]) -> Space | None:
    """The space of a record; ``None``: the journal is of an earlier version, which kept dimensions alone."""
    if "dimensions" not in record:
        return None
    dimensions = tuple(_dimension(name, fields) for name, fields in record["dimensions"].items())
    points = tuple(record["points"])
    return Space(record["name"], record["loss"], dimensions, equal_trials=record["equal_trials"], points=points)


def dimensions_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The dimensions of a record of any version, by name."""
    found: Mapping[str, Any] = record.get("dimensions", record)
    return found


def _dimension(name: str, fields: Mapping[str, Any]) -> Dimension:
    key = name if fields["when"] is None else name.removeprefix(f"{fields['when']}: ")
    values: dict[str, Any] = {
        field: tuple(value) if isinstance(value, list) else value for field, value in fields.items()
    }
    return Dimension(key, **values)
