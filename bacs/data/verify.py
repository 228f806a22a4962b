"""Verification of a dataset on disk: its files, mask values, class table and images per step, with a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bacs.data.class_index import values_present
from bacs.data.known_counts import AGREES, DIFFERS, KnownCounts, StepCounts, step_counts
from bacs.data.layout import Layout, Pair
from bacs.data.mask_values import illegal_counts, likely_cause, no_class_faults, ranges
from bacs.data.pair_check import (
    ILLEGAL_VALUES,
    MISSING,
    OTHER_NAME,
    REMEDIES,
    SIZES_DIFFER,
    TROUBLES,
    TURNED,
    UNREADABLE,
    WRONG_KIND,
    PairReport,
    Trouble,
    inspect_pairs,
)
from bacs.data.scenario import IGNORE

OK, WARNING, FAULT = LEVELS = ("ok", "warning", "fault")

_SAID = {
    MISSING: ("files missing", "add them (`data prepare` says where from), or take their names off the list"),
    OTHER_NAME: ("file names in another form than listed", "rename the files: names must agree letter by letter"),
    UNREADABLE: ("files that cannot be read", "delete them and get them again (`data prepare` says where from)"),
    WRONG_KIND: (
        "pictures of another kind than is read",
        "save images as JPEG or PNG of 8 bits, masks as grey or palette PNG with the class ids as pixel values",
    ),
    SIZES_DIFFER: ("masks of another size than their image", REMEDIES[SIZES_DIFFER]),
    TURNED: ("images that are stored lying, but have upright masks", REMEDIES[TURNED]),
    ILLEGAL_VALUES: ("masks with values that the format does not allow", "allowed are {legal}; {cause}"),
}
"""What is said about each kind of trouble, and the remedy."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and what came of it."""

    level: str
    """One of ``LEVELS``; a dataset with a ``fault`` is not usable."""
    subset: str
    """``train``, ``test``, or empty where the finding is of the dataset."""
    message: str
    remedy: str = ""
    files: tuple[Trouble, ...] = ()
    """Every file concerned, with what is particular to it."""


@dataclass(frozen=True, slots=True)
class SubsetCount:
    """Images of one subset."""

    subset: str
    images: int
    expected: int | None
    """Images of the published dataset."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How often a class occurs, by subset."""

    class_id: int
    """Original class id; 255 for the pixels that are ignored."""
    name: str
    images: dict[str, int]
    pixels: dict[str, int]


@dataclass(frozen=True, slots=True)
class Verification:
    """All that was found out about a dataset."""

    findings: tuple[Finding, ...]
    subsets: tuple[SubsetCount, ...] = ()
    groups: dict[str, dict[str, int]] | None = None
    """Images by domain and subset; ``None`` where the dataset has no domains."""
    classes: tuple[ClassCount, ...] = ()
    steps: tuple[StepCounts, ...] = ()
    note: str = ""
    """On the published counts."""

    @property
    def usable(self) -> bool:
        return not any(finding.level == FAULT for finding in self.findings)


