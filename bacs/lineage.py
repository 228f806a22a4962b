"""What the outcome of a stage depends on, as a readable pre-image and its hash.

Stage t is a function of its configuration fields that act up to step t, the data, the seed, the numeric setting and
the version of the code (DESIGN: a run is a chain of stages).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from bacs import __version__
from bacs.components import Component
from bacs.config import RunConfig, classes_of, domains_of
from bacs.data import parse_split
from bacs.precision import Numerics
from bacs.schema import acts_from

VARIES_WITH_STEP = ("split", "shuffle_classes")
"""Training fields that enter through the classes of the steps so far instead of by their text."""


def run_identity(config: RunConfig) -> str:
    """16 hex digits: equal for two configurations that differ only in fields that never change a result."""
    return _digest({group: _acting(config, group, None) for group in config.resolved})


def passive_keys(config: RunConfig) -> set[str]:
    """The dotted keys of the fields that never change a result."""
    keys = set()
    for group in config.resolved:
        part: Component | Any = getattr(config, group)
        settings = part.settings if isinstance(part, Component) else part
        fields = {} if isinstance(settings, dict) else acts_from(type(settings))
        keys |= {f"{group}.{name}" for name, first in fields.items() if first is None}
    return keys


def stage_key(config: RunConfig, step: int, manifest: str, numerics: Numerics) -> str:
    """16 hex digits that name the outcome of stage ``step``."""
    return _digest(stage_preimage(config, step, manifest, numerics))


def stage_preimage(config: RunConfig, step: int, manifest: str, numerics: Numerics) -> dict[str, Any]:
    """Everything that the outcome of stage ``step`` depends on, readable."""
    training = config.training
    names = domains_of(config.dataset) or classes_of(config.dataset)
    split = parse_split(training.split, names, shuffle=training.shuffle_classes, seed=training.seed)
    steps = split.joint().steps if training.mode == "joint" else split.steps
    fields = {group: _acting(config, group, step) for group in config.resolved if group not in ("dataset", "ood")}
    for name in VARIES_WITH_STEP:
        fields["training"].pop(name, None)
    return {
        "fields": fields,
        "classes": [list(classes) for classes in steps[: step + 1]],
        "data": manifest,
        "numerics": numerics.describe(),
        "version": __version__,
    }


def _acting(config: RunConfig, group: str, step: int | None) -> dict[str, Any]:
    """The fields of a group that act up to ``step`` (``None``: in any step)."""
    part: Component | Any = getattr(config, group)
    settings = part.settings if isinstance(part, Component) else part
    schema = {} if isinstance(settings, dict) else acts_from(type(settings))
    values = settings if isinstance(settings, dict) else dataclasses.asdict(settings)
    fields = {}
    for name, value in values.items():
        first = schema.get(name, 0)
        if first is not None and (step is None or first <= step):
            fields[name] = value
    return {"_target_": part.target, **fields} if isinstance(part, Component) else fields


def _digest(preimage: dict[str, Any]) -> str:
    text = json.dumps(preimage, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
