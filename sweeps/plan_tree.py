"""The stages of a planned sweep as a tree for the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from rich.tree import Tree

from results.tables import duration
from sweeps.forecast import Forecast
from sweeps.stage_tree import Stage

GROUPS_SHOWN = 8
CHILDREN_SHOWN = 5
"""Stages under one parent; the rest is counted."""


def render_tree(forecast: Forecast) -> Tree:
    """By split and seed, a line for every distinct stage; a chain that does not branch is one line."""
    groups: dict[tuple[str, int], list[int]] = {}
    for position, planned in enumerate(forecast.trials):
        groups.setdefault((planned.trial.split, planned.trial.seed), []).append(position)
    tree = Tree(Text("stages: what trials have in common is trained once"))
    for (split, seed), positions in list(groups.items())[:GROUPS_SHOWN]:
        branch = tree.add(Text(f"{split}, seed {seed}: {_count(len(positions), 'run')}"))
        _add(branch, forecast, forecast.tree.roots.values(), set(positions))
    if len(groups) > GROUPS_SHOWN:
        tree.add(Text(f"and {len(groups) - GROUPS_SHOWN} more splits and seeds"))
    return tree


def _add(branch: Tree, forecast: Forecast, stages: Iterable[Stage], group: set[int]) -> None:
    here = [stage for stage in stages if not group.isdisjoint(stage.trials)]
    here.sort(key=lambda stage: -len(group.intersection(stage.trials)))
    for stage in here[:CHILDREN_SHOWN]:
        line = _unbranched(stage, group)
        _add(branch.add(_text(forecast, line, group)), forecast, line[-1].children.values(), group)
    if len(here) > CHILDREN_SHOWN:
        rest = here[CHILDREN_SHOWN:]
        runs = sum(len(group.intersection(stage.trials)) for stage in rest)
        branch.add(Text(f"and {len(rest)} more, {_count(runs, 'run')}", style="dim"))


def _unbranched(stage: Stage, group: set[int]) -> list[Stage]:
    """The stage and those after it that the same trials go through, all in the same condition."""
    line = [stage]
    while True:
        following = [child for child in line[-1].children.values() if not group.isdisjoint(child.trials)]
        alike = len(following) == 1 and following[0].trials == line[-1].trials
        if not alike or _condition(following[0], group) != _condition(stage, group):
            return line
        line += following


def _condition(stage: Stage, group: set[int]) -> str:
    if not stage.is_needed:
        return "reused" if stage.is_stored else "done or not needed"
    return "" if stage.trials[0] in group else "shared with the split above"


def _text(forecast: Forecast, line: list[Stage], group: set[int]) -> Text:
    first, last = line[0], line[-1]
    mine = sorted(group.intersection(first.trials))
    steps = f"step {first.step}" if first is last else f"steps {first.step}-{last.step}"
    who = _count(len(mine), "run") if len(mine) > 1 else _name(forecast, mine[0])
    condition = _condition(first, group)
    parts = [steps, who, condition or _cost(forecast, line)]
    return Text("  ".join(parts), style="green" if condition else "")


def _cost(forecast: Forecast, line: list[Stage]) -> str:
    costs = [forecast.cost(stage) for stage in line]
    known = [cost.seconds for cost in costs if cost is not None]
    return duration(sum(known)) if len(known) == len(costs) else "time unknown"


def _name(forecast: Forecast, position: int) -> str:
    planned = forecast.trials[position]
    if planned.trial.role != "trial":
        return planned.trial.role
    return f"trial {planned.trial.number}" + ("" if planned.is_known else " (not known yet)")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
