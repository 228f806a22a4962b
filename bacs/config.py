"""The configuration of one run: what Hydra composed, checked as a whole and turned into typed objects."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bacs.errors import Fault, RequestError
from bacs.networks import HEAD_INITS
from bacs.schema import knob, parse_all

ALLOWED_TARGETS = ("bacs.", "torch.optim.")
"""Prefixes of the classes that ``_target_`` may name. Anything else could run arbitrary code from a YAML file."""

GROUPS = ("dataset", "network", "optimizer", "scheduler", "loss", "training")
MODES = ("overlap", "disjoint", "sequential", "joint")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Keys of ``training``."""

    split: Any = knob("2-2")
    """Classes per step: ``X-Y`` (first X, then Y at a time) or explicit lists such as ``[[0,1],[2,3,4]]``."""
    mode: str = knob("overlap", choices=MODES)
    """Labelling scenario; ``joint`` trains all classes in one step and groups its metrics by ``split``."""
    shuffle_classes: bool = knob(False)
    """Permute the class order with ``seed``."""
    seed: int = knob(42, ge=0)
    epochs: int = knob(4, ge=1)
    """Epochs of step 0, and of later steps unless ``next_epochs`` is set. A checkpoint is due after each."""
    next_epochs: int | None = knob(None, acts_from=1, ge=1)
    iterations_per_epoch: int | None = knob(100, ge=1)
    """Optimisation steps in an epoch; null: one pass over the images of the step."""
    batch_size: int = knob(16, ge=1)
    """Images of the current step per optimisation step."""
    lr_next: float | None = knob(None, acts_from=1, gt=0)
    """Base learning rate of steps >= 1; null: ``optimizer.lr``."""
    new_head_init: str | None = knob(None, acts_from=1, choices=(None, *HEAD_INITS))
    """How the heads of new classes start; null: the method's own choice. See bacs/networks/heads.py."""
    gradient_clip_val: float | None = knob(2.0, gt=0)
    gradient_clip_algorithm: str = knob("value", choices=("value", "norm"))
    mixed_precision: bool = knob(True)
    """bfloat16 autocast where the hardware computes in it; float32 elsewhere."""
    val_every: int = knob(1, acts_from=None, ge=1)
    """Epochs between two measurements of ``val/miou``; the end of a step is always measured."""
    eval_batch_size: int = knob(50, acts_from=None, ge=1)
    device: str = knob("auto", choices=("auto", "cpu", "cuda"))
    threads: int | None = knob(None, ge=1)
    """CPU threads of this process; null: all cores."""
    name: str = knob("run", acts_from=None)
    exp_name: str | None = knob(None, acts_from=None)
    ckpt_dir: str | None = knob(None, acts_from=None)
    """Where ``python -m bacs`` keeps its checkpoints and continues from; null: no checkpoints."""

    def epochs_of(self, step: int) -> int:
        return self.epochs if step == 0 or self.next_epochs is None else self.next_epochs


