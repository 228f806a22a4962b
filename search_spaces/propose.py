"""The next configuration of a study, as a pure function of the study's history.

Nothing is kept between calls: a study is rebuilt from what its trials returned, and the sampler is seeded afresh for
every suggestion. So the same journal gives the same suggestions after any interruption (``gp`` computes with floats
all the way, whose last digits may differ on another kind of processor, or where greenlet is installed).

What the algorithms do with knobs that are no plain numbers:

- ``tpe`` models choices too, and in a space over methods the knobs of each method together.
- ``gp`` compares choices as equal or not, and ``nsga2`` (Deb et al. 2002) inherits and mutates them; in a space over
  methods both would only see what all methods have in common, so there they need ``equal_trials``.
- ``quasi_random`` gives every choice and every method's knob a coordinate of its own.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState, create_trial

from bacs.randomness import derive_seed
from search_spaces.quasi_random import sobol_point
from search_spaces.samplers import make_sampler
from search_spaces.space import METHOD_KEY, Params, Space

ALGORITHMS = ("tpe", "nsga2", "gp", "quasi_random", "random", "grid")
LEARNING = ("tpe", "nsga2", "gp")
"""Those that look at results."""
NEEDS_COMMON_KNOBS = ("nsga2", "gp")
"""Those that model only what all configurations of a study have in common."""
LOWEST = 0.0
"""The smallest mean IoU there is: what a configuration counts as that failed before any other has finished."""
RETRIES = 5
"""Draws of a sampler that only finds configurations it already had; after these, others draw."""
RANDOM_DRAWS = 100
"""Random draws after these, before a finite space is gone through value by value."""


@dataclass(frozen=True, slots=True)
class Told:
    """An earlier suggestion of the same study and what became of it."""

    params: Params
    value: float | None
    """The objective, to be maximised; ``None`` while it runs, or if it failed."""
    failed: bool = False
    """Nobody knows how good it is: the machine failed, not the configuration."""
    worst: bool = False
    """It failed by itself, so it counts as the worst value that its study has seen: a sampler that is told nothing
    comes back to the same corner of the space."""
    others: tuple[float, ...] = ()
    """Further objectives, to be minimised."""
    pruned: Mapping[int, float] | None = None
    """It was stopped early: its validation mIoU after each step that it finished (1-based)."""

    @property
    def is_open(self) -> bool:
        """Whether its result is still to come."""
        return self.value is None and not self.failed and not self.worst and self.pruned is None


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What makes one study what it is."""

    space: Space
    algorithm: str
    seed: int
    split: str
    """Whose study it is; one over all splits has a name of its own."""
    startup_trials: int
    """Results before TPE and GP model the history."""
    population_size: int = 16
    """Results that make a generation of NSGA-II; those of the first are random."""
    objectives: int = 1
    """The first is maximised, others are minimised."""


def propose(
    settings: StudySettings, history: Sequence[Told], first: Sequence[Params] = (), warm: Sequence[Told] = ()
) -> Params | None:
    """Suggestion number ``len(history)``; ``None`` when everything in the space was suggested.

    Args:
        settings: the study.
        history: all earlier suggestions, in order.
        first: suggested as numbers 0, 1 ...: the default configuration, that of every method in a space of several.
            If one lies outside the space the sampler, which knows no such values, does not see its result. (A grid
            tries its own combinations only.)
        warm: results of earlier sweeps, which the sampler sees before the history and which are not suggested again.
    """
    number = len(history)
    known = [told.params for told in warm]
    first = [params for params in first if params not in known]
    if settings.space.enumerated_by(settings.algorithm):
        combinations = _grid(settings.space, first)
        return combinations[number] if number < len(combinations) else None
    if number < len(first):
        return dict(first[number])
    if not settings.space.equal_trials:
        return _new(settings, number, history, first, warm)
    tried = [told.params[METHOD_KEY] for told in history]
    for method in sorted(settings.space.methods, key=tried.count):  # the next one, where a method has no more
        own = dataclasses.replace(settings, space=settings.space.only(method))
        of_method = [[told for told in part if told.params[METHOD_KEY] == method] for part in (history, warm)]
        begun = [params for params in first if params[METHOD_KEY] == method]
        if (params := _new(own, number, of_method[0], begun, of_method[1])) is not None:
            return params
    return None


