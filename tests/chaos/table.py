"""A campaign as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tests.chaos.campaign import Hit, Report, shortened
from tests.chaos.fault import Fault
from tests.chaos.kinds import KINDS


def render(report: Report, kinds: Sequence[Fault]) -> RenderableType:
    """One line for every kind; below it every difference in full."""
    summary = f"{len(report.hits)} faults, {len(report.differences)} sweeps, {report.seconds / 60:.1f} minutes"
    table = Table("fault", "strikes", title=f"fault campaign, seed {report.seed}: {summary}")
    for name in ("hits", "drivers", "attempts"):
        table.add_column(name, justify="right")
    table.add_column("outcome")
    struck = {hit.fault for hit in report.hits}
    for kind in [kind for kind in KINDS.values() if kind in kinds or kind.key in struck]:
        hits = [hit for hit in report.hits if hit.fault == kind.key]
        drivers, attempts = (str(sum(getattr(hit, name) for hit in hits)) for name in ("drivers", "attempts"))
        table.add_row(kind.key, kind.when.value, str(len(hits)), drivers, attempts, _outcome(report, kind, hits))
    lines = [f"{sweep}: {text}" for sweep, texts in report.differences.items() for text in shortened(texts)]
    if report.not_hit:
        lines.append(f"found nothing to strike: {', '.join(report.not_hit)}")
    note = "drivers: started because of it; attempts: of trials, likewise; faults that struck together share them"
    return Group(table, Text(note), *map(Text, lines or ["every sweep came to what the undisturbed one is"]))


def as_json(report: Report) -> str:
    return json.dumps(dataclasses.asdict(report) | {"clean": report.is_clean}, indent=1)


def _outcome(report: Report, kind: Fault, hits: list[Hit]) -> str:
    if kind.key in report.skipped:
        return f"skipped: {report.skipped[kind.key]}"
    if not hits:
        return "-"
    different = sorted({hit.sweep for hit in hits if report.differences.get(hit.sweep)})
    return f"DIFFERENT: {', '.join(different)}" if different else "same"