@dataclass(frozen=True, slots=True)
class Component:
    """A class named by ``_target_`` with its checked settings."""

    target: str
    factory: Callable[..., Any]
    settings: Any
    """The class's ``Config`` dataclass, or a plain dict of arguments for classes of ``torch.optim``."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A whole run. Build it with :meth:`from_dict`; it is checked, so nothing behind it needs to check again."""

    dataset: Component
    network: Component
    optimizer: Component
    scheduler: Component
    loss: Component
    training: TrainingConfig
    resolved: dict[str, Any]
    """The plain nested dictionary that this object was made from, with every default filled in."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Raises: RequestError: with the faults of all sections together."""
        faults = [_unknown_group(key) for key in values if key not in GROUPS]
        parts: dict[str, Any] = {}
        for group in GROUPS:
            build = _training if group == "training" else _component
            parts[group], found = build(group, values.get(group, {}))
            faults += found
        faults += check_together(parts["dataset"], parts["training"])
        if faults:
            raise RequestError(list(dict.fromkeys(faults)))
        return cls(**parts, resolved={group: _resolved(parts[group]) for group in GROUPS})

    def iterations_per_epoch(self, n_images: int) -> int:
        """Optimisation steps in one epoch over a step with ``n_images`` images; a partial last batch is dropped."""
        batch_size = min(self.training.batch_size, n_images)
        return self.training.iterations_per_epoch or max(1, n_images // batch_size)


def check_together(dataset: Component | None, training: TrainingConfig | None) -> list[Fault]:
    """Rules that need the dataset or its class table; reads no image. A section with faults of its own is ``None``."""
    from bacs.data import parse_split

    faults: list[Fault] = []
    if dataset is not None:
        check = getattr(dataset.factory, "check", None)
        faults += check(dataset.settings) if check is not None else []
    names = getattr(dataset.factory, "class_names", None) if dataset is not None else None
    if names is not None and training is not None:
        try:
            parse_split(training.split, names, shuffle=training.shuffle_classes, seed=training.seed)
        except RequestError as error:
            faults += error.faults
    return faults


def _training(group: str, section: Any) -> tuple[TrainingConfig | None, list[Fault]]:
    if not isinstance(section, Mapping):
        return None, [_no_group(group, section)]
    return parse_all(TrainingConfig, section, group)


def _component(group: str, section: Any) -> tuple[Component | None, list[Fault]]:
    if not isinstance(section, Mapping):
        return None, [_no_group(group, section)]
    rest = {key: value for key, value in section.items() if key != "_target_"}
    try:
        factory = _locate(group, section.get("_target_"))
        schema = getattr(factory, "Config", None)
        if schema is None:
            return Component(section["_target_"], factory, _arguments(group, factory, rest)), []
    except RequestError as error:
        return None, error.faults
    settings, faults = parse_all(schema, rest, group)
    return (None if settings is None else Component(section["_target_"], factory, settings)), faults


def _no_group(group: str, section: Any) -> Fault:
    return Fault(group, f"is {section!r}, not a group of keys", f"choose {group}=NAME")


def _locate(group: str, target: Any) -> Callable[..., Any]:
    if not isinstance(target, str):
        raise RequestError.of(f"{group}._target_", f"is {target!r}, not a class path", f"choose {group}=... by name")
    if not target.startswith(ALLOWED_TARGETS):
        allowed = " or ".join(ALLOWED_TARGETS)
        raise RequestError.of(
            f"{group}._target_", f"is {target!r}, but must start with {allowed}", "put your class inside the package"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RequestError.of(f"{group}._target_", f"is {target!r}: {error}", "correct the class path") from None
    if not inspect.isclass(found):
        raise RequestError.of(f"{group}._target_", f"is {target!r}, which is no class", "name a class")
    return found


def _arguments(group: str, factory: Callable[..., Any], section: dict[str, Any]) -> dict[str, Any]:
    """Checks the arguments of a ``torch.optim`` class, which has no schema, against its signature."""
    parameters = [name for name in inspect.signature(factory).parameters if name not in ("self", "params")]
    settings: dict[str, Any] = {}
    faults = []
    for key, value in section.items():
        if key not in parameters:
            known = ", ".join(parameters)
            faults.append(Fault(f"{group}.{key}", f"is not an argument of {factory.__name__}", f"known: {known}"))
        settings[key] = float(value) if isinstance(value, str) and _is_number(value) else value
    lr = settings.get("lr")
    if not isinstance(lr, int | float) or isinstance(lr, bool) or not 0 < lr < float("inf"):
        faults.append(Fault(f"{group}.lr", f"is {lr!r}, but must be a number > 0", f"set {group}.lr, e.g. 1e-3"))
    if not faults:
        faults.extend(_try_optimizer(group, factory, settings))
    if faults:
        raise RequestError(faults)
    return settings


def _try_optimizer(group: str, factory: Callable[..., Any], settings: dict[str, Any]) -> list[Fault]:
    """PyTorch checks the values itself; ask it now rather than after the first step was set up."""
    import torch

    try:
        factory([torch.nn.Parameter(torch.zeros(1))], **settings)
    except (TypeError, ValueError) as error:
        return [Fault(group, f"{factory.__name__} refuses {settings}: {error}", "correct the value it names")]
    return []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unknown_group(key: str) -> Fault:
    return Fault(key, "is not a configuration group", f"known groups: {', '.join(GROUPS)}")


def _resolved(part: Any) -> dict[str, Any]:
    if isinstance(part, Component):
        settings = part.settings if isinstance(part.settings, dict) else dataclasses.asdict(part.settings)
        return {"_target_": part.target, **settings}
    return dataclasses.asdict(part)
