"""The numbers behind every table, as plain rows. Scores stay in the unit of the journal (mIoU in 0..1)."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from results.confirmation import comparisons_table
from results.objectives import mean_objective, pareto_front
from results.state import SELECTION_METRIC, SweepState, TrialState

Row = dict[str, Any]

TEST_COLUMNS = {
    "miou": "final/miou",
    "miou_base": "final/miou_base",
    "miou_novel": "final/miou_novel",
    "miou_avg": "final/miou_avg",
    "forgetting": "final/forgetting",
}
"""Column -> metric on the test set. Shown, never used to choose."""

_STEP_METRICS = "miou/"


def winners_table(state: SweepState) -> list[Row]:
    """One row a split: its winner by ``final/val_miou``, the winner's test metrics, and the references.

    All scores are means over the seeds of the winning configuration; ``key`` is its first trial's. In a robust sweep
    the winner is the same for all splits, and ``robust_val_miou``, the mean over them, is what it was chosen by.

    ``joint_miou`` and ``finetune_miou`` are means over ``joint_seeds`` and ``finetune_seeds`` runs.
    ``gap_to_joint_percent`` = 100 (joint - winner) / joint of the test mIoU: positive = below joint training.
    What is not known yet is None.
    """
    return [_winner_row(state, split) for split in state.splits()]


def methods_table(state: SweepState) -> list[Row]:
    """One row a split and method, best first: its best configuration by ``final/val_miou``, over its seeds.

    ``trials`` counts the configurations it was chosen from; ``<score>`` is the mean over the seeds, ``<score>_sd`` the
    standard deviation (n - 1), None for one seed; ``cpu_seconds`` the mean processor time of a run. The references
    joint and finetune have rows of their own, first and last.
    """
    return [row for split in state.splits() for row in _method_rows(state, split)]


def pareto_table(state: SweepState) -> list[Row]:
    """What nobody beats in both objectives, one row a study and configuration, the best ``val_miou`` first.

    ``split`` is the study's: a split, or all of them in a robust sweep. ``val_miou`` and ``cost`` are means over
    ``runs`` trials; ``objective`` says what is the cost. Empty where a search has one objective.
    """
    return [row for name, splits in state.studies().items() for row in _pareto_rows(state, name, splits)]


def codes_table(state: SweepState) -> list[Row]:
    """One row for each code that trials ran on: ``fingerprint`` (empty: not recorded), ``commit``, ``dirty``, what it
    has other than the one before (``changes``: modules and libraries), and the keys of its ``trials``.

    A trial that several codes have a part in is in the rows of all of them.
    """
    rows: dict[str, Row] = {}
    for trial in state.trials.values():
        for name in (trial.codes or [""]) if trial.attempts else []:
            rows.setdefault(name, {"fingerprint": name, "trials": []})["trials"].append(trial.key)
    known = {code["fingerprint"]: (code, before) for before, code in zip([{}, *state.codes], state.codes, strict=False)}
    nothing: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for fingerprint, row in rows.items():
        code, before = known.get(fingerprint, nothing)
        row |= {"commit": code.get("commit"), "dirty": code.get("dirty"), "changes": _code_changes(before, code)}
    return sorted(rows.values(), key=lambda row: list(known).index(row["fingerprint"]) if row["fingerprint"] else -1)


def _code_changes(before: dict[str, Any], code: dict[str, Any]) -> list[str]:
    """Names of the modules and libraries in which two codes differ."""
    if not before:
        return []
    pairs = [(before[part], code[part]) for part in ("code", "libraries")]
    return [name for old, new in pairs for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def trials_table(state: SweepState) -> list[Row]:
    """One row a trial, by number; ``params`` and ``final`` are dictionaries.

    ``code`` is the fingerprint of the code and libraries of its last attempt, ``mixed_code`` what had changed since its
    earlier steps.
    """
    names = ("number", "key", "role", "split", "seed", "status", "attempts", "step", "epoch", "seconds")
    trials = sorted(state.trials.values(), key=lambda trial: trial.number)
    return [
        {name: getattr(trial, name) for name in names}
        | {"cause": trial.cause, "reason": trial.reason, "params": trial.params, "final": trial.final}
        | {"code": trial.origin.get("fingerprint"), "commit": trial.origin.get("commit")}
        | {"dirty": trial.origin.get("dirty"), "mixed_code": ", ".join(trial.origin.get("mixed") or []) or None}
        for trial in trials
    ]


def steps_table(state: SweepState) -> list[Row]:
    """One row a trial and continual step, with every ``miou/*`` point of that step."""
    rows = []
    for trial in sorted(state.trials.values(), key=lambda trial: trial.number):
        by_step: dict[int, Row] = {}
        for (metric, x), (value, _) in trial.points.items():
            if metric.startswith(_STEP_METRICS):
                by_step.setdefault(x, {})[metric] = value
        head = {name: getattr(trial, name) for name in ("number", "key", "role", "split", "seed")}
        rows += [head | {"step": step} | by_step[step] for step in sorted(by_step)]
    return rows


def write_csvs(state: SweepState, folder: Path | str) -> list[Path]:
    """Write ``winners.csv``, ``methods.csv``, ``trials.csv`` and ``steps.csv``; params become columns ``params/<key>``.

    A sweep with two objectives has ``pareto.csv`` too, a confirmation ``confirm.csv``. Returns: the paths. Unknown
    values are empty cells.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"winners": winners_table, "methods": methods_table, "trials": trials_table, "steps": steps_table}
    if len(state.objectives) > 1:
        tables["pareto"] = pareto_table
    if state.confirms:
        tables["confirm"] = comparisons_table
    return [write_csv(folder / f"{name}.csv", table(state)) for name, table in tables.items()]


def status_json(state: SweepState, total: int | None = None, concurrency: int | None = None) -> Row:
    """The status as JSON can hold it (NaN becomes null).

    Args:
        state: the sweep.
        total: planned trials; default those suggested so far.
        concurrency: trials at a time, for the time left; default those running now.
    """
    total = len(state.trials) if total is None else total
    running = [trial for trial in state.trials.values() if trial.status == "running"]
    status = {
        "sweep": state.sweep,
        "uid": state.uid,
        "ended": state.ended,
        "end_status": state.end_status or None,
        "end_bound": state.end_bound or None,
        "cpu_hours": state.cpu_seconds / 3600,
        "gpu_hours": state.gpu_seconds / 3600,
        "updated_at": state.updated_at,
        "total": total,
        "counts": state.counts(),
        "eta_seconds": state.eta_seconds(total, concurrency or len(running)),
        "edits": state.edits,
        "best": winners_table(state),
        "pareto": pareto_table(state),
        "warm_start": (state.config.get("search") or {}).get("warm_start") or [],
        "running": [_running_row(trial) for trial in running],
        "failures": [_failure_row(trial) for trial in failures(state)],
        "notes": notes_table(state),
    }
    return {key: _without_nan(value) for key, value in status.items()}


def failures(state: SweepState) -> list[TrialState]:
    """Failed trials, and those about to be tried again after a failure."""
    return [
        trial
        for trial in state.trials.values()
        if trial.status == "failed" or (trial.status in ("pending", "running") and trial.reason)
    ]


def _pareto_rows(state: SweepState, name: str, splits: list[str]) -> list[Row]:
    if len(state.objectives) < 2:
        return []
    score, cost = state.objectives
    measured = [(c, mean_objective(c.trials, score), mean_objective(c.trials, cost)) for c in state.contenders(splits)]
    scored = [(c, (first, second)) for c, first, second in measured if first is not None and second is not None]
    return [
        {"split": name, "trial": configuration.number, "runs": len(configuration.trials)}
        | {"val_miou": values[0], "objective": cost, "cost": values[1], "params": dict(configuration.params)}
        for configuration, values in (scored[i] for i in pareto_front([values for _, values in scored]))
    ]


def _method_rows(state: SweepState, split: str) -> list[Row]:
    rows = []
    for method in dict.fromkeys(trial.tags.get("loss", "") for trial in state.finished(split)):
        best = state.best(split, method)
        if best is not None:
            trials = sum(c.trials[0].tags.get("loss") == method for c in state.configurations(split))
            rows.append(_method_row(split, method, trials, best.params, best.trials))
    rows.sort(key=lambda row: row["val_miou"], reverse=True)
    ends = {role: [_method_row(split, role, 0, {}, runs)] for role, runs in state.references(split).items() if runs}
    return [*ends.get("joint", []), *rows, *ends.get("finetune", [])]


def _method_row(split: str, method: str, trials: int, params: Row, runs: Sequence[TrialState]) -> Row:
    row: Row = {"split": split, "method": method, "trials": trials, "seeds": len(runs)}
    for column, metric in {"val_miou": SELECTION_METRIC, **TEST_COLUMNS}.items():
        values = [run.final[metric] for run in runs if metric in run.final]
        row[column] = statistics.fmean(values) if values else None
        row[f"{column}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    spent = [run.total("time/step_cpu_seconds") for run in runs]
    return row | {"cpu_seconds": statistics.fmean(spent), "params": dict(params)}


def notes_table(state: SweepState) -> list[Row]:
    """What trials had to tell, one row a text: ``note``, and ``trials``, the keys of those that told it."""
    told: dict[str, list[str]] = {}
    for trial in state.trials.values():
        for note in trial.notes:
            told.setdefault(note, []).append(trial.key)
    return [{"note": note, "trials": keys} for note, keys in told.items()]


def attempts(trial: TrialState) -> int:
    """Those that failed before they could report that they had started included."""
    return max(trial.attempts, len(trial.failures))


def _winner_row(state: SweepState, split: str) -> Row:
    best = state.best(split)
    row: Row = {
        "split": split,
        "finished": len(state.finished(split)),
        "stopped": sum((t.split, t.status) == (split, "stopped") for t in state.trials.values()),
        "trial": best.number if best else None,
        "key": best.trials[0].key if best else None,
        "seeds": len(best.trials) if best else 0,
        "val_miou": best.mean(SELECTION_METRIC) if best else None,
    }
    if state.is_robust:
        row["robust_val_miou"] = _robust_score(state, best.number) if best else None
    row |= {column: best.mean(metric) if best else None for column, metric in TEST_COLUMNS.items()}
    for role, runs in state.references(split).items():
        scores = [run.final["final/miou"] for run in runs if "final/miou" in run.final]
        row[f"{role}_miou"] = sum(scores) / len(scores) if scores else None
        row[f"{role}_seeds"] = len(scores)
    row["gap_to_joint_percent"] = _gap_percent(row["miou"], row["joint_miou"])
    row["params"] = dict(best.params) if best else {}
    return row


def _robust_score(state: SweepState, number: int) -> float | None:
    return next(c.mean(SELECTION_METRIC) for c in state.configurations(*state.splits()) if c.number == number)


def _gap_percent(score: float | None, joint: float | None) -> float | None:
    return None if score is None or not joint else 100 * (joint - score) / joint


def _running_row(trial: TrialState) -> Row:
    return {
        "trial": trial.number,
        "key": trial.key,
        "role": trial.role,
        "split": trial.split,
        "attempt": trial.attempts,
        "step": trial.step,
        "epoch": trial.epoch,
    }


def _failure_row(trial: TrialState) -> Row:
    return {
        "trial": trial.number,
        "key": trial.key,
        "role": trial.role,
        "split": trial.split,
        "seed": trial.seed,
        "attempts": attempts(trial),
        "will_retry": trial.status != "failed",
        "cause": trial.cause or None,
        "reason": trial.reason,
        "traceback": trial.traceback,
    }


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Writes rows, each with its own columns if need be; returns the path."""
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(flat)
    draft.replace(path)  # a reader sees the old file or the new one, never half of it
    return path


def _flat(row: Mapping[str, Any]) -> Row:
    plain = {key: value for key, value in row.items() if key not in ("params", "final")}
    whole = plain | row.get("final", {}) | {f"params/{key}": v for key, v in row.get("params", {}).items()}
    return {csv_cell(name): csv_cell(value) for name, value in whole.items()}


def csv_cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, such as a swept value ``=1+1``, behind an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
