"""The sweep that confirms the winners of another: the same run, listed configurations, seeds that nobody chose by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from bacs.errors import RequestError
from results.state import Configuration, SweepState
from search_spaces.space import METHOD_KEY, Params
from sweeps.checks import check_request
from sweeps.edits import settings_of
from sweeps.settings import SECTIONS, SweepConfig, nested, split_name

KEPT = ("storage", "tracking_uri", "tracking_optional", "address", "max_failures")
"""Keys of ``sweep`` that a confirmation takes over; budgets are its own."""


def confirmation(
    state: SweepState,
    storage: Path,
    launch: Mapping[str, Any],
    *,
    top: int,
    seeds: int,
    class_orders: int | None = None,
) -> SweepConfig:
    """The checked sweep that runs the best of each split, the default and the references on fresh seeds.

    Class orders follow from seeds (``training.shuffle_classes``), so orders are not crossed with seeds: there are
    ``seeds * class_orders`` seeds, each with an order of its own. That costs as much and tells more: pairs that share
    no order are independent, which intervals and p-values rely on.

    Args:
        state: of the sweep whose winners they are; it has ended.
        storage: folder of sweeps that it was found in; the confirmation goes there too.
        launch: values for keys of ``sweep``; ``None`` leaves the sweep's.
        top: configurations of each split, by their mean ``final/val_miou``.
        seeds: how many.
        class_orders: how many times as many seeds, with shuffled classes; ``None``: the order of the split as written.

    Raises:
        RequestError: the sweep has not ended, or has no result, or is a confirmation.
    """
    _refuse(state)
    original = settings_of(state, storage)
    splits = [split for split in original.search.splits if state.ranked(split_name(split))]
    points = {name: _points(original, state.ranked(name)[:top]) for name in map(split_name, splits)}
    most = max(map(len, points.values()))
    run = {key: value for key, value in original.resolved.items() if key not in SECTIONS}
    if class_orders is not None:
        run = nested(run, {"training.shuffle_classes": True})
    sweep = {key: original.resolved["sweep"][key] for key in KEPT}
    used = {trial.seed for trial in state.trials.values()} | set(original.search.seeds)
    search = {
        "space": original.search.space,
        "points": points,
        "algorithm": "grid",
        "trials": most,
        "lag": most,  # nothing is learned from results, so nothing waits for them
        "splits": splits,
        "seeds": fresh_seeds(used, seeds * (class_orders or 1)),
        "references": original.search.references,
        "confirms": state.sweep,
        "confirms_uid": state.uid,
    }
    given = {key: value for key, value in launch.items() if value is not None}
    return check_request(run | {"sweep": sweep | given, "search": search, "resources": original.resolved["resources"]})


def fresh_seeds(used: Collection[int], n: int) -> list[int]:
    """The ``n`` smallest that were not used; sweeps of the same run get the same ones, and can share their stages."""
    return list(islice((seed for seed in count() if seed not in used), n))


def _refuse(state: SweepState) -> None:
    if state.confirms:
        problem = f"is {state.sweep}, which confirms {state.confirms} itself"
        raise RequestError.of("NAME", problem, f"more seeds: resume {state.sweep} search.seeds=[...]")
    if not state.ended:
        problem = f"is {state.sweep}, which has not ended, so its winners may change"
        raise RequestError.of("NAME", problem, f"wait for it, or go on with it: resume {state.sweep}")
    if not any(state.ranked(split) for split in state.splits()):
        problem = f"is {state.sweep}, in which no configuration has finished"
        raise RequestError.of("NAME", problem, f"see why: status {state.sweep} --traceback")


def _points(original: SweepConfig, chosen: Sequence[Configuration]) -> dict[str, Params]:
    """By name, the winner first; a default that is among the best is not run twice."""
    defaults = _defaults(original, {configuration.params.get(METHOD_KEY) for configuration in chosen})
    points: dict[str, Params] = {}
    for configuration in chosen:
        names = [name for name, params in defaults.items() if params == configuration.params]
        points[names[0] if names else f"trial {configuration.number}"] = configuration.params
    return points | defaults


def _defaults(original: SweepConfig, methods: Collection[str | None]) -> dict[str, Params]:
    """The sweep's own configuration, untuned; in a sweep over methods that of each that is among the best."""
    if not original.space.methods:
        return {"default": next(iter(original.defaults), {})}
    listed = original.defaults or [{METHOD_KEY: method} for method in original.space.methods]
    return {f"default {params[METHOD_KEY]}": params for params in listed if params[METHOD_KEY] in methods}
