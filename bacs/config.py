"""The configuration of one run: what Hydra composed, checked as a whole and turned into typed objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bacs.compat import CompatConfig
from bacs.components import Component, parse_component
from bacs.errors import Fault, RequestError
from bacs.interpolation import as_recorded, hidden_faults
from bacs.plugins import name_faults, needed_by
from bacs.schema import parse_all
from bacs.step_overrides import override_faults
from bacs.training_config import TrainingConfig, parse_training

COMPONENTS = ("dataset", "network", "optimizer", "scheduler", "loss")
GROUPS = (*COMPONENTS, "training", "compat")
OPTIONAL_GROUPS = ("ood",)
PLAIN_SCHEMAS: dict[str, type] = {"training": TrainingConfig, "compat": CompatConfig}
"""Types of the groups that name no class."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A whole run. Build it with :meth:`from_dict`; it is checked, so nothing behind it needs to check again."""

    dataset: Component
    network: Component
    optimizer: Component
    scheduler: Component
    loss: Component
    training: TrainingConfig
    compat: CompatConfig
    ood: Component | None
    """A dataset of classes that the run never meets, to see what the detector makes of them; ``None``: no such test."""
    plugins: tuple[str, ...]
    """Packages beside `bacs` that its classes come from."""
    resolved: dict[str, Any]
    """The plain nested dictionary that this object was made from, with every default filled in; ``plugins`` only where
    it needs some. It is what is recorded: references to the environment stand in it as such."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Raises: RequestError: with the faults of all sections together."""
        faults = [_unknown_group(key) for key in values if key not in (*GROUPS, *OPTIONAL_GROUPS, "plugins")]
        faults += name_faults(values.get("plugins") or [])
        asked = [group for group in OPTIONAL_GROUPS if values.get(group)]
        parts: dict[str, Any] = dict.fromkeys(OPTIONAL_GROUPS)
        for group in (*GROUPS, *asked):
            parts[group], found = _parse(group, values.get(group) or {})
            faults += found
        told = {fault.where for fault in faults}
        faults += [fault for fault in check_together(parts) if fault.where not in told]
        if faults:
            raise RequestError(hidden_faults(list(dict.fromkeys(faults))))
        resolved = as_recorded({group: _resolved(parts[group]) for group in (*GROUPS, *asked)}, values)
        plugins = needed_by(part.target for part in parts.values() if isinstance(part, Component))
        return cls(**parts, plugins=tuple(plugins), resolved=resolved | ({"plugins": plugins} if plugins else {}))

    @property
    def groups(self) -> list[str]:
        """The sections that it has."""
        return [group for group in self.resolved if group != "plugins"]

    @property
    def notes(self) -> list[str]:
        """What the user should know about values that were accepted."""
        notes = []
        if self.training.apex:
            notes.append("training.apex: native mixed precision (training.mixed_precision) is used; apex is not needed")
        if self.compat.train_mode_detection and hasattr(self.loss.settings, "detector_source"):
            notes.append("compat.train_mode_detection: used in the place of loss.detector_source")
        return notes


def classes_of(dataset: Component) -> tuple[str, ...]:
    """The class names of a dataset that has not been opened."""
    names: tuple[str, ...] = dataset.factory.classes(dataset.settings)
    return names


def domains_of(dataset: Component) -> tuple[str, ...]:
    """Its domains; empty: steps bring classes."""
    names: tuple[str, ...] = getattr(dataset.factory, "domains", ())
    return names


def check_together(parts: Mapping[str, Any]) -> list[Fault]:
    """Rules that need several sections, or files; reads no image. A section with faults of its own is ``None``."""
    faults: list[Fault] = []
    for group in ("dataset", "network", "scheduler", "ood"):
        part: Component | None = parts[group]
        check = getattr(part.factory, "check", None) if part is not None else None
        found = check(part.settings) if check is not None and part is not None else []
        faults += [as_ood(fault) for fault in found] if group == "ood" else found
    if parts["dataset"] is None:
        return faults
    faults += _check_channels(parts["dataset"], parts["network"])
    faults += _check_split(parts["dataset"], parts["training"])
    return faults + (_check_overrides(parts) if not faults else []) + _check_method(parts) + _check_compat(parts)


def as_ood(fault: Fault) -> Fault:
    """A dataset's own fault, with its keys under the group ``ood``."""
    return Fault(*(text.replace("dataset.", "ood.") for text in (fault.where, fault.problem, fault.remedy)))


def _check_channels(dataset: Component, network: Component | None) -> list[Fault]:
    asked = getattr(network.settings, "n_channels", None) if network is not None else None
    channels = dataset.factory.channels
    if asked in (None, channels):
        return []
    problem = f"is {asked}, but the images of {dataset.target} have {channels} channel(s)"
    return [Fault("network.n_channels", problem, "leave it out; it follows from the dataset")]


