"""What the outcome of a stage depends on, as a readable pre-image and its hash.

Stage t is a function of its configuration fields that act up to step t, the data, the seed, the numeric setting, the
code that acts on it and the libraries that this uses (DESIGN: a run is a chain of stages).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bacs.building import build_method
from bacs.components import Component
from bacs.config import RunConfig, classes_of, domains_of
from bacs.data import parse_split
from bacs.fingerprint import acting_code, libraries
from bacs.precision import Numerics
from bacs.schema import acts_from, measuring

DEVICE_FIELDS = ("device", "model")
VARIES_WITH_STEP = ("split", "shuffle_classes", "overrides_from_step")
"""Training fields that enter through what they make of the steps so far instead of by their text."""


def run_identity(config: RunConfig) -> str:
    """16 hex digits: equal for two configurations that differ only in fields that never change a result."""
    return key_of({group: _acting(config, group, None) for group in config.groups})


def passive_keys(config: RunConfig) -> set[str]:
    """The dotted keys of the fields that never change a result."""
    keys = set()
    for group in config.groups:
        schema = _schema(getattr(config, group))
        keys |= {f"{group}.{name}" for name, first in acts_from(schema).items() if first is None} if schema else set()
    return keys


def stage_key(config: RunConfig, step: int, manifest: str, numerics: Numerics) -> str:
    """16 hex digits that name the outcome of stage ``step``."""
    return key_of(stage_preimage(config, step, manifest, numerics))


def stage_preimage(config: RunConfig, step: int, manifest: str, numerics: Numerics) -> dict[str, Any]:
    """Everything that the outcome of stage ``step`` depends on, and what is measured in it, readable."""
    code = acting_code(config, step)
    preimage = {
        **acting_fields(config, step),
        "data": manifest,
        "numerics": numerics.describe(),
        "code": code.modules,
        "libraries": libraries(config, code),
    }
    return on_any_device(preimage) if config.training.any_device else preimage


def on_any_device(preimage: Mapping[str, Any]) -> dict[str, Any]:
    """The same without the kind of device, of which only the last digits of a result depend."""
    numerics = {name: value for name, value in preimage["numerics"].items() if name not in DEVICE_FIELDS}
    return {**preimage, "numerics": numerics}


def acting_fields(config: RunConfig, step: int) -> dict[str, Any]:
    """The part of a pre-image that the configuration alone decides."""
    training = config.training
    names = domains_of(config.dataset) or classes_of(config.dataset)
    split = parse_split(training.split, names, shuffle=training.shuffle_classes, seed=training.seed)
    steps = split.joint().steps if training.mode == "joint" else split.steps
    # What the original does in train mode at the end of a step changes the model by what the next step asks for.
    acting = step + 1 if config.compat.train_mode_collection else step
    fields = {group: _acting(config, group, acting) for group in config.groups if group not in ("dataset", "ood")}
    for name in VARIES_WITH_STEP:
        fields["training"].pop(name, None)
    method = build_method(config.loss, training, config.compat) if acting == 0 else None
    if method is not None and method.plain_step_0:
        detection = method.detection
        fields["loss"] = {
            "terms": "cross_entropy",
            "detector": None if detection is None else dataclasses.asdict(detection.settings),
        }
        fields["training"].pop("bg_detector")
    overrides = {first: changes for first, changes in training.overrides_from_step.items() if int(first) <= acting}
    if overrides:
        fields["training"]["overrides_from_step"] = overrides
    measured = {group: _measuring(config, group) for group in config.groups}
    return {
        "fields": fields,
        "measured": {group: values for group, values in measured.items() if values},
        "classes": [list(classes) for classes in steps[: step + 1]],
    }


def _acting(config: RunConfig, group: str, step: int | None) -> dict[str, Any]:
    """The fields of a group that act up to ``step`` (``None``: in any step)."""
    part = getattr(config, group)
    schema = _schema(part)
    known = acts_from(schema) if schema else {}
    fields = {}
    for name, value in _values(part).items():
        first = known.get(name, 0)
        if first is not None and (step is None or first <= step):
            fields[name] = value
    return {"_target_": part.target, **fields} if isinstance(part, Component) else fields


def _measuring(config: RunConfig, group: str) -> dict[str, Any]:
    """The fields of a group that decide what is measured; all of ``ood``, which does nothing else."""
    part = getattr(config, group)
    if group == "ood":
        return _acting(config, group, None)
    schema = _schema(part)
    wanted = measuring(schema) if schema else set()
    return {name: value for name, value in _values(part).items() if name in wanted}


def _schema(part: Any) -> type | None:
    """The dataclass of a section; ``None``: a class of torch, with plain arguments, all of which act."""
    settings = part.settings if isinstance(part, Component) else part
    return None if isinstance(settings, dict) else type(settings)


def _values(part: Any) -> dict[str, Any]:
    settings = part.settings if isinstance(part, Component) else part
    return settings if isinstance(settings, dict) else dataclasses.asdict(settings)


def key_of(preimage: Mapping[str, Any]) -> str:
    """16 hex digits."""
    text = json.dumps(preimage, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
