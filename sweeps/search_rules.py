"""Which settings of a search go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bacs.errors import Fault
from results.objectives import COSTS
from results.state import SELECTION_METRIC
from search_spaces.propose import LEARNING, NEEDS_COMMON_KNOBS
from search_spaces.space import Space

if TYPE_CHECKING:
    from sweeps.settings import SearchSettings


def search_faults(search: SearchSettings) -> list[Fault]:
    """Objectives and splits that the algorithm or the mode has no use for."""
    faults = _objective_faults(search)
    if search.robust and len(search.splits) < 2:
        faults.append(Fault("search.robust", f"is true with the splits {search.splits}", "list two or more splits"))
    if search.robust and search.points:
        problem = "is true, but search.points lists configurations for each split by itself"
        faults.append(Fault("search.robust", problem, "leave one of the two out"))
    if len(set(search.warm_start)) < len(search.warm_start):
        faults.append(Fault("search.warm_start", f"is {search.warm_start}, with repetitions", "list each once"))
    return faults


def algorithm_faults(search: SearchSettings, space: Space) -> list[Fault]:
    """What an algorithm cannot learn from in this space."""
    faults = []
    listed = space.enumerated_by(search.algorithm)
    if search.algorithm in NEEDS_COMMON_KNOBS and space.methods and not (listed or space.equal_trials):
        problem = f"is {search.algorithm}, which models the knobs that all configurations have, but in {space.name} "
        remedy = "choose tpe, or a space with equal_trials: true, where each method is searched by itself"
        faults.append(Fault("search.algorithm", f"{problem}each method has its own", remedy))
    if search.warm_start and (listed or search.algorithm not in LEARNING):
        what = "a list of configurations" if space.points else search.algorithm
        problem = f"is {search.warm_start}, but {what} looks at no results"
        faults.append(Fault("search.warm_start", problem, f"choose one of {', '.join(LEARNING)}, or leave it out"))
    return faults


def _objective_faults(search: SearchSettings) -> list[Fault]:
    first, *others = search.objectives or [""]
    if first != SELECTION_METRIC or len(others) > 1 or any(other not in COSTS for other in others):
        problem = f"is {search.objectives}, but must be [{SELECTION_METRIC}], or that and one cost"
        return [Fault("search.objectives", problem, f"costs: {', '.join(COSTS)}")]
    if others and search.algorithm != "nsga2":
        problem = f"is {search.objectives}, but {search.algorithm} has one objective"
        return [Fault("search.objectives", problem, f"add search.algorithm=nsga2, or leave {others[0]} out")]
    return []
