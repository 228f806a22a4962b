"""The code and the libraries that act on the steps of a run: what the key of a shared step depends on beside settings.

The training loop's sources act on every step, those of the classes that a configuration names on the steps in which
these classes act. What only checks, shows or keeps is left out, so that an edit there costs no step.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from bacs.building import build_method
from bacs.components import Component
from bacs.config import RunConfig, n_steps
from bacs.losses.detection import Detection
from bacs.networks.norms import extension
from bacs.source import Closure, closure

LOOP = "bacs.run"
SETTINGS = (
    "bacs.components",
    "bacs.config",
    "bacs.schema",
    "bacs.source",
    "bacs.retired",
    "bacs.plugins",
    "bacs.errors",
    "bacs.interpolation",
    "bacs.paths",
    "bacs.reading",
)
"""Modules by which settings are read and checked; their values are in the key themselves."""
INERT = (
    *SETTINGS,
    "bacs.events",
    "bacs.fit",
    "bacs.checkpoints",
    "bacs.bundle",
    "bacs.patience",
    "bacs.model_record",
    "bacs.report",
    "bacs.media",
)
"""Modules and packages that change no number of a step, unless classes from outside compute with them."""
PLAIN = "bacs.losses.crossentropy"
"""Trains step 0 of most methods."""
DETECTOR = ("bacs.losses.detection", "bacs.detector", "bacs.prototypes")
MEMORY = ("bacs.remembering", "bacs.replay", "bacs.replay_policies")
MEASURING = {
    "log_prototypes": ("bacs.media.media", "bacs.media.features"),
    "log_drift": ("bacs.media.media", "bacs.media.drift"),
    "log_animation": ("bacs.media.media", "bacs.media.animation"),
}
"""What measures beside the loop, by the key of ``training`` that asks for it."""
OOD = ("bacs.ood",)
IN_PLACE = ("iabn", "iabn_sync")
"""Values of a network's keys that ask for in-place ABN."""


def acting_code(config: RunConfig, step: int) -> Closure:
    """The modules behind the outcome of a step, those of the steps before it included."""
    roots = dict.fromkeys(_roots(config, step))
    return _closure((LOOP, *roots))


def run_code(config: RunConfig) -> Closure:
    """All modules that act in a run."""
    return acting_code(config, n_steps(config.dataset, config.training) - 1)


def libraries(config: RunConfig, code: Closure) -> dict[str, str]:
    """The versions of what a step is computed with: PyTorch, NumPy, in-place ABN and what own packages import."""
    wanted = {"torch", "torchvision", "numpy", *code.libraries}
    network = config.network.settings
    values = network.values() if isinstance(network, dict) else vars(network).values()
    if any(value in IN_PLACE for value in values if isinstance(value, str)) and extension() is not None:
        wanted.add("inplace_abn")
    versions = {name: version_of(name) for name in sorted(wanted)}
    return {name: version for name, version in versions.items() if version}


def fingerprint(code: Mapping[str, str], versions: Mapping[str, str] | None = None) -> str:
    """12 hex digits of the digests of some modules and the versions of libraries."""
    text = json.dumps([dict(code), dict(versions or {})], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def version_of(package: str) -> str:
    """Of the distribution that a top-level package comes from; empty where nobody knows."""
    if package == "torch":  # with the build, such as +cpu
        return torch.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(package, [])
        return importlib.metadata.version(names[0]) if names else ""


@functools.cache
def _closure(roots: tuple[str, ...]) -> Closure:
    gated = (*DETECTOR, *MEMORY, *OOD, PLAIN)
    return closure(roots, stops=(*INERT, *gated), beyond=INERT, never=SETTINGS)


def _roots(config: RunConfig, step: int) -> Iterator[str]:
    """The modules of the classes that act up to a step, beside the loop."""
    method = build_method(config.loss, config.training, config.compat)
    for part in (config.dataset, config.network, config.optimizer, config.scheduler):
        yield from _modules(part)
    if method.plain_step_0:
        yield PLAIN
    own_detection = method.detection is not None and type(method.detection) is not Detection
    if step > 0 or not method.plain_step_0 or own_detection or config.compat.train_mode_collection:
        yield from _modules(config.loss)
    if method.detection is not None:
        yield from DETECTOR
    if method.memory[0] > 0 and (step > 0 or config.compat.train_mode_collection):
        yield from MEMORY
    if config.ood is not None:
        yield from (*OOD, *_modules(config.ood))
    for key, modules in MEASURING.items():
        if getattr(config.training, key):
            yield from modules


def _modules(part: Component) -> list[str]:
    """Where a class is named, and where it is defined; of PyTorch the version counts."""
    factory: Any = part.factory
    names = dict.fromkeys((part.target.rpartition(".")[0], str(factory.__module__)))
    return [name for name in names if name.partition(".")[0] != "torch"]
