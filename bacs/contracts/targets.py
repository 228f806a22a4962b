"""Which contract a class that the command line names has to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from bacs.components import MUST_HAVE, keys_of_class
from bacs.contracts.base import Contract, load
from bacs.contracts.datasets import DatasetContract
from bacs.contracts.methods import MethodContract
from bacs.contracts.networks import NetworkContract
from bacs.errors import Fault, RequestError
from bacs.losses.base import Method
from bacs.networks import SegmentationNetwork


def contracts_of(targets: Sequence[str], settings: Sequence[str]) -> list[type[Contract]]:
    """A test class for each target, with those of the settings that its ``Config`` has.

    Args:
        targets: import paths.
        settings: ``KEY=VALUE``.

    Raises:
        RequestError: with the targets that are no class a contract is for, and the settings of no use.
    """
    values, faults = _parsed(settings)
    made: list[type[Contract]] = []
    known: set[str] = set()
    for target in dict.fromkeys(targets):
        try:
            found = load(target)
            contract = _contract_for(target, found)
        except RequestError as error:
            faults += error.faults
            continue
        keys = keys_of_class(found)
        known |= keys
        same = sum(other.target.endswith(f".{found.__name__}") for other in made)
        members = {"target": target, "settings": {key: value for key, value in values.items() if key in keys}}
        made.append(type(f"Test{found.__name__}{same or ''}", (contract,), members))
    if not faults:
        remedy = f"known keys: {', '.join(sorted(known)) or 'none'}"
        faults = [Fault(f"--set {key}", "is a key of no target", remedy) for key in values if key not in known]
    if faults:
        raise RequestError(faults)
    return made


def _parsed(settings: Sequence[str]) -> tuple[dict[str, Any], list[Fault]]:
    values, faults = {}, []
    for text in settings:
        key, equals, value = text.partition("=")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            faults.append(Fault(f"--set {text}", "has a value that is no YAML", "quote it: --set 'KEY=\"VALUE\"'"))
        if not equals:
            faults.append(Fault(f"--set {text}", "has no value", "write --set KEY=VALUE"))
    return values, faults


def _contract_for(target: str, found: type[Any]) -> type[Contract]:
    if issubclass(found, Method):
        return MethodContract
    if issubclass(found, SegmentationNetwork):
        return NetworkContract
    lacking = [name for name in MUST_HAVE["dataset"] if not hasattr(found, name)]
    if not lacking:
        return DatasetContract
    problem = f"is no class that there is a contract for; for a dataset it lacks {', '.join(lacking)}"
    remedy = "name a subclass of bacs.losses.base.Method or bacs.networks.SegmentationNetwork, or a whole dataset"
    raise RequestError.of(target, problem, remedy)
