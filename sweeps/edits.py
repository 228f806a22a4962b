"""Edits of a sweep that exists: what may change when it goes on, what may not, and a storage folder that was moved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from bacs.compose import is_text_key, named_plugins
from bacs.config import RunConfig
from bacs.errors import Fault, RequestError
from bacs.lineage import passive_keys
from bacs.overrides import read, shown
from bacs.plugins import allow
from results.state import SweepState
from search_spaces.recorded import dimensions_of, recorded_space
from search_spaces.space import Space
from sweeps.checks import check_request
from sweeps.settings import SECTIONS, SweepConfig, nested
from sweeps.trials import at_home

Changes = dict[str, list[Any]]
"""Dotted key -> [old, new]."""

GROWING = ("search.splits", "search.seeds", "search.references")
"""Lists that may become longer. Every configuration that is there runs with a seed that was added; a split that was
added gets a study of its own (in a robust sweep every configuration runs on it), and its references."""
ENUMERATED = {"training.split": "search.splits", "training.seed": "search.seeds"}
PLACES = ("sweep.storage", "sweep.config_path", "sweep.address", "sweep.tracking_uri", "sweep.tracking_optional")
"""Where a sweep lives: options and environment variables of the command line, so `run` takes them too."""


def edited(state: SweepState, storage: Path, overrides: Sequence[str], launch: Mapping[str, Any]) -> SweepConfig:
    """The checked sweep of a journal that lies in ``storage``, with the changes that were asked for.

    Args:
        state: what the journal says.
        storage: folder of sweeps that it was found in.
        overrides: ``KEY=VALUE``, as `run` takes them; packages under ``plugins`` are allowed from now on.
        launch: values for keys of ``sweep``; ``None`` leaves the journal's.

    Raises:
        RequestError: with everything that is no override, is illegal, or may not change.
    """
    allow(named_plugins(overrides))
    edits = [text for text in overrides if not named_plugins([text])]
    changes = _parsed(edits, state.config) | {
        f"sweep.{key}": value for key, value in launch.items() if value is not None
    }
    sweep = check_request(nested(relocated(state.config, storage), changes), space_of(state))
    faults = forbidden(state, sweep)
    if faults:
        raise RequestError(faults)
    return sweep


def settings_of(state: SweepState, storage: Path) -> SweepConfig:
    """The settings of a sweep whose journal lies in ``storage``, for whoever only reads."""
    return SweepConfig.recorded(relocated(state.config, storage), space_of(state))


def space_of(state: SweepState) -> Space | None:
    """What the journal says that is searched; ``None``: it is one of before that told, or lists its points itself."""
    return None if state.points else recorded_space(state.space)


def relocated(config: Mapping[str, Any], storage: Path) -> dict[str, Any]:
    """A configuration whose paths into its own storage folder lead into ``storage``, where the folder is now."""
    old = str(config["sweep"]["storage"])
    moved: dict[str, Any] = _moved(dict(config), old, str(storage))
    return moved


def changes_of(state: SweepState, sweep: SweepConfig) -> Changes:
    """What a request changes in the settings of a sweep."""
    known = at_home(sweep.base, state.config)
    with contextlib.suppress(RequestError):
        # This version may know more keys, whose defaults are no changes.
        known = SweepConfig.from_dict(known, space_of(state) or sweep.space).resolved
    known = _with_values_of(state.config, known)
    changes = dict(differences(known, sweep.resolved))
    return {key: change for key, change in changes.items() if key not in ENUMERATED}


def forbidden(state: SweepState, sweep: SweepConfig) -> list[Fault]:
    """A fault for each change that would make trials of one sweep incomparable, or drop some that are there."""
    passive = passive_keys(RunConfig.from_dict(sweep.base))
    faults = []
    for key, (old, new) in sorted(changes_of(state, sweep).items()):
        if key.split(".")[0] in ("sweep", "resources") or key in passive:
            continue
        if key == "search.trials":
            faults += _too_few(state, new)
        elif key not in GROWING or new[: len(old)] != old:
            faults.append(_refusal(key, f"was {old!r}, now {new!r}", grows=key in GROWING))
    return faults + _other_space(state, sweep)


def beyond_places(state: SweepState, sweep: SweepConfig) -> Changes:
    """The changes that are more than another place."""
    old, new = str(state.config["sweep"]["storage"]), sweep.launch.storage
    return {
        key: change
        for key, change in changes_of(state, sweep).items()
        if key not in PLACES and _moved(change[0], old, new) != change[1]
    }


def _parsed(overrides: Sequence[str], config: Mapping[str, Any]) -> dict[str, Any]:
    changes, faults = {}, []
    for text in overrides:
        try:
            override = read(text)
            if isinstance(override, Override) and (override.is_delete() or override.is_sweep_override()):
                raise RequestError.of(text, "is not an edit", "write KEY=VALUE, for example search.trials=16")
            if isinstance(override, Override):
                key, value = override.key_or_group, override.value()
            else:
                key, value = override.key, override.value(is_text=is_text_key(override.key, config, SECTIONS))
        except RequestError as error:
            faults += [Fault(shown(text), "is not an edit", fault.remedy) for fault in error.faults]
            continue
        if key == "sweep.storage":
            faults.append(Fault(key, f"cannot become {value!r}", "move the folder, then name it: --storage"))
        elif "." not in key or key == "sweep.name":
            faults.append(_refusal(key, f"cannot become {value!r} in a sweep that exists"))
        elif key in ENUMERATED:
            remedy = f"add to {ENUMERATED[key]}"
            faults.append(Fault(key, f"cannot become {value!r}: a sweep enumerates it", remedy))
        changes[key] = value
    if faults:
        raise RequestError(faults)
    return changes


def _too_few(state: SweepState, trials: int) -> list[Fault]:
    suggested = dict.fromkeys(state.splits(), 0)
    for trial in state.trials.values():
        if trial.role == "trial":
            suggested[trial.split] = max(suggested[trial.split], trial.number + 1)
    most = max(suggested.values(), default=0)
    problem = f"is {trials}, but {most} configurations of a split were suggested already"
    return [Fault("search.trials", problem, f"give at least {most}")] if trials < most else []


def _other_space(state: SweepState, sweep: SweepConfig) -> list[Fault]:
    """`run` reads the space from its file, which may have been edited since."""
    old, new = dimensions_of(state.space), sweep.space.describe()
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)) if state.space else []
    where = f"search.space {sweep.space.name}"
    faults = [_refusal(f"{where}: {name}", f"was {old.get(name)}, now {new.get(name)}") for name in names]
    recorded = space_of(state)
    if recorded is not None and recorded.points != sweep.space.points:
        faults.append(_refusal(f"{where}: points", "are not those that it began with"))
    return faults


def _refusal(key: str, problem: str, *, grows: bool = False) -> Fault:
    rule = "it may only grow at its end" if grows else "the numbers that are there depend on it"
    return Fault(key, f"{problem}; {rule}", "ask for it in a sweep of its own: python -m sweeps run ... --name OTHER")


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    if isinstance(value, str):
        prefix = "sqlite:///" if value.startswith("sqlite:///") else ""
        path = value.removeprefix(prefix)
        if path == old or path.startswith(f"{old}/"):
            return prefix + new + path[len(old) :]
    return value


def _with_values_of(known: Mapping[str, Any], filled: Mapping[str, Any]) -> dict[str, Any]:
    """``filled`` with the values that ``known`` has."""
    values = dict(filled)
    for key, value in known.items():
        before = values.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            values[key] = _with_values_of(value, before)
        else:
            values[key] = value
    return values


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, list[Any]]]:
    """(dotted key, [old, new]) of what differs between two nested dictionaries."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield where, [old, new]
