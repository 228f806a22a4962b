"""The next configuration of a study, as a pure function of the study's history.

Nothing is kept between calls: a study is rebuilt from what its trials returned, and the sampler is seeded afresh for
every suggestion. So the same journal gives the same suggestions, on any machine, after any interruption.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from bacs.randomness import derive_seed
from search_spaces.space import METHOD_KEY, Params, Space

ALGORITHMS = ("tpe", "random", "grid")
LOWEST = 0.0
"""The smallest mean IoU there is: what a configuration counts as that failed before any other has finished."""
RETRIES = 20
"""Draws after which a study that only finds configurations it already had is called exhausted."""


@dataclass(frozen=True, slots=True)
class Told:
    """An earlier suggestion of the same study and what became of it."""

    params: Params
    value: float | None
    """The objective; ``None`` while it runs, or if it failed."""
    failed: bool = False
    """Nobody knows how good it is: the machine failed, not the configuration."""
    worst: bool = False
    """It failed by itself, so it counts as the worst value that its study has seen: a sampler that is told nothing
    comes back to the same corner of the space."""
    pruned: Mapping[int, float] | None = None
    """It was stopped early: its validation mIoU after each step that it finished (1-based)."""

    @property
    def is_open(self) -> bool:
        """Whether its result is still to come."""
        return self.value is None and not self.failed and not self.worst and self.pruned is None


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What makes one study (one task split) what it is."""

    space: Space
    algorithm: str
    seed: int
    split: str
    startup_trials: int
    """Random suggestions before TPE models the history."""


def propose(settings: StudySettings, history: Sequence[Told], first: Sequence[Params] = ()) -> Params | None:
    """Suggestion number ``len(history)``; ``None`` when the space has nothing new to offer.

    Args:
        settings: the study.
        history: all earlier suggestions, in order.
        first: suggested as numbers 0, 1 ...: the default configuration, that of every method in a space of several.
            If one lies outside the space the sampler, which knows no such values, does not see its result. (A grid
            tries its own combinations only.)
    """
    number = len(history)
    if settings.space.enumerated_by(settings.algorithm):
        combinations = _grid(settings.space, first)
        return combinations[number] if number < len(combinations) else None
    if number < len(first):
        return dict(first[number])
    if settings.space.equal_trials:
        method = settings.space.methods[number % len(settings.space.methods)]
        settings = dataclasses.replace(settings, space=settings.space.only(method))
        history = [told for told in history if told.params[METHOD_KEY] == method]
    seen = [told.params for told in history]
    for attempt in range(RETRIES):
        params = _ask(settings, history, derive_seed(settings.seed, settings.split, number, attempt) % 2**32)
        if params not in seen:
            return params
    return None


def _grid(space: Space, first: Sequence[Params]) -> list[Params]:
    combinations = space.grid()
    early = [params for params in first if params in combinations]
    return early + [params for params in combinations if params not in early]


def _worst(history: Sequence[Told]) -> float:
    return min((told.value for told in history if told.value is not None), default=LOWEST)


def _ask(settings: StudySettings, history: Sequence[Told], seed: int) -> Params:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(direction="maximize", sampler=_sampler(settings, seed))
        worst = _worst(history)
        for told in history:
            if not settings.space.contains(told.params):
                continue
            value = worst if told.worst else told.value
            open_or_done = TrialState.RUNNING if value is None else TrialState.COMPLETE
            state = TrialState.FAIL if told.failed else open_or_done
            if told.pruned is not None:
                state = TrialState.PRUNED
            dimensions = settings.space.dimensions_of(told.params)
            study.add_trial(
                create_trial(
                    state=state,
                    params={d.name: told.params[d.key] for d in dimensions},
                    distributions={d.name: d.distribution() for d in dimensions},
                    value=value,
                    intermediate_values=dict(told.pruned or {}),
                )
            )
        trial = study.ask()
        params: Params = {}
        for dimension in settings.space.dimensions:
            if dimension.varies(params):
                params[dimension.key] = dimension.suggest(trial)
        return params


def _sampler(settings: StudySettings, seed: int) -> BaseSampler:
    if settings.algorithm == "random":
        return RandomSampler(seed=seed)
    return TPESampler(
        seed=seed,
        n_startup_trials=settings.startup_trials,
        multivariate=True,
        group=bool(settings.space.methods),  # the knobs of each method are modelled together
        constant_liar=True,
    )
