"""What ``python -m bacs`` shows: a progress line while it trains, a table after every step."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bacs.events import EpochEnded, Event, RunEnded, StepEnded, by_name

BETWEEN_LINES_SECONDS = 60.0
"""Without a terminal epochs are told no more often."""
GROUPS = ("all", "base", "novel", "old", "new")


class RunView:
    """Shows events as they come; use as a context manager.

    In a terminal a bar for epochs; elsewhere a line for each epoch, or a minute, whichever is rarer.
    """

    def __init__(self, console: Console, epochs_total: int, epochs_done: int = 0) -> None:
        self.console = console
        self._told_at = -BETWEEN_LINES_SECONDS
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._epochs = epochs_total
        self.task = self.progress.add_task("step 0", total=epochs_total, completed=epochs_done)

    def __enter__(self) -> RunView:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            values = by_name(event.points)
            text = f"step {event.step} epoch {event.epoch}/{event.epochs}  loss {values['train/loss']:.3f}"
            if "val/miou" in values:
                text += f"  val mIoU {percent(values['val/miou'])} %"
            self.progress.update(self.task, description=text, completed=event.epochs_done)
            if not self.console.is_terminal and time.monotonic() - self._told_at >= BETWEEN_LINES_SECONDS:
                self._told_at = time.monotonic()
                self.console.print(f"{text}  ({event.epochs_done} of {self._epochs} epochs)", soft_wrap=True)
        elif isinstance(event, StepEnded):
            self.console.print(step_table(event))
        elif isinstance(event, RunEnded):
            self.console.print(final_line(event))


def step_table(event: StepEnded) -> Table:
    """MIoU by group, IoU by class (test set, %), forgetting and time of one finished step; fits 80 columns."""
    values = by_name(event.points)
    meaning = "test IoU in % (base with background; forgetting: positive is lost)"
    table = Table(title=f"step {event.step} of {event.n_steps - 1}: {meaning}", title_justify="left")
    for group in (*GROUPS, "forgetting", "val", "time"):
        table.add_column(group, justify="right", style="bold" if group in GROUPS else "")
    cells = [percent(values.get(f"miou/{group}")) for group in GROUPS]
    cells += [percent(values.get("forgetting")), percent(values.get("val/miou_all"))]
    table.add_row(*cells, f"{values['time/step_seconds']:.0f} s")
    classes = (f"{name} {percent(value)}" for name, value in event.class_iou.items())
    table.caption = Text("  ".join(classes))  # names come from data: a bracket in them is no markup
    table.caption_justify = "left"
    return table


def final_line(event: RunEnded) -> str:
    names = {
        "final/miou": "mIoU",
        "final/miou_base": "base with background",
        "final/miou_novel": "novel",
        "final/miou_avg": "avg over steps",
        "final/forgetting": "forgetting (positive: lost)",
        "final/val_miou": "validation",
    }
    return "final, in %: " + ", ".join(f"{text} {percent(event.final.get(name))}" for name, text in names.items())


def percent(value: float | None) -> str:
    """An IoU in [0, 1] as a percentage; a dash where it is not defined."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"  # noqa: PLR0124  NaN
