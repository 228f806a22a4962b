"""One journal record <-> one line of bytes.

A line is strictly valid JSON in ASCII, ends with a newline, and its last member is the CRC-32 of everything
before it: ``{"seq":1,"time":1.5,"kind":"started",...,"crc":"89abcdef"}``.

JSON has no NaN and no infinity. They are written as the strings "NaN", "Infinity" and "-Infinity", which are
reserved: wherever one of these three stands as a value, readers get the float. (So a configuration whose
value is the *string* "NaN" comes back as the float; nothing else changes.)
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""A decoded line: ``seq`` (1-based, the line number), ``time`` (unix seconds), ``kind``, its fields."""

_HEAD = {"seq", "time", "kind"}
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_TAIL_FORMAT = b',"crc":"%08x"}'
_TAIL_BYTES = len(_TAIL_FORMAT % 0)
_SMALLEST_BLOCK = 512
_TAIL_PATTERN = re.compile(rb',"crc":"[0-9a-f]{8}"}')


def encode_line(record: Mapping[str, Any]) -> bytes:
    """The line of a record, newline included.

    Raises:
        TypeError: a value is neither JSON, nor a path, nor a scalar with ``.item()`` (numpy, torch).
    """
    body = json.dumps(_to_json(record), allow_nan=False, separators=(",", ":")).encode("ascii")
    return body[:-1] + _TAIL_FORMAT % zlib.crc32(body) + b"\n"


def decode_line(line: bytes) -> Record | None:
    """The record of a line given without its newline; None when the line is torn or damaged."""
    body, tail = line[:-_TAIL_BYTES] + b"}", line[-_TAIL_BYTES:]
    if tail != _TAIL_FORMAT % zlib.crc32(body):
        return None
    try:
        record = _from_json(json.loads(body))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.keys() >= _HEAD else None


def is_torn(tail: bytes, seq: int | None) -> bool:
    """Whether the end of a file, after its last newline, may be a line whose writing was cut short.

    A killed writer leaves a prefix of its line, a power cut perhaps blocks of zeros in it.

    Args:
        tail: the bytes.
        seq: of the line that was to be written; ``None``: not known.
    """
    text = tail.rstrip(b"\0")
    head = b'{"seq":%s' % (b"" if seq is None else b'%d,"time":' % seq)
    begins_rightly = text[: len(head)] == head[: len(text)]
    return is_unwritten(tail) or (begins_rightly and not _hides_record(text))


def is_unwritten(line: bytes) -> bool:
    """Whether blocks of a line never reached the disk, so that zeros (which are in no record) stand there."""
    return line.startswith(b"\0") or b"\0" * _SMALLEST_BLOCK in line


def _hides_record(line: bytes) -> bool:
    """Whether a line that cannot be decoded starts with a whole record: its newline was damaged, not torn."""
    ends = (match.end() for match in _TAIL_PATTERN.finditer(line))
    return any(end < len(line) and decode_line(line[:end]) is not None for end in ends)


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _non_finite_name(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Path):
        return str(value)
    if callable(getattr(value, "item", None)):  # a numpy or torch scalar, known without importing either
        return _to_json(value.item())
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written to a journal")


def _non_finite_name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    return value
