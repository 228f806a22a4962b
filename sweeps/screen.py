"""What a driver shows while it runs: a live table in a terminal, elsewhere a line for whatever ends."""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from bacs.terminal import Terminal
from results.state import TrialState
from results.tables import percent, render_status
from sweeps.ledger import Ledger, trials_at_once

WAITS = "waiting: another sweep computes the steps that are needed next"
BETWEEN_LINES_SECONDS = 60.0
"""Without a terminal a trial under way tells of its epochs no more often."""


class Doing:
    """What the driver does while no trial runs, and since when."""

    def __init__(self) -> None:
        self.text = ""
        self._since = time.monotonic()

    def __call__(self, text: str) -> None:
        self.text, self._since = text, time.monotonic()

    def __str__(self) -> str:
        return f"{self.text} ({time.monotonic() - self._since:.0f} s)"


@contextlib.contextmanager
def shown(ledger: Ledger, doing: Doing, console: Terminal) -> Iterator[None]:
    """Shows the progress of a sweep until the end of the block."""
    if console.is_terminal:
        with Live(get_renderable=lambda: _status(ledger, doing), console=console, refresh_per_second=2):
            yield
        return
    done = threading.Event()
    lines = _Lines(ledger, doing, console)
    thread = threading.Thread(target=lines.follow, args=(done,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _status(ledger: Ledger, doing: Doing) -> Any:
    with ledger.reading() as state:
        parts = [render_status(state, ledger.total, trials_at_once(ledger.sweep))]
        idle = not any(trial.status == "running" for trial in state.trials.values())
    if ledger.waits_for_others:
        parts.append(Text(WAITS, "yellow"))
    elif idle and doing.text:
        parts.append(Text(str(doing), "yellow"))
    return Group(*parts)


def command(verb: str, folder: Path, *more: str) -> str:
    """A command line for a sweep that can be pasted. Args: more: what follows its name."""
    where = [] if folder.parent == Path("runs").absolute() else ["--storage", str(folder.parent)]
    return shlex.join([str(shown_path(Path(sys.executable))), "-m", "sweeps", verb, folder.name, *where, *more])


def shown_path(path: Path) -> Path:
    """As a user in this folder would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class _Lines:
    """A line when the driver does something else, and when a step or a trial ends; of epochs at most one a minute."""

    def __init__(self, ledger: Ledger, doing: Doing, console: Terminal) -> None:
        self._ledger, self._doing, self._console = ledger, doing, console
        with ledger.reading() as state:
            self._over = {key for key, trial in state.trials.items() if trial.is_over}
            self._places = {key: (trial.step, trial.epoch) for key, trial in state.trials.items()}
        self._told_at: dict[str, float] = {}
        self._told = ""

    def follow(self, done: threading.Event) -> None:
        """Looks once a second, and once more at the end."""
        while not done.wait(1.0):
            self.look()
        self.look()

    def look(self) -> None:
        """Tells what is new."""
        doing = WAITS if self._ledger.waits_for_others else self._doing.text
        if doing != self._told:
            self._told = doing
            self._print(doing)
        lines = []
        with self._ledger.reading() as state:
            for key, trial in state.trials.items():
                if trial.is_over and key not in self._over:
                    self._over.add(key)
                    lines.append(f"[{len(self._over)}/{self._ledger.total}] {_ending(trial)}")
                elif not trial.is_over and trial.attempts:
                    lines += self._progress(trial)
        for line in lines:
            self._print(line)

    def _progress(self, trial: TrialState) -> list[str]:
        before, now = self._places.get(trial.key, (0, 0)), (trial.step, trial.epoch)
        is_due = time.monotonic() - self._told_at.get(trial.key, -BETWEEN_LINES_SECONDS) >= BETWEEN_LINES_SECONDS
        if now == before or not (now[0] > before[0] or is_due):
            return []
        self._places[trial.key], self._told_at[trial.key] = now, time.monotonic()
        steps = self._ledger.steps_of(trial)
        place = f"step {trial.step}/{steps} over" if now[0] > before[0] else f"in step {trial.step + 1}/{steps}"
        points = [(x, value) for (name, x), (value, _) in trial.points.items() if name == "val/miou_all"]
        score = f", val mIoU {percent(max(points)[1])} %" if points else ""
        return [f"{_name(trial)}: {place}, epoch {trial.epoch} of the run{score}"]

    def _print(self, text: str) -> None:
        if text:
            self._console.say(text)


def _name(trial: TrialState) -> str:
    name = f"{trial.role} {trial.number}" if trial.role == "trial" else trial.role
    return f"{name}, split {trial.split}, seed {trial.seed}"


def _ending(trial: TrialState) -> str:
    value = trial.final.get("final/val_miou")
    why = f"{trial.cause}: {trial.reason}".removeprefix(": ").partition("\n")[0]
    return f"{trial.status}: {_name(trial)}: {f'val mIoU {percent(value)} %' if value is not None else why}"
