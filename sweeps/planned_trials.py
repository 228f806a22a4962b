"""The trials that a sweep will run, as far as they are known before it runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from results.state import SweepState
from search_spaces.propose import Told, propose
from search_spaces.space import METHOD_KEY, Params
from sweeps.ledger import suggestions_of
from sweeps.settings import SweepConfig, split_name
from sweeps.studies import study_of, study_settings
from sweeps.trials import Trial, at_home, make_trial, placed

LOOKED_AT = 128
"""Suggestions of a split whose configurations are worked out, unless a list or grid names them all."""


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """A trial that is over, under way or still to come."""

    trial: Trial
    is_known: bool = True
    """False: its configuration hangs on results still to come; ``trial`` has that of the default in its place."""
    steps_done: int = 0
    is_over: bool = False


def planned_trials(sweep: SweepConfig, state: SweepState | None = None) -> list[PlannedTrial]:
    """All trials of a sweep in the order in which they are handed out: those of the journal, references, suggestions
    of the splits in turn.
    """
    search, uid = sweep.search, state.uid if state else ""
    planned = _journalled(sweep, state) if state else []
    there = {(p.trial.role, p.trial.split, p.trial.number, p.trial.seed) for p in planned}
    wanted: list[tuple[str, int, Any, Params | None]] = [
        (role, 0, split, {}) for role in search.references for split in search.splits
    ]
    defaults = sweep.defaults if search.include_default else []
    suggestions = [_suggestions(sweep, split_name(split), planned, defaults) for split in search.splits]
    for number in range(max(map(len, suggestions))):
        for split, suggested in zip(search.splits, suggestions, strict=True):
            if number < len(suggested):
                wanted.append(("trial", number, split, suggested[number]))
    unknown: dict[str, Trial] = {}
    for role, number, split, params in wanted:
        for seed in search.seeds:
            if (role, split_name(split), number, seed) in there:
                continue
            if params is not None:
                trial = make_trial(sweep, uid, role=role, number=number, split=split, seed=seed, params=params)
                planned.append(PlannedTrial(trial))
                continue
            values = _stand_in(sweep, number)
            name = f"{values} {split} {seed}"
            if name not in unknown:
                unknown[name] = make_trial(sweep, uid, role=role, number=number, split=split, seed=seed, params=values)
            planned.append(PlannedTrial(dataclasses.replace(unknown[name], number=number), is_known=False))
    return planned


def _journalled(sweep: SweepConfig, state: SweepState) -> list[PlannedTrial]:
    planned = []
    for known in state.trials.values():
        fields = {field.name: getattr(known, field.name) for field in dataclasses.fields(Trial)}
        if known.is_over:
            fields["config"] = at_home(sweep.base, known.config)
        else:
            fields["config"] = placed(sweep, known.config, begun=known.attempts > 0)
        planned.append(PlannedTrial(Trial(**fields), steps_done=known.step, is_over=known.is_over))
    return planned


def _suggestions(
    sweep: SweepConfig, split: str, planned: list[PlannedTrial], defaults: list[Params]
) -> list[Params | None]:
    """The configurations of a split by number; ``None``: not known yet."""
    made = {p.trial.number: p.trial.params for p in planned if (p.trial.role, p.trial.split) == ("trial", split)}
    known = [made[number] for number in sorted(made)]
    wanted = suggestions_of(sweep, study_of(sweep, split))
    listed = sweep.space.enumerated_by(sweep.search.algorithm)
    while len(known) < (wanted if listed else min(wanted, LOOKED_AT)):
        found = _certain(sweep, split, known, defaults)
        if not found:
            break
        if found[0] is None:  # the space has nothing new to offer
            return [*known]
        known.append(found[0])
    return [*known, *[None] * (wanted - len(known))]


def _certain(sweep: SweepConfig, split: str, known: list[Params], defaults: list[Params]) -> list[Params | None]:
    """The next suggestion, if it is the same whatever the trials before it come to; else nothing.

    The searcher itself is asked, with made-up results: once the later a trial the better, once the worse.
    """
    settings, costs = study_settings(sweep, study_of(sweep, split)), len(sweep.search.objectives) - 1
    visible = max(0, len(known) - sweep.search.lag)
    found = []
    for direction in (1, -1):
        values = [0.5 + direction * number / (2 * len(known)) for number in range(visible)]
        history = [Told(p, value, others=(value,) * costs) for p, value in zip(known, values, strict=False)]
        history += [Told(params, None) for params in known[visible:]]
        found.append(propose(settings, history, defaults))
    return found[:1] if found[0] == found[1] else []


def _stand_in(sweep: SweepConfig, number: int) -> Params:
    """What is known of a suggestion that hangs on results."""
    methods = sweep.space.methods
    return {METHOD_KEY: methods[number % len(methods)]} if methods and sweep.space.equal_trials else {}
