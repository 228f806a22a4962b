"""Learning curves of recorded trials, and which of them a configuration gets that was never trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacs.randomness import derive_seed
from results.state import SELECTION_METRIC, SweepState, TrialState
from search_spaces.space import Dimension, Params, Space
from search_spaces.stopping import EPOCH_METRIC, Course, Rung, StoppingSettings, epoch_rung, step_rung

FEWEST_PLACES = 5
"""Recorded configurations from which on the nearest one stands for any other."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The course of a recorded trial."""

    params: Params
    seconds: tuple[float, ...]
    """Of each continual step."""
    after_steps: tuple[float, ...]
    """The stopping metric after each step."""
    inside: tuple[tuple[Rung, float, float], ...]
    """Inside steps: place, seconds since the trial began, ``val/miou``."""
    final: float

    def rungs(self, stopping: StoppingSettings) -> list[tuple[float, Rung, float]]:
        """Seconds since the trial began, rung, value; in order."""
        ends = np.cumsum(self.seconds)
        n_steps = len(self.seconds)
        found = [
            (float(ends[step]), rung, value)
            for step, value in enumerate(self.after_steps)
            if (rung := step_rung(stopping, step + 1, n_steps))
        ]
        found += [(at, rung, value) for place, at, value in self.inside if (rung := epoch_rung(stopping, place))]
        return sorted(found, key=lambda event: event[1])


def recorded_curves(recorded: SweepState, split: str, metric: str) -> list[Curve]:
    """The finished trials of a split that tell everything a curve needs; all with the same number of steps."""
    curves = [curve for trial in recorded.finished(split) if (curve := _curve(trial, metric)) is not None]
    return [curve for curve in curves if len(curve.seconds) == len(curves[0].seconds)]


def _curve(trial: TrialState, metric: str) -> Curve | None:
    def course(name: str) -> dict[int, float]:
        return {x: value for (found, x), (value, _) in trial.points.items() if found == name}

    seconds, values, final = course("time/step_seconds"), course(metric), trial.final.get(SELECTION_METRIC)
    steps = range(len(seconds))
    if not seconds or final is None or not set(steps) <= seconds.keys() or not set(steps) <= values.keys():
        return None
    training = trial.config["training"]
    inside = []
    if training["steps_per_class"] is None:
        epochs = Course(training["epochs"], training["next_epochs"] or training["epochs"])
        for done, value in course(EPOCH_METRIC).items():
            place = epochs.place(done)
            if place.epochs and place.steps < len(steps):
                share = place.epochs / (epochs.next_epochs if place.steps else epochs.epochs)
                before = sum(seconds[step] for step in range(place.steps))
                inside.append((place, before + share * seconds[place.steps], value))
    ordered = [tuple(points[step] for step in steps) for points in (seconds, values)]
    return Curve(trial.params, ordered[0], ordered[1], tuple(inside), final)


def matcher(space: Space, curves: list[Curve], split: str) -> tuple[Callable[[int, Params], Curve], str]:
    """Which recorded course a configuration of a number gets, and in words how."""
    fitting = [c for c in curves if all(d.key in c.params for d in space.dimensions_of(c.params))]
    places = np.stack([coordinates(space, curve.params) for curve in fitting]) if fitting else np.empty((0, 0))
    distinct = len(np.unique(places, axis=0))
    if distinct < FEWEST_PLACES:

        def resampled(number: int, params: Params) -> Curve:
            return curves[derive_seed("curve", split, number) % len(curves)]

        few = f"fewer than {FEWEST_PLACES} configurations were recorded over these dimensions"
        return resampled, f"any of {len(curves)} recorded trials, drawn at random, whatever the configuration: {few}"

    def nearest(number: int, params: Params) -> Curve:
        distances = ((places - coordinates(space, params)) ** 2).sum(axis=1)
        closest = np.flatnonzero(distances == distances.min())  # the seeds of one configuration
        return fitting[closest[number % len(closest)]]

    return nearest, f"that of the nearest of {distinct} recorded configurations in the unit cube of the space"


def coordinates(space: Space, params: Params) -> NDArray[np.float64]:
    """The place of a configuration in the unit cube; a choice has an axis for each value, 1 apart from the others."""
    return np.concatenate([np.empty(0), *(_axis(d, params) for d in space.dimensions)])


def _axis(dimension: Dimension, params: Params) -> NDArray[np.float64]:
    value: Any = params.get(dimension.key) if dimension.varies(params) else None
    if dimension.kind == "choice":
        return np.array([math.sqrt(0.5) * (value == choice) for choice in dimension.choices])
    if value is None:
        return np.array([0.5])
    low, high = float(dimension.low or 0), float(dimension.high or 0)
    if dimension.log:
        low, high, value = math.log(low), math.log(high), math.log(max(value, low))
    return np.clip(np.array([(value - low) / (high - low)]), 0.0, 1.0)
