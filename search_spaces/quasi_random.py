"""Points of a scrambled Sobol sequence (Owen 1998) in a search space.

Optuna's sampler for it keeps its place in the study, leaves conditional knobs to chance and cannot be told where to go
on, so the sequence is taken from SciPy, on which that sampler rests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from search_spaces.space import Dimension, Params, Space

_BLOCK_POINTS = 64
"""Drawn at a time; a power of two keeps the sequence balanced."""
_PATIENCE_POINTS = 1024
"""Points in a row without a new configuration after which the sequence is given up."""


def sobol_point(space: Space, seed: int, index: int, known: Sequence[Params]) -> Params | None:
    """Point number ``index`` (0-based) of the sequence, not counting known configurations and repetitions.

    Every knob has a coordinate of its own; a configuration takes those of its method and leaves the others.

    Args:
        space: of dimensions.
        seed: of the scrambling, the same for all points of a study.
        index: of the suggestion.
        known: configurations that are not suggested.
    """
    seen = {_identity(params) for params in known}
    found, fruitless = 0, 0
    for params in _points(space, seed):
        identity = _identity(params)
        if identity in seen:
            fruitless += 1
            if fruitless == _PATIENCE_POINTS:
                break
            continue
        if found == index:
            return params
        seen.add(identity)
        found, fruitless = found + 1, 0
    return None


def _points(space: Space, seed: int) -> Iterator[Params]:
    from scipy.stats import qmc

    engine = qmc.Sobol(len(space.dimensions), scramble=True, rng=seed)
    while True:
        for point in engine.random(_BLOCK_POINTS).tolist():
            params: Params = {}
            for dimension, unit in zip(space.dimensions, point, strict=True):
                if dimension.varies(params):
                    params[dimension.key] = _value(dimension, unit)
            yield params


def _value(dimension: Dimension, unit: float) -> bool | int | float | str | None:
    """The value at a place in [0, 1) of the dimension's prior."""
    if dimension.kind == "choice":
        chosen: bool | int | float | str | None = dimension.choices[int(unit * len(dimension.choices))]
        return chosen
    assert dimension.low is not None
    assert dimension.high is not None
    margin = 0.5 if dimension.kind == "int" else 0.0  # so that the ends get as much of the range as other integers
    low, high = dimension.low - margin, dimension.high + margin
    if dimension.log:
        value = math.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
    else:
        value = low + unit * (high - low)
    value = round(value) if dimension.kind == "int" else value
    return min(max(value, dimension.low), dimension.high)


def _identity(params: Params) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(params.items(), key=lambda item: item[0]))