def verify(
    layout: Layout,
    known: KnownCounts | None,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Decodes every mask and every image once, as a run does, and counts.

    Args:
        layout: where the files are and what the mask values mean.
        known: the splits to count the images per step of; ``None`` where steps are not made of classes.
        workers: processes that read; 1 reads in this one.
        progress: called after each image with the number of images done and of all.

    Raises:
        BrokenProcessPool: when a worker process was killed.
    """
    subsets = {"train": layout.train, "test": layout.test}
    reports = _check_all(subsets, layout.legal, workers, progress)
    pixels = {name: _class_pixels(reports[name], layout.table) for name in subsets}
    classes = _class_counts(layout, pixels)
    findings = [*_table_findings(layout)]
    for name, checked in reports.items():
        findings += _count_findings(name, len(checked), layout.expected)
        findings += _file_findings(name, checked, layout)
        findings += _doubtful_findings(name, subsets[name], checked)
    damaged = {name for name, checked in reports.items() if any(report.pixels is None for report in checked)}
    troubles = {trouble.kind for checked in reports.values() for report in checked for trouble in report.troubles}
    if not damaged and ILLEGAL_VALUES not in troubles:  # whose cause is told already
        findings += _no_class_findings(layout, subsets, reports)
    findings += _class_findings(classes, subsets.keys() - damaged)
    steps: list[StepCounts] = []
    if known is not None:
        listed = {name for name in subsets if len(subsets[name]) == known.images.get(name)}
        presence = {name: counts[:, : len(layout.class_names) + 1] > 0 for name, counts in pixels.items()}
        steps = step_counts(presence, layout.class_names, known, listed - damaged)
        findings += _list_kind_findings(subsets, layout, known)
        findings += _step_findings(steps, known)
    return Verification(
        findings=tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
        subsets=tuple(SubsetCount(name, len(pairs), layout.expected.get(name)) for name, pairs in subsets.items()),
        groups=_groups(subsets),
        classes=tuple(classes),
        steps=tuple(steps),
        note=known.note if known else "",
    )


def _check_all(
    subsets: Mapping[str, Sequence[Pair]],
    legal: frozenset[int],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, list[PairReport]]:
    pairs = [pair for members in subsets.values() for pair in members]
    done = iter(range(1, len(pairs) + 1))
    advanced = None if progress is None else lambda: progress(next(done), len(pairs))
    reports = iter(inspect_pairs(pairs, legal, workers, advanced))
    return {name: [next(reports) for _ in members] for name, members in subsets.items()}


def _class_pixels(reports: Sequence[PairReport], table: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, 256) Number of pixels by original class id; zeros for masks that could not be read."""
    by_value = np.zeros((len(reports), 256), dtype=np.int64)
    for row, report in zip(by_value, reports, strict=True):
        if report.pixels is not None:
            row[:] = report.pixels
    by_class = np.zeros_like(by_value)
    for value, class_id in enumerate(table):
        by_class[:, class_id] += by_value[:, value]
    return by_class


def _names(layout: Layout) -> dict[int, str]:
    """Name by original class id, with the background where the dataset has one."""
    ids = layout.table[layout.table != IGNORE]
    if ids.size and int(ids.max()) == len(layout.class_names) - 1:
        return dict(enumerate(layout.class_names))
    return dict(enumerate(("background", *layout.class_names)))


def _class_counts(layout: Layout, pixels: Mapping[str, NDArray[np.int64]]) -> list[ClassCount]:
    rows = []
    for class_id, name in (_names(layout) | {IGNORE: "(ignored)"}).items():
        of_class = {subset: counts[:, class_id] for subset, counts in pixels.items()}
        images = {subset: int(np.count_nonzero(counts)) for subset, counts in of_class.items()}
        rows.append(ClassCount(class_id, name, images, {subset: int(c.sum()) for subset, c in of_class.items()}))
    return rows


def _groups(subsets: Mapping[str, Sequence[Pair]]) -> dict[str, dict[str, int]] | None:
    names = dict.fromkeys(pair.group for pairs in subsets.values() for pair in pairs)
    if not any(names):
        return None
    counters = {subset: Counter(pair.group for pair in pairs) for subset, pairs in subsets.items()}
    return {name: {subset: counter[name] for subset, counter in counters.items()} for name in names}


def _table_findings(layout: Layout) -> Iterator[Finding]:
    """Every class must be met by a mask value, and every mask value lead to a class or be ignored."""
    names = _names(layout)
    reached = {int(layout.table[value]) for value in layout.legal} - {IGNORE}
    unreached = [name for class_id, name in names.items() if class_id not in reached]
    unnamed = sorted(reached - names.keys())
    if unreached:
        yield Finding(FAULT, "", f"classes that no mask value stands for: {', '.join(unreached)}", "name fewer classes")
    if unnamed:
        yield Finding(FAULT, "", f"mask values lead to classes without a name: {unnamed}", "name every class")
    if not unreached and not unnamed:
        background = "" if len(names) == len(layout.class_names) else " and the background"
        yield Finding(OK, "", f"class table: {len(layout.class_names)} classes{background}")


def _count_findings(subset: str, images: int, expected: Mapping[str, int]) -> Iterator[Finding]:
    published = expected.get(subset)
    if published is not None and images != published:
        problem = f"has {images:,} images, the published dataset {published:,}"
        remedy = "get the whole dataset (`data prepare` says where from), or correct the list"
        yield Finding(FAULT, subset, problem, remedy)


def _file_findings(subset: str, reports: Sequence[PairReport], layout: Layout) -> Iterator[Finding]:
    troubles = [trouble for report in reports for trouble in report.troubles]
    for kind in TROUBLES:
        files = tuple(trouble for trouble in troubles if trouble.kind == kind)
        if files:
            message, remedy = _SAID[kind]
            told, cause = "", ""
            if kind == ILLEGAL_VALUES:
                values = values_present(reports)
                told = f": {illegal_counts(values, layout.legal)}"
                cause = likely_cause(values, layout)
            remedy = remedy.format(legal=ranges(layout.legal), cause=cause)
            yield Finding(FAULT, subset, f"{message} ({len(files)}){told}", remedy, files)
    if not troubles and reports:
        yield Finding(OK, subset, f"{len(reports):,} images and masks are there, readable, of equal sizes, in range")


def _doubtful_findings(subset: str, pairs: Sequence[Pair], reports: Sequence[PairReport]) -> Iterator[Finding]:
    doubtful = zip(pairs, reports, strict=True)
    files = tuple(Trouble(TURNED, str(pair.image)) for pair, report in doubtful if report.is_doubtful)
    if files:
        message = f"images with a camera's note to turn them, which is not applied ({len(files)})"
        yield Finding(WARNING, subset, message, "their masks must be drawn on the pixels as they are stored", files)


def _no_class_findings(
    layout: Layout, subsets: Mapping[str, Sequence[Pair]], reports: Mapping[str, Sequence[PairReport]]
) -> Iterator[Finding]:
    for subset, pairs in subsets.items():
        for fault in no_class_faults(layout, subset, pairs, values_present(reports[subset])):
            yield Finding(FAULT, subset, fault.problem, fault.remedy)


def _class_findings(classes: Sequence[ClassCount], subsets: Collection[str]) -> Iterator[Finding]:
    """A class may be absent from a small dataset, but nothing is learned of it and its step may be empty."""
    for subset in sorted(subsets):
        absent = [row.name for row in classes if row.class_id != IGNORE and not row.images[subset]]
        if absent:
            remedy = "nothing is learned or measured of them: add images, or leave them out of the split"
            yield Finding(WARNING, subset, f"classes without a pixel: {_few(absent)}", remedy)


def _list_kind_findings(subsets: Mapping[str, Sequence[Pair]], layout: Layout, known: KnownCounts) -> Iterator[Finding]:
    """A complete list, but another than the published counts were taken on (VOC without the augmented masks)."""
    for subset, images in known.images.items():
        here = len(subsets[subset])
        if here != images and here == layout.expected.get(subset):
            problem = f"the published counts per step do not apply: of {images:,} images, the list has {here:,}"
            yield Finding(WARNING, subset, problem, known.remedy)


def _step_findings(steps: Sequence[StepCounts], known: KnownCounts) -> Iterator[Finding]:
    compared = [row for row in steps if row.verdict in (AGREES, DIFFERS)]
    for subset in ("train", "test"):
        differing = [f"{row.split} {row.rule}" for row in compared if row.subset == subset and row.verdict == DIFFERS]
        if differing:
            problem = f"images per step are not as published: {_few(differing)}"
            yield Finding(FAULT, subset, problem, known.remedy or "get list and masks from the same release")
    if compared and all(row.verdict == AGREES for row in compared):
        yield Finding(OK, "", f"images per step are as published, in all {len(compared)} counts that are known")


def _few(items: Sequence[str], most: int = 8) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
