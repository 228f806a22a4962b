"""Tables for the terminal; their rows come from `results.rows`, whose functions are re-exported here."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from results.rows import failures, status_json, steps_table, trials_table, winners_table, write_csvs
from results.state import SweepState, TrialState

__all__ = [
    "render_status",
    "render_winners",
    "status_json",
    "steps_table",
    "trials_table",
    "winners_table",
    "write_csvs",
]

_REASON_CHARACTERS = 160


def render_winners(state: SweepState) -> Table:
    """One line a split: the winner, its test scores, the references, the winning parameters."""
    table = Table(title=Text(f"winners of {state.sweep}"), title_justify="left")
    table.add_column("split")
    for heading in ("finished", "trial", "val mIoU", "test mIoU", "base", "novel", "avg", "forgetting"):
        table.add_column(heading, justify="right")
    for heading in ("joint", "fine-tune", "gap to joint"):
        table.add_column(heading, justify="right")
    table.add_column("parameters")
    for row in winners_table(state):
        scores = ("val_miou", "miou", "miou_base", "miou_novel", "miou_avg", "forgetting")
        references = (("joint_miou", "joint_seeds"), ("finetune_miou", "finetune_seeds"))
        gap = row["gap_to_joint_percent"]
        cells = [row["split"], str(row["finished"]), "-" if row["trial"] is None else str(row["trial"])]
        cells += [_score(row[name]) for name in scores]
        cells += [_reference(row[score], row[seeds]) for score, seeds in references]
        cells += ["-" if gap is None else f"{gap:.1f} %", _params(row["params"])]
        table.add_row(*(Text(cell) for cell in cells))
    return table


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
    if running:
        parts.append(_running_table(state, running))
    if failed:
        parts.append(_failure_lines(failed))
    return Group(*parts)


def _headline(state: SweepState, total: int | None, concurrency: int, now: float | None) -> Text:
    total = len(state.trials) if total is None else total
    counts = state.counts()
    over = counts["finished"] + counts["stopped"] + counts["failed"]
    counted = "  ".join(f"{count} {status}" for status, count in counts.items())
    if state.ended:
        ending = f"ended: {state.end_status}"
    else:
        ending = f"time left {_duration(state.eta_seconds(total, concurrency, now))}"
    return Text(f"{state.sweep}: {over} of {total} trials over   {counted}   {ending}")


def _best_lines(state: SweepState) -> Text:
    lines = []
    for row in winners_table(state):
        if row["trial"] is None:
            lines.append(f"best {row['split']}: nothing finished yet")
        else:
            score = _score(row["val_miou"])
            lines.append(f"best {row['split']}: trial {row['trial']}  val mIoU {score}  {_params(row['params'])}")
    return Text("\n".join(lines))


def _running_table(state: SweepState, running: list[TrialState]) -> Table:
    table = Table(title="running", title_justify="left")
    for heading in ("trial", "role", "split", "attempt", "step", "epoch", "val mIoU"):
        table.add_column(heading, justify="right")
    for trial in running:
        latest = state.latest(trial.key, "val/miou_all")
        cells = [trial.number, trial.role, trial.split, trial.attempts, trial.step, trial.epoch]
        table.add_row(*(Text(str(cell)) for cell in cells), Text(_score(latest[1] if latest else None)))
    return table


def _failure_lines(failed: list[TrialState]) -> Text:
    lines = []
    for trial in failed:
        fate = "failed" if trial.status == "failed" else "failed once, trying again"
        first_line = (trial.reason or "no reason given").splitlines()[0][:_REASON_CHARACTERS]
        lines.append(f"trial {trial.number} {trial.split} {fate}: {first_line}")
    return Text("\n".join(lines), style="red")


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _reference(score: float | None, seeds: int) -> str:
    return "-" if score is None else f"{score:.4f} ({seeds})"


def _params(params: dict[str, Any]) -> str:
    return "  ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
