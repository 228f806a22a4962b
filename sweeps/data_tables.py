"""What the verification of a dataset found, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bacs.data.known_counts import AGREES, DIFFERS, StepCounts
from bacs.data.verify import FAULT, OK, WARNING, Finding, Verification

_FILES_SHOWN = 5
_STYLES = {OK: "green", WARNING: "yellow", FAULT: "bold red", AGREES: "green", DIFFERS: "bold red"}
_SUBSETS = ("train", "test")
_TEXTS = ("subset", "domain", "class", "rule", "split")
"""Columns that hold no numbers."""


def render_verification(dataset: str, verification: Verification) -> RenderableType:
    """Counts first, then the findings, then the verdict, so that what matters stands where the output ends."""
    parts: list[RenderableType] = []
    if verification.subsets:
        parts.append(_subsets_table(verification))
    if verification.groups:
        parts.append(_groups_table(verification.groups))
    if verification.classes:
        parts.append(_classes_table(verification))
    if verification.steps:
        parts.append(_steps_table(verification))
    parts += [_finding(finding) for finding in verification.findings]
    return Group(*parts, _verdict(dataset, verification))


def _subsets_table(verification: Verification) -> Table:
    table = _table("images", "subset", "images", "published")
    for row in verification.subsets:
        table.add_row(row.subset, f"{row.images:,}", "-" if row.expected is None else f"{row.expected:,}")
    return table


def _groups_table(groups: dict[str, dict[str, int]]) -> Table:
    table = _table("images by domain", "domain", *_SUBSETS)
    for name, images in groups.items():
        table.add_row(Text(name), *(f"{images[subset]:,}" for subset in _SUBSETS))
    return table


def _classes_table(verification: Verification) -> Table:
    table = _table(
        "classes", "id", "class", *(f"{subset} {what}" for subset in _SUBSETS for what in ("images", "pixels"))
    )
    totals = {subset: sum(row.pixels[subset] for row in verification.classes) or 1 for subset in _SUBSETS}
    for row in verification.classes:
        cells = [
            cell
            for subset in _SUBSETS
            for cell in (f"{row.images[subset]:,}", f"{100 * row.pixels[subset] / totals[subset]:.2f} %")
        ]
        table.add_row(str(row.class_id), Text(row.name), *cells)
    return table


def _steps_table(verification: Verification) -> Table:
    table = _table("images per step", "subset", "rule", "split", "images", "published")
    for row in verification.steps:
        table.add_row(row.subset, row.rule, row.split, _numbers(row.images), _published(row))
    table.caption = verification.note or None
    table.caption_justify = "left"
    return table


def _published(row: StepCounts) -> Text:
    if row.published is None:
        return Text("-")
    if row.verdict == AGREES:
        return Text("the same", style=_STYLES[AGREES])
    return Text(f"{_numbers(row.published)} ({row.verdict})", style=_STYLES.get(row.verdict, "yellow"))


def _numbers(counts: Sequence[int]) -> str:
    return " ".join(map(str, counts))


def _finding(finding: Finding) -> Text:
    text = Text(f"{finding.level:<8}", style=_STYLES[finding.level])
    subset = f"{finding.subset}: " if finding.subset else ""
    text.append(f"{subset}{finding.message}", style="default")
    for trouble in finding.files[:_FILES_SHOWN]:
        text.append(f"\n          {trouble.file} {trouble.detail}".rstrip(), style="default")
    if len(finding.files) > _FILES_SHOWN:
        text.append(f"\n          and {len(finding.files) - _FILES_SHOWN:,} more; --json lists all", style="default")
    if finding.remedy:
        text.append(f"\n    -> {finding.remedy}", style="default")
    return text


def _verdict(dataset: str, verification: Verification) -> Text:
    faults = sum(finding.level == FAULT for finding in verification.findings)
    if verification.usable:
        return Text(f"{dataset} is usable", style="bold green")
    return Text(f"{dataset} is not usable: {faults} fault{'s' if faults > 1 else ''}", style="bold red")


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _TEXTS else "right")
    return table
