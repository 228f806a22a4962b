"""The history of a run as rows and records. Shares lie in 0..1; what is not defined is NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bacs.events import Point, is_per_epoch
from bacs.lineage import run_identity
from bacs.report.history import History

Row = dict[str, Any]


def record(history: History) -> dict[str, Any]:
    """All that ``metrics.json`` holds."""
    training = history.config.training
    by_step, by_epoch = _divided(history.points)
    return {
        "identity": run_identity(history.config),
        "split": training.split,
        "mode": training.mode,
        "seed": training.seed,
        "classes": _classes(history),
        "steps": _grouped(by_step, "step"),
        "epochs": _grouped(by_epoch, "epoch"),
        "step_matrix": history.step_matrix(),
        "forgetting_by_class": history.forgetting_by_class(),
        "final": history.final,
        **({"notes": history.notes} if history.notes else {}),
    }


def step_rows(history: History) -> list[Row]:
    """A row a finished step with every metric of it; those of single classes are in :func:`class_rows`."""
    by_step, _ = _divided(history.points)
    return _grouped([point for point in by_step if not point.metric.startswith("class_iou/")], "step")


def class_rows(history: History) -> list[Row]:
    """A row a finished step and class known by then: quality, and the pixels of the ground truth."""
    rows = []
    classes = _classes(history)
    for step, scores in enumerate(history.tested):
        matrix = np.array(scores.matrix)
        hits, truth, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
        for label, iou in enumerate(scores.iou):
            found = int(hits[label])
            quality = {"iou": iou, "precision": _share(found, predicted[label]), "recall": _share(found, truth[label])}
            rows.append({"step": step, **classes[label], **quality, "pixels": int(truth[label])})
    return rows


def confusion_lines(history: History, step: int) -> list[list[Any]]:
    """A header, then a line a class of the ground truth, a column a predicted class, in pixels."""
    matrix = history.tested[step].matrix
    names = history.class_names[: len(matrix)]
    return [["truth", *names], *([name, *counts] for name, counts in zip(names, matrix, strict=True))]


def lines(rows: list[Row]) -> list[list[Any]]:
    """A header with the names of all rows, as they first occur, then the rows, with ``None`` where one has no value."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return [columns, *([row.get(name) for name in columns] for row in rows)]


def _classes(history: History) -> list[Row]:
    """Name, id in the masks of the dataset, and step of each internal label; background belongs to no step."""
    steps = history.split.step_of_class().tolist()
    known = zip(history.class_names, history.split.label_ids, steps, strict=True)
    return [{"class": name, "id": class_id, "since": None if step < 0 else step} for name, class_id, step in known]


def _divided(points: list[Point]) -> tuple[list[Point], list[Point]]:
    """(of steps, of epochs)."""
    return [p for p in points if not is_per_epoch(p.metric)], [p for p in points if is_per_epoch(p.metric)]


def _grouped(points: list[Point], axis: str) -> list[Row]:
    rows: dict[int, Row] = {}
    for point in points:
        rows.setdefault(point.x, {axis: point.x})[point.metric] = point.value
    return list(rows.values())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