def _check_split(dataset: Component, training: TrainingConfig | None) -> list[Fault]:
    from bacs.data import parse_split

    if training is None:
        return []
    domains = domains_of(dataset)
    try:
        names = domains or classes_of(dataset)
        parse_split(training.split, names, shuffle=training.shuffle_classes, seed=training.seed)
    except RequestError as error:
        return error.faults
    if domains and training.steps_per_class is not None:
        remedy = "set training.epochs and training.next_epochs"
        return [Fault("training.steps_per_class", "counts new classes, but steps bring domains here", remedy)]
    return []


def _check_overrides(parts: Mapping[str, Any]) -> list[Fault]:
    loss: Component | None = parts["loss"]
    training: TrainingConfig | None = parts["training"]
    if loss is None or training is None or not training.overrides_from_step:
        return []
    return override_faults(loss, training.overrides_from_step, n_steps(parts["dataset"], training))


def n_steps(dataset: Component, training: TrainingConfig) -> int:
    """Continual steps of a run whose data are not open."""
    from bacs.data import parse_split

    names = domains_of(dataset) or classes_of(dataset)
    split = parse_split(training.split, names, shuffle=training.shuffle_classes, seed=training.seed)
    return 1 if training.mode == "joint" else split.n_steps


def _check_method(parts: Mapping[str, Any]) -> list[Fault]:
    loss: Component | None = parts["loss"]
    training: TrainingConfig | None = parts["training"]
    if loss is None or training is None:
        return []
    faults: list[Fault] = []
    if domains_of(parts["dataset"]) and loss.factory.needs_background:
        problem = f"is {loss.target}, whose terms need a background class, but {parts['dataset'].target} has none"
        faults.append(Fault("loss", problem, "choose loss=crossentropy, or a class-incremental dataset"))
    detects = loss.factory.has_detector(loss.settings, training.bg_detector)
    if training.bg_detector is False and detects:
        remedy = "leave training.bg_detector out, or choose a loss without it"
        faults.append(Fault("training.bg_detector", f"is false, but {loss.target} cannot do without", remedy))
    if training.log_prototypes and not detects:
        remedy = "set training.bg_detector=true, or leave training.log_prototypes out"
        faults.append(Fault("training.log_prototypes", f"draws prototypes, but {loss.target} has none", remedy))
    if parts["ood"] is not None and not detects:
        remedy = "set training.bg_detector=true, or leave the group ood out"
        faults.append(Fault("ood", f"asks what the detector makes of it, but {loss.target} has none", remedy))
    if parts["ood"] is not None and parts["ood"].factory.channels != parts["dataset"].factory.channels:
        faults.append(Fault("ood", "has images of another number of channels than dataset", "choose another dataset"))
    return faults


def _check_compat(parts: Mapping[str, Any]) -> list[Fault]:
    """Switches that need what the rest of the configuration does not have."""
    compat: CompatConfig = parts["compat"] or CompatConfig()
    network: Component | None = parts["network"]
    training: TrainingConfig | None = parts["training"]
    faults: list[Fault] = []
    class_norm = None if network is None else getattr(network.settings, "class_norm", None)
    if compat.token_bias_from_weights and class_norm not in (None, "layernorm"):
        problem = f"is true, but network.class_norm={class_norm} has no weights to copy"
        faults.append(Fault("compat.token_bias_from_weights", problem, "set network.class_norm=layernorm"))
    if training is not None and compat.rounded_step_map and len(set(_later_heads(parts["dataset"], training))) > 1:
        problem = f"is true, but training.split={training.split} brings unequal numbers of classes in later steps"
        faults.append(Fault("compat.rounded_step_map", problem, "choose a split X-Y"))
    return faults


def _later_heads(dataset: Component, training: TrainingConfig) -> tuple[int, ...]:
    """Classes that each step after the first brings; empty where the split is faulty or brings domains."""
    from bacs.data import parse_split

    if domains_of(dataset):
        return ()
    try:
        split = parse_split(training.split, classes_of(dataset), shuffle=training.shuffle_classes, seed=training.seed)
    except RequestError:  # told by _check_split
        return ()
    return () if training.mode == "joint" else split.heads[1:]


def _parse(group: str, section: Any) -> tuple[Any, list[Fault]]:
    if not isinstance(section, Mapping):
        return None, [Fault(group, f"is {section!r}, not a group of keys", f"choose {group}=NAME")]
    if group == "training":
        return parse_training(section)
    if group == "compat":
        return parse_all(CompatConfig, section, group)
    return parse_component(group, section)


def _unknown_group(key: str) -> Fault:
    return Fault(key, "is not a configuration group", f"known groups: {', '.join(GROUPS + OPTIONAL_GROUPS)}")


def _resolved(part: Any) -> dict[str, Any]:
    if isinstance(part, Component):
        settings = part.settings if isinstance(part.settings, dict) else dataclasses.asdict(part.settings)
        return {"_target_": part.target, **settings}
    return dataclasses.asdict(part)