def _new(
    settings: StudySettings, number: int, history: Sequence[Told], first: Sequence[Params], warm: Sequence[Told]
) -> Params | None:
    """What the algorithm suggests that was not tried yet; ``None``: the space has no more."""
    results = [*warm, *history]
    seen = [told.params for told in results]
    params: Params | None
    if settings.algorithm == "quasi_random":
        seed, known = derive_seed(settings.seed, settings.split), [*first, *(told.params for told in warm)]
        params = sobol_point(settings.space, seed, len(history) - len(first), known)
    else:
        seeds = (derive_seed(settings.seed, settings.split, number, attempt) for attempt in range(RETRIES))
        draws = (_ask(settings, results, seed % 2**32) for seed in seeds)
        params = next((drawn for drawn in draws if drawn not in seen), None)
    if params is not None:
        return params
    return _untried(settings, [*first, *seen], derive_seed(settings.seed, settings.split, number, "untried"))


def _untried(settings: StudySettings, seen: Sequence[Params], seed: int) -> Params | None:
    """Something new where the sampler repeats itself, as models do that are sure; ``None``: the space has no more."""
    anything = dataclasses.replace(settings, algorithm="random")
    for attempt in range(RANDOM_DRAWS):
        params = _ask(anything, [], derive_seed(seed, attempt) % 2**32)
        if params not in seen:
            return params
    return next((params for params in settings.space.everything() if params not in seen), None)


def _grid(space: Space, first: Sequence[Params]) -> list[Params]:
    combinations = space.grid()
    early = [params for params in first if params in combinations]
    return early + [params for params in combinations if params not in early]


def _worst(settings: StudySettings, history: Sequence[Told]) -> tuple[float, ...]:
    """The worst that was seen, objective by objective."""
    finished = [told for told in history if told.value is not None]
    lowest = min((told.value for told in finished if told.value is not None), default=LOWEST)
    highest = [max((told.others[i] for told in finished), default=math.inf) for i in range(settings.objectives - 1)]
    return (lowest, *highest)


def _ask(settings: StudySettings, history: Sequence[Told], seed: int) -> Params:
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its advice would end up in the live display
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        trial = _study(settings, history, seed).ask()
        params: Params = {}
        for dimension in settings.space.dimensions:
            if dimension.varies(params):
                params[dimension.key] = dimension.suggest(trial)
        return params


def _study(settings: StudySettings, history: Sequence[Told], seed: int) -> optuna.Study:
    sampler = make_sampler(
        settings.algorithm,
        seed,
        startup_trials=settings.startup_trials,
        population_size=settings.population_size,
        several_methods=bool(settings.space.methods),
    )
    directions = ["maximize", *["minimize"] * (settings.objectives - 1)]
    study = optuna.create_study(directions=directions, sampler=sampler)
    worst = _worst(settings, history)
    for told in history:
        if settings.space.contains(told.params):
            study.add_trial(_as_trial(settings.space, told, worst))
    return study


def _as_trial(space: Space, told: Told, worst: tuple[float, ...]) -> optuna.trial.FrozenTrial:
    finished = None if told.value is None else (told.value, *told.others)
    values = worst if told.worst else finished
    dimensions = space.dimensions_of(told.params)
    return create_trial(
        state=_optuna_state(told, values),
        params={d.name: told.params[d.key] for d in dimensions},
        distributions={d.name: d.distribution() for d in dimensions},
        values=values,
        intermediate_values=dict(told.pruned or {}),
    )


def _optuna_state(told: Told, values: tuple[float, ...] | None) -> TrialState:
    if told.failed:
        return TrialState.FAIL
    if told.pruned is not None:
        return TrialState.PRUNED
    return TrialState.RUNNING if values is None else TrialState.COMPLETE
