"""Images per step of the splits that the field uses, as published with the index files of earlier methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bacs.data.scenario import select_images, select_seen
from bacs.data.splits import parse_split

SEEN = "seen"
"""Rule of evaluation: images with a class of the steps so far. The other rules are the modes of the scenario."""
RULES = (("train", "overlap"), ("train", "disjoint"), ("test", SEEN), ("test", "overlap"))
"""Subset and rule of every count. ``sequential`` selects the images of ``disjoint``."""

AGREES, DIFFERS = "as published", "not as published"
OTHER_LIST, OTHER_RULE = "not comparable: other images", "not comparable: other rule"

Counts = Mapping[tuple[str, str, str], tuple[int, ...]]
"""Images per step by (subset, rule, split)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCounts:
    """What is published about the splits of one dataset."""

    splits: tuple[str, ...]
    """The splits that papers report on."""
    published: Counts = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)
    """Images by subset of the lists that the published counts were taken on."""
    remedy: str = ""
    """How to get those lists."""
    binding: bool = True
    """Whether these very rules must give the published counts."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Images per step of one split under one rule."""

    subset: str
    rule: str
    """``overlap``, ``disjoint`` or ``seen``."""
    split: str
    images: tuple[int, ...]
    published: tuple[int, ...] | None
    verdict: str
    """``""`` (nothing is published), ``AGREES``, ``DIFFERS``, ``OTHER_LIST`` or ``OTHER_RULE``."""


VOC = KnownCounts(
    splits=("19-1", "15-5", "15-1", "10-10", "10-5", "10-1", "5-3"),
    published={
        ("train", "overlap", "19-1"): (10410, 548),
        ("train", "overlap", "15-5"): (9568, 2145),
        ("train", "overlap", "15-1"): (9568, 487, 299, 491, 500, 548),
        ("train", "overlap", "10-1"): (6139, 528, 1177, 444, 482, 3898, 487, 299, 491, 500, 548),
        ("train", "disjoint", "19-1"): (10034, 548),
        ("train", "disjoint", "15-5"): (8437, 2145),
        ("train", "disjoint", "15-1"): (8437, 378, 299, 420, 500, 548),
        ("train", "disjoint", "10-10"): (3706, 6876),
        ("train", "disjoint", "10-1"): (3706, 188, 868, 227, 201, 3247, 378, 299, 420, 500, 548),
        ("test", SEEN, "19-1"): (1421, 1449),
        ("test", SEEN, "15-5"): (1240, 1449),
        ("test", SEEN, "15-1"): (1240, 1277, 1329, 1353, 1421, 1449),
        ("test", SEEN, "10-1"): (869, 893, 1005, 1081, 1140, 1240, 1277, 1329, 1353, 1421, 1449),
        ("test", "overlap", "10-1"): (869, 75, 128, 79, 76, 446, 85, 57, 90, 84, 74),
    },
    images={"train": 10582, "test": 1449},
    remedy="get the augmented list and masks: `data prepare voc` says which files, and where they go",
)

ADE20K = KnownCounts(
    splits=("100-50", "100-10", "100-5", "50-50"),
    published={
        ("train", "overlap", "100-50"): (13452, 6744),
        ("train", "overlap", "100-10"): (13452, 1130, 1200, 1366, 1550, 1498),
        ("train", "overlap", "50-50"): (8219, 6384, 5593),
    },
    images={"train": 20210},
    binding=False,
    note="the published counts are of MiB's fixed partition, which gives each image to one step; they are shown for "
    "comparison and need not agree with the overlap rule",
)

CITYSCAPES = KnownCounts(splits=("14-1", "13-6", "13-1", "10-1"))

KNOWN = {"voc": VOC, "ade20k": ADE20K, "cityscapes": CITYSCAPES}
"""By the name of the dataset's configuration. The domain variant has steps of cities, not of classes."""


def step_counts(
    presence: Mapping[str, NDArray[np.bool_]],
    class_names: Sequence[str],
    known: KnownCounts,
    comparable: Collection[str],
) -> list[StepCounts]:
    """Counts the images of every known split under every rule.

    Args:
        presence: (N, V+1) by subset: whether an image has a pixel of a class, by original class id.
        class_names: the V foreground classes.
        known: the splits, and what is published about them.
        comparable: the subsets that hold the images which the published counts were taken on.
    """
    counts = []
    for subset, rule in RULES:
        for split in known.splits:
            published = known.published.get((subset, rule, split))
            if (subset, rule) == ("test", "overlap") and published is None:
                continue  # no protocol evaluates on the classes of one step alone
            images = images_per_step(presence[subset], class_names, split, rule)
            verdict = _verdict(images, published, known, subset in comparable)
            counts.append(StepCounts(subset, rule, split, images, published, verdict))
    return counts


def _verdict(images: tuple[int, ...], published: tuple[int, ...] | None, known: KnownCounts, comparable: bool) -> str:
    if published is None:
        return ""
    if not comparable:
        return OTHER_LIST
    if not known.binding:
        return OTHER_RULE
    return AGREES if images == published else DIFFERS


def images_per_step(presence: NDArray[np.bool_], class_names: Sequence[str], split: str, rule: str) -> tuple[int, ...]:
    """Number of images that each step of ``split`` selects."""
    steps = parse_split(split, class_names)
    if rule == SEEN:
        return tuple(len(select_seen(presence, steps, step)) for step in range(steps.n_steps))
    return tuple(len(select_images(presence, steps, step, rule)) for step in range(steps.n_steps))
