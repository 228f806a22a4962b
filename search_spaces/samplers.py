"""The samplers of Optuna that a study may use, each without a memory of its own."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState


class GenerationsSampler(NSGAIISampler):
    """NSGA-II whose generations follow from the results alone, in the order of their suggestions.

    Optuna notes in each trial which generation it was asked for, which depends on what was running at that moment.
    Here the first ``population_size`` results are generation 0, the next ones generation 1 and so on, so a study that
    was rebuilt has the same ones, and no result that came late is lost.
    """

    def __init__(self, seed: int, population_size: int) -> None:
        super().__init__(seed=seed, population_size=population_size)
        self._parents: list[list[FrozenTrial]] = [[]]

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """That of the next suggestion: as many as are complete."""
        return len(_results(study)) // int(self.population_size)

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        size = int(self.population_size)
        return _results(study)[generation * size : (generation + 1) * size]

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """The elite of all generations before; selected from the first on, as each selection needs the one before."""
        while len(self._parents) <= generation:
            self._parents.append(self.select_parent(study, len(self._parents)))
        return self._parents[generation]


def _results(study: optuna.Study) -> list[Any]:
    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def make_sampler(
    algorithm: str, seed: int, *, startup_trials: int, population_size: int, several_methods: bool
) -> BaseSampler:
    """A fresh sampler for one suggestion.

    Args:
        algorithm: tpe, nsga2, gp or random.
        seed: of this suggestion.
        startup_trials: results before TPE and GP model anything.
        population_size: of NSGA-II.
        several_methods: the space has knobs that depend on the method, which TPE models method by method.
    """
    if algorithm == "nsga2":
        return GenerationsSampler(seed, population_size)
    if algorithm == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup_trials, warn_independent_sampling=False)
    if algorithm == "random":
        return RandomSampler(seed=seed)
    return TPESampler(
        seed=seed,
        n_startup_trials=startup_trials,
        multivariate=True,
        group=several_methods,
        constant_liar=True,
    )
