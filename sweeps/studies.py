"""What is searched as one: each task split by itself or, in a robust sweep, all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from results.state import ROBUST
from search_spaces.propose import StudySettings
from sweeps.settings import SweepConfig, split_name


def studies(sweep: SweepConfig) -> dict[str, list[Any]]:
    """The splits of each study, by its name; every configuration of a study runs on all of them."""
    splits = sweep.search.splits
    return {ROBUST: list(splits)} if sweep.search.robust else {split_name(split): [split] for split in splits}


def study_of(sweep: SweepConfig, split: str) -> str:
    """The name of the study that a split, given by its text, belongs to."""
    return ROBUST if sweep.search.robust else split


def study_settings(sweep: SweepConfig, study: str) -> StudySettings:
    """What its suggestions depend on, beside the results."""
    search = sweep.search
    return StudySettings(
        sweep.space_of(study),
        search.algorithm,
        search.seed,
        study,
        search.startup_trials,
        search.population_size,
        len(search.objectives),
    )


def split_names(splits: Iterable[Any]) -> list[str]:
    return [split_name(split) for split in splits]
