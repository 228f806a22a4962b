"""Settings of the method that change at a later step: ``training.overrides_from_step={3: {loss.lkd: 0.5}}``.

Plain form: ``{"3": {"loss": {"lkd": 0.5}}}``. Steps count from 0, as in ``acts_from``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bacs.components import Component
from bacs.errors import Fault
from bacs.schema import acts_from, parse_all

WHERE = "training.overrides_from_step"
_EXAMPLE = "write {3: {loss.lkd: 0.5}}: steps, each with keys of the loss"

Plain = dict[str, dict[str, dict[str, Any]]]


def plain_overrides(value: Any) -> tuple[Plain, list[Fault]]:
    """The plain form of what a file or an override gives, dotted or nested, by rising steps."""
    faults: list[Fault] = []
    found: dict[int, dict[str, Any]] = {}
    for step, changes in value.items() if isinstance(value, Mapping) else [(value, None)]:
        if not str(step).isdecimal() or int(step) < 1 or not isinstance(changes, Mapping) or not changes:
            faults.append(Fault(WHERE, f"has {step!r}: {changes!r}, which is no later step with its keys", _EXAMPLE))
            continue
        for key, item in changes.items():
            group, _, name = str(key).partition(".")
            named = {name: item} if name else item
            if group != "loss" or not isinstance(named, Mapping):
                faults.append(Fault(f"{WHERE}.{step}", f"has {key!r}, but only keys of the loss can change", _EXAMPLE))
                continue
            found.setdefault(int(step), {}).update({str(name): item for name, item in named.items()})
    return {str(step): {"loss": found[step]} for step in sorted(found)}, faults


def loss_at(loss: Component, overrides: Plain, step: int) -> Component:
    """The method as it is in a step."""
    changes = {
        name: value
        for first, groups in overrides.items()
        if int(first) <= step
        for name, value in groups["loss"].items()
    }
    return dataclasses.replace(loss, settings=dataclasses.replace(loss.settings, **changes)) if changes else loss


def override_faults(loss: Component, overrides: Plain, n_steps: int) -> list[Fault]:
    """What is wrong with overrides of a method that is known."""
    schema = type(loss.settings)
    later = {name for name, first in acts_from(schema).items() if first == 1}
    faults = []
    for step, groups in overrides.items():
        where = f"{WHERE}.{step}"
        if int(step) >= n_steps:
            problem = f"acts from step {step}, but the split has {n_steps} steps, 0 to {n_steps - 1}"
            faults.append(Fault(where, problem, "leave it out, or choose a longer split"))
        unknown = sorted(groups["loss"].keys() - later)
        if unknown:
            problem = f"has {', '.join(unknown)}, of which {loss.target} has none that acts from step 1 on"
            faults.append(Fault(where, problem, f"known: {', '.join(sorted(later)) or 'none'}"))
            continue
        values = dataclasses.asdict(loss.settings) | groups["loss"]
        _, found = parse_all(schema, values, f"{where}.loss")
        faults += found
    return faults or _memory_faults(loss, overrides)


def _memory_faults(loss: Component, overrides: Plain) -> list[Fault]:
    """What is stored in a step is drawn in later ones, so it must be known from the first."""
    memory = loss.factory(loss.settings).memory
    for step in overrides:
        found = loss.factory(loss_at(loss, overrides, int(step)).settings).memory
        if found != memory:
            problem = f"turns the memory (capacity, policy) from {memory} into {found}"
            remedy = "give a memory the same size and policy in all steps, and a weight > 0 from step 1 on"
            return [Fault(f"{WHERE}.{step}", problem, remedy)]
    return []
