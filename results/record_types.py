"""What each kind of journal record must hold, so that whoever folds records need not doubt them.

A line whose checksum is right may still have been written by another program. Fields that this version does not know
are let through: a later one may have written them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""Of a trial; also the name of its folder, so it must not lead out of the one around it."""
Count = Annotated[int, Field(ge=0)]
Number = StrictInt | StrictFloat
Point = Annotated[tuple[StrictStr, StrictInt, Number, Number], Field(strict=False)]
"""metric, x, value, unix seconds."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class Tags(_Part):
    """Of a trial; those that are reckoned with."""

    reused_steps: Count | None = None
    micro_batches: Count | None = None


class Code(_Part):
    """What a driver tells of its code; see `results.state.SweepState.codes`."""

    fingerprint: str
    commit: str | None = None
    dirty: bool | None = None
    code: dict[str, str]
    libraries: dict[str, str]


class Stop(_Part):
    """See `results.state.StopDecision`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    step: int
    epoch: int
    reason: str
    audited: bool


class Created(_Part):
    """A new sweep."""

    sweep: str
    uid: str
    config: dict[str, Any] | None = None
    space: dict[str, Any] | None = None
    warm: list[dict[str, Any]] | None = None
    versions: dict[str, Any] | None = None
    code: Code | None = None


class Resumed(_Part):
    """A driver that goes on."""

    code: Code | None = None
    allow_other_code: bool | None = None


class Edited(_Part):
    """Settings that were changed: dotted key -> [old, new]."""

    changes: dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]]


class Ended(_Part):
    """The end of a driver."""

    status: str
    bound: str | None = None
    edited_code: str | None = None


class OfTrial(_Part):
    """What every record of a trial may hold."""

    trial: Key
    tags: Tags | None = None
    notes: list[str] | None = None
    held_seconds: Number | None = None


class Suggested(OfTrial):
    """A trial that shall run."""

    number: Count
    role: str
    split: str
    seed: int
    params: dict[str, Any]
    config: dict[str, Any]


class Placed(OfTrial):
    """A trial with other resources or folders."""

    config: dict[str, Any]


class Started(OfTrial):
    """An attempt of a trial."""

    attempt: int | None = None
    origin: dict[str, Any] | None = None


class Reported(OfTrial):
    """Points of a trial."""

    step: Count | None = None
    epoch: Count | None = None
    points: list[Point]
    stop: Stop | None = None


class Over(OfTrial):
    """The end of an attempt."""

    reason: str | None = None
    final: dict[str, Number] | None = None
    seconds: Number | None = None
    cause: str | None = None
    traceback: str | None = None
    will_retry: bool | None = None
    charged: bool | None = None


_KINDS: dict[str, type[_Part]] = {
    "created": Created,
    "resumed": Resumed,
    "edited": Edited,
    "ended": Ended,
    "suggested": Suggested,
    "placed": Placed,
    "started": Started,
    "reported": Reported,
    "stopped": Over,
    "finished": Over,
    "failed": Over,
    "reopened": OfTrial,
}


class _Head(_Part):
    seq: Literal[0] | Annotated[int, Field(ge=1)]
    time: Number
    kind: str


def record_fault(record: Mapping[str, Any]) -> str:
    """The field that is missing or wrong, with its value; empty for a record as it should be, or of an unknown kind."""
    for model in (_Head, _KINDS.get(str(record.get("kind")), _Part)):
        try:
            model.model_validate(record)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "record"
            found = "" if first["type"] == "missing" else f", but is {str(first['input'])[:80]!r}"
            return f"{where}: {first['msg'].lower()}{found}"
    return ""
