"""Classes named by ``_target_`` in the configuration, and the check of their settings."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bacs.errors import Fault, RequestError
from bacs.interpolation import has_reference
from bacs.plugins import SHIPPED, how_to_allow, package_of
from bacs.retired import retired_faults
from bacs.schema import number_fault, parse_all, reference_fault

_DATASET = ("Config", "check", "classes", "channels")
MUST_HAVE = {
    "dataset": _DATASET,
    "ood": _DATASET,
    "network": ("Config", "grow"),
    "optimizer": ("step", "zero_grad"),
    "scheduler": ("Config", "factor"),
    "loss": ("Config", "terms"),
}
"""What a class must have to serve a group."""

SWITCHES = ("foreach", "fused")
"""Arguments of optimizers that are true, false or null."""
INVERTING = ("maximize", "differentiable")
"""Arguments of optimizers with which nothing is learned, or gradients of the update itself are wanted."""


@dataclass(frozen=True, slots=True)
class Component:
    """A class named by ``_target_`` with its checked settings."""

    target: str
    factory: type[Any]
    settings: Any
    """The class's ``Config`` dataclass, or a plain dict of arguments for classes of ``torch.optim``."""


def parse_component(group: str, section: Mapping[str, Any]) -> tuple[Component | None, list[Fault]]:
    """The class that a section names, with its settings; ``None`` beside the faults that make it unusable."""
    rest = {key: value for key, value in section.items() if key != "_target_"}
    try:
        factory = _locate(group, section.get("_target_"))
        schema = getattr(factory, "Config", None)
        if schema is None:
            return Component(section["_target_"], factory, _arguments(group, factory, rest)), []
    except RequestError as error:
        return None, error.faults
    rest, faults = retired_faults(group, rest, schema)
    settings, found = parse_all(schema, rest, group)
    faults += found
    return (None if settings is None else Component(section["_target_"], factory, settings)), faults


def keys_of(group: str, section: Mapping[str, Any]) -> set[str]:
    """The keys that the class named by a section has; empty where it cannot be used, or has plain arguments."""
    return _field_names(schema_of(group, section))


def schema_of(group: str, section: Any) -> type | None:
    """The ``Config`` of the class that a section names; ``None``: it cannot be used, or has plain arguments."""
    try:
        return _schema(_locate(group, section.get("_target_")))
    except (RequestError, AttributeError):  # whoever checks the whole configuration tells what is wrong
        return None


def keys_of_class(factory: type[Any]) -> set[str]:
    """Those of its ``Config``; empty where that is no dataclass."""
    return _field_names(_schema(factory))


def _schema(factory: type[Any]) -> type | None:
    schema = getattr(factory, "Config", None)
    return schema if isinstance(schema, type) and dataclasses.is_dataclass(schema) else None


def _field_names(schema: Any) -> set[str]:
    return set() if schema is None else {field.name for field in dataclasses.fields(schema)}


def _locate(group: str, target: Any) -> type[Any]:
    if not isinstance(target, str):
        raise RequestError.of(f"{group}._target_", f"is {target!r}, not a class path", f"choose {group}=... by name")
    module, _, name = target.rpartition(".")
    if package_of(module) is None:  # it could run arbitrary code from a YAML file
        problem = (
            f"is {target!r}, but must start with {' or '.join(f'{p}.' for p in SHIPPED)}, or with a plug-in's name"
        )
        raise RequestError.of(f"{group}._target_", problem, how_to_allow(module or target))
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the code of a plug-in raises
        problem = f"is {target!r}, which cannot be imported: {type(error).__name__}: {error}"
        raise RequestError.of(f"{group}._target_", problem, "correct the class path or its module") from None
    if not inspect.isclass(found):
        raise RequestError.of(f"{group}._target_", f"is {target!r}, which is no class", "name a class")
    if package_of(found.__module__) is None:  # imported by a module that is allowed
        problem = f"is {target!r}, a class of {found.__module__}, which nobody has allowed"
        raise RequestError.of(f"{group}._target_", problem, f"choose {group}=... by name")
    lacking = [name for name in MUST_HAVE.get(group, ()) if not hasattr(found, name)]
    if lacking:
        problem = f"is {target!r}, which cannot be a {group}: it has no {', '.join(lacking)}"
        raise RequestError.of(f"{group}._target_", problem, f"choose {group}=... by name")
    return found


def _arguments(group: str, factory: type[Any], section: dict[str, Any]) -> dict[str, Any]:
    """Checks the arguments of a ``torch.optim`` class, which has no schema, against its signature."""
    parameters = [name for name in inspect.signature(factory).parameters if name not in ("self", "params")]
    settings: dict[str, Any] = {}
    faults = []
    for key, value in section.items():
        if key not in parameters:
            known = ", ".join(parameters)
            faults.append(Fault(f"{group}.{key}", f"is not an argument of {factory.__name__}", f"known: {known}"))
        settings[key] = float(value) if isinstance(value, str) and _is_number(value) else value
        if key in parameters and key != "lr" and not has_reference(value):
            faults += _argument_faults(f"{group}.{key}", factory, key, settings[key])
        if has_reference(value):
            faults.append(reference_fault(f"{group}.{key}", value))
        elif unusable := number_fault(f"{group}.{key}", settings[key]):
            faults.append(unusable)
    lr = settings.get("lr")
    if has_reference(lr):
        pass
    elif not isinstance(lr, int | float) or isinstance(lr, bool) or lr <= 0:
        faults.append(Fault(f"{group}.lr", f"is {lr!r}, but must be a number > 0", f"set {group}.lr, e.g. 1e-3"))
    if not faults:
        faults.extend(_try_optimizer(group, factory, settings))
    if faults:
        raise RequestError(faults)
    return settings


def _argument_faults(where: str, factory: type[Any], key: str, value: Any) -> list[Fault]:
    """PyTorch takes any value for a switch, and does not look at all at the type of others."""
    default = inspect.signature(factory).parameters[key].default
    is_switch = isinstance(default, bool) or key in SWITCHES
    if key in INVERTING and value is not False:
        problem = f"is {value!r}, with which training would not make the loss smaller"
        return [Fault(where, problem, "leave it out")]
    if is_switch and not (isinstance(value, bool) or (value is None and default is None)):
        return [Fault(where, f"is {value!r}, but must be true or false", "set it to one of these, or leave it out")]
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    if is_number and (isinstance(value, bool) or not isinstance(value, int | float)):
        return [Fault(where, f"is {value!r}, but must be a number", "give a number, or leave it out")]
    return []


def _try_optimizer(group: str, factory: type[Any], settings: dict[str, Any]) -> list[Fault]:
    """PyTorch checks the values itself; ask it now rather than after the first step was set up."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    try:
        factory([parameter], **settings).step()
    except Exception as error:  # its own checks, or what an unchecked value does in its arithmetic
        problem = f"{factory.__name__} refuses {settings}: {str(error) or repr(error)}"
        return [Fault(group, problem, "correct the value it names")]
    return []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
