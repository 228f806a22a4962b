"""Tables for the terminal; their rows come from `results.rows`, whose functions are re-exported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from results.confirmation import comparisons_table, contestants_table
from results.rows import (
    Row,
    attempts,
    codes_table,
    failures,
    methods_table,
    notes_table,
    pareto_table,
    status_json,
    steps_table,
    trials_table,
    winners_table,
    write_csvs,
)
from results.state import SweepState, TrialState
from results.statistics import pairs_needed

__all__ = [
    "codes_table",
    "methods_table",
    "pareto_table",
    "render_codes",
    "render_confirmation",
    "render_methods",
    "render_pareto",
    "render_status",
    "render_tracebacks",
    "render_winners",
    "status_json",
    "steps_table",
    "trials_table",
    "winners_table",
    "write_csvs",
]

_REASON_CHARACTERS = 160

MIXED = "MIXED CODE"
"""How results are marked that come from several codes."""

METHODS_WIDTH = 116
"""Columns that `render_methods` needs."""

_METHOD_SCORES = {
    "all": "miou",
    "base": "miou_base",
    "novel": "miou_novel",
    "avg": "miou_avg",
    "forgetting": "forgetting",
}


def render_winners(state: SweepState) -> Table:
    """One column a split: the winner, its scores, the references, the winning parameters. Scores are in percent."""
    rows = winners_table(state)
    mark = f" ({MIXED})" if state.is_mixed else ""
    table = Table(title=Text(f"winners of {state.sweep}{mark}, mIoU in %"), title_justify="left")
    table.add_column("split")
    for row in rows:
        table.add_column(Text(row["split"]), justify="right")
    lines: dict[str, Callable[[Row], str]] = {
        "finished trials": lambda row: str(row["finished"]),
        "stopped early": lambda row: str(row["stopped"]),
        "best configuration": lambda row: "-" if row["trial"] is None else f"trial {row['trial']}",
        "its seeds": lambda row: str(row["seeds"] or "-"),
        "val mIoU" if state.is_robust else "val mIoU (it was chosen by)": lambda row: percent(row["val_miou"]),
        "test mIoU": lambda row: percent(row["miou"]),
        "  base classes, background": lambda row: percent(row["miou_base"]),
        "  novel classes": lambda row: percent(row["miou_novel"]),
        "  mean over steps": lambda row: percent(row["miou_avg"]),
        "  forgetting (positive: lost)": lambda row: percent(row["forgetting"]),
        "joint training (seeds)": lambda row: _reference(row["joint_miou"], row["joint_seeds"]),
        "fine-tuning (seeds)": lambda row: _reference(row["finetune_miou"], row["finetune_seeds"]),
        "gap to joint": lambda row: _gap(row["gap_to_joint_percent"]),
    }
    if state.is_robust:
        lines["mean over splits (it was chosen by)"] = lambda row: percent(row["robust_val_miou"])
    for name, cell in lines.items():
        table.add_row(Text(name), *(Text(cell(row)) for row in rows))
    table.add_section()
    for key in dict.fromkeys(key for row in rows for key in row["params"]):
        table.add_row(Text(key), *(Text(_value(row["params"].get(key))) for row in rows))
    return table


def render_codes(state: SweepState) -> RenderableType:
    """A line where all trials ran on one code, else a table of the codes and their trials."""
    rows = codes_table(state)
    if not state.is_mixed:
        return Text(f"code: {_code(rows[0]) if rows else 'nothing has run yet'}")
    table = Table(title=Text(f"{MIXED}: not all numbers come from the same code"), title_justify="left")
    for heading in ("code", "trials", "other than before"):
        table.add_column(heading)
    for row in rows:
        names = [_name(state.trials[key]) for key in row["trials"]]
        table.add_row(*map(Text, [_code(row), ", ".join(names), "\n".join(row["changes"])]))
    return table


def _code(row: Row) -> str:
    if not row["fingerprint"]:
        return "not recorded"
    dirty = ", edited" if row["dirty"] else ""
    return row["fingerprint"] + (f" (commit {row['commit'][:10]}{dirty})" if row["commit"] else " (no repository)")


def render_methods(state: SweepState) -> Table:
    """Every method of a sweep over several, by split: its best configuration, mean and deviation over the seeds."""
    title = Text(
        f"methods of {state.sweep}: mIoU in % on test images, mean±deviation over the seeds; base with background, "
        "forgetting positive where something is lost"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("split", "method"):
        table.add_column(heading, no_wrap=True)
    for heading in ("trials", "val", *_METHOD_SCORES, "CPU s"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = methods_table(state)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        scores = [_with_deviation(row, column) for column in ("val_miou", *_METHOD_SCORES.values())]
        cells = [row["split"], row["method"], str(row["trials"] or "-"), *scores, f"{row['cpu_seconds']:.0f}"]
        table.add_row(*map(Text, cells), end_section=following is None or following["split"] != row["split"])
    return table


def render_pareto(state: SweepState) -> Table:
    """The Pareto front of every study: configurations that no other one beats in both objectives."""
    objective = state.objectives[-1]
    table = Table(title=Text(f"Pareto front of {state.sweep}: val mIoU in % against {objective}"), title_justify="left")
    table.add_column("split")
    for heading in ("trial", "runs", "val mIoU", objective):
        table.add_column(heading, justify="right")
    table.add_column("parameters")
    for row in pareto_table(state):
        cells = [row["split"], str(row["trial"]), str(row["runs"]), percent(row["val_miou"]), _value(row["cost"])]
        table.add_row(*map(Text, cells), Text(_params(row["params"])))
    return table


def render_confirmation(state: SweepState) -> RenderableType:
    """The contestants of each split and the verdicts."""
    table = Table(
        title=Text(f"confirmation of {state.confirms} on fresh seeds, mIoU in %"), title_justify="left", box=SIMPLE_HEAD
    )
    for heading in ("split", "configuration"):
        table.add_column(heading)
    for heading in ("seeds", "val", "test", "deviation"):
        table.add_column(heading, justify="right")
    for row in contestants_table(state):
        scores = [percent(row[key]) for key in ("val_miou", "miou", "miou_sd")]
        table.add_row(*map(Text, [row["split"], row["configuration"], str(row["seeds"]), *scores]))
    rows = comparisons_table(state)
    lines = [f"{row['split']}: {row['sentence']}" for row in rows]
    return Group(table, Text("\n".join([*lines, *_advice(rows)]) or "nothing to compare yet"))


def render_status(
    state: SweepState, total: int | None = None, concurrency: int | None = None, now: float | None = None
) -> RenderableType:
    """Counts, time left, the best so far in each split, running trials, failures.

    Args:
        state: the sweep.
        total: planned trials; default those suggested so far.
        concurrency: trials at a time, for the time left; default those running now.
        now: unix seconds, for the time left; default the clock.
    """
    running = [trial for trial in state.trials.values() if trial.status == "running"]
    failed = failures(state)
    parts: list[RenderableType] = [_headline(state, total, concurrency or len(running), now)]
    parts.append(_best_lines(state))
    if pareto_table(state):
        parts.append(render_pareto(state))
    if warm := (state.config.get("search") or {}).get("warm_start"):
        parts.append(Text(f"warm start: {len(state.warm)} configurations of {', '.join(warm)}"))
    if state.edits:
        parts.append(_edit_lines(state.edits))
    if state.is_mixed:
        parts.append(render_codes(state))
    if running:
        parts.append(_running_table(state, running))
    if failed:
        parts.append(_failure_lines(failed))
    if notes := notes_table(state):
        parts.append(_note_lines(state, notes))
    if any(_is_cut(trial) for trial in state.trials.values()):
        parts.append(_cut_lines(state))
    return Group(*parts)


def _headline(state: SweepState, total: int | None, concurrency: int, now: float | None) -> Text:
    total = len(state.trials) if total is None else total
    counts = state.counts()
    over = counts["finished"] + counts["stopped"] + counts["failed"]
    counted = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    if state.ended:
        ending = f"ended: {state.end_status}" + (f" by {state.end_bound}" if state.end_bound else "")
    else:
        ending = f"time left {duration(state.eta_seconds(total, concurrency, now))}"
    return Text("   ".join(part for part in (f"{state.sweep}: {over} of {total} trials over", counted, ending) if part))


def _best_lines(state: SweepState) -> Text:
    lines = []
    for row in winners_table(state):
        if row["trial"] is None:
            lines.append(f"best {row['split']}: nothing finished yet")
        else:
            score = percent(row["val_miou"])
            lines.append(f"best {row['split']}: trial {row['trial']}  val mIoU {score} %  {_params(row['params'])}")
    return Text("\n".join(lines))


def _edit_lines(edits: list[dict[str, Any]]) -> Text:
    changes = [(key, old, new) for edit in edits for key, (old, new) in edit.items()]
    return Text("\n".join(f"edited {key}: was {old}, now {new}" for key, old, new in changes))


def _running_table(state: SweepState, running: list[TrialState]) -> Table:
    table = Table(title="running", title_justify="left")
    for heading in ("trial", "role", "split", "attempt", "step", "epoch", "val mIoU in %"):
        table.add_column(heading, justify="right")
    for trial in running:
        latest = state.latest(trial.key, "val/miou_all")
        cells = [trial.number, trial.role, trial.split, trial.attempts, trial.step, trial.epoch]
        table.add_row(*(Text(str(cell)) for cell in cells), Text(percent(latest[1] if latest else None)))
    return table


def _failure_lines(failed: list[TrialState]) -> Text:
    lines = []
    for trial in failed:
        fate = "failed" if trial.status == "failed" else "failed, trying again"
        first_line = (trial.reason or "no reason given").splitlines()[0][:_REASON_CHARACTERS]
        lines.append(f"{_name(trial)} {fate}{_cause(trial)}: {first_line}")
    return Text("\n".join(lines), style="red")


def _note_lines(state: SweepState, notes: list[Row]) -> Text:
    lines = []
    for row in notes:
        others = f" and {len(row['trials']) - 1} more" if len(row["trials"]) > 1 else ""
        lines.append(f"note of {_name(state.trials[row['trials'][0]])}{others}: {row['note']}")
    return Text("\n".join(lines), style="yellow")


def _cause(trial: TrialState) -> str:
    if not trial.cause:
        return ""
    count = attempts(trial)
    return f" ({trial.cause}, {count} attempt{'s' if count > 1 else ''})"


def _name(trial: TrialState) -> str:
    """``trial 3 5-5`` or ``joint 5-5``."""
    return f"{trial.role} {trial.number} {trial.split}" if trial.role == "trial" else f"{trial.role} {trial.split}"


def _is_cut(trial: TrialState) -> bool:
    return bool(trial.tags.get("micro_batches", 1) > 1)


def _cut_lines(state: SweepState) -> Text:
    cut = filter(_is_cut, state.trials.values())
    lines = [
        f"{_name(trial)} ran out of memory: its batches go in {trial.tags['micro_batches']} pieces" for trial in cut
    ]
    return Text("\n".join(lines))


def render_tracebacks(state: SweepState) -> Text:
    """The traceback of the last failure of every trial that failed or is tried again."""
    parts = [f"{_name(t)} seed {t.seed}{_cause(t)}:\n{t.traceback.strip() or t.reason}" for t in failures(state)]
    return Text("\n\n".join(parts) or "no trial has failed")


def _advice(rows: list[Row]) -> list[str]:
    """How many seeds would settle what is undecided."""
    needed = [pairs_needed(row["family"]) for row in rows if row["verdict"] == "undecided"]
    return [f"{max(needed)} seeds can decide it: resume with more search.seeds"] if needed else []


def percent(value: float | None) -> str:
    """A score in 0..1 as screens show it; files keep the fraction."""
    return "-" if value is None else f"{100 * value:.1f}"


def _with_deviation(row: Row, column: str) -> str:
    return "±".join(percent(part) for part in (row[column], row[f"{column}_sd"]) if part is not None) or "-"


def _reference(score: float | None, seeds: int) -> str:
    return "-" if score is None else f"{percent(score)} ({seeds})"


def _gap(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


def _params(params: dict[str, Any]) -> str:
    return "  ".join(f"{key}={_value(value)}" for key, value in params.items())


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """``h:mm:ss``."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
