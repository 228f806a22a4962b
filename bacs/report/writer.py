"""Writes the files of a history."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from bacs.atomic import replacing
from bacs.media import animate
from bacs.origin import Origin
from bacs.report.history import History
from bacs.report.tables import class_rows, confusion_lines, lines, record, step_rows


def write_results(folder: Path, history: History, origin: Origin | None = None) -> None:
    """Writes what is known so far over what an earlier step, or an earlier run, has left there.

    - ``metrics.json``: see :func:`bacs.report.tables.record`; what is not defined is null. With ``mixed_code`` where
      several codes have a part in it.
    - ``origin.json``: the code, libraries and devices behind it (:class:`bacs.origin.Origin`).
    - ``steps.csv``, ``classes.csv``, ``confusion-<t>.csv``: what is not defined is empty.
    - ``confusion.gif``: the confusion matrix over training, with ``training.log_animation``.

    Only one process of a run may call it. Each file is replaced as a whole; matrices and an animation that do not
    belong to the history are removed.
    """
    tables = {"steps.csv": lines(step_rows(history)), "classes.csv": lines(class_rows(history))}
    tables |= {f"confusion-{step}.csv": confusion_lines(history, step) for step in range(len(history.tested))}
    for name, table in tables.items():
        _write_table(folder / name, table)
    animation = animate(history.frames, history.class_names) if history.frames else None
    if animation is not None:
        with replacing(folder / "confusion.gif") as draft:
            draft.write_bytes(animation)
    for path in folder.glob("confusion*"):
        if path.name not in tables and (animation is None or path.name != "confusion.gif"):
            path.unlink()
    metrics = _defined(record(history))
    if origin is not None:
        _write_json(folder / "origin.json", origin.state())
        metrics |= {"mixed_code": origin.mixed} if origin.mixed else {}
    _write_json(folder / "metrics.json", metrics)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write_table(path: Path, table: list[list[Any]]) -> None:
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([[_cell(_defined(value)) for value in line] for line in table])


CELL_STARTS = ("=", "+", "-", "@", "\t", "\r")


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, such as a class called ``=1+1``, behind an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(CELL_STARTS) else value


def _defined(value: Any) -> Any:
    """The same with ``None`` in the place of NaN, which JSON does not know; a table shows it as a blank."""
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
