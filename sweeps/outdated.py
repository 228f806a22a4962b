"""Stored steps that a sweep cannot reuse only because the code or a library has changed since."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bacs.bundle import BundleError
from bacs.config import RunConfig
from bacs.lineage import key_of, stage_preimage
from bacs.origin import changes_since
from bacs.stages import StageStore
from sweeps.stage_keys import planned_numerics


@dataclass(frozen=True, slots=True)
class Outdated:
    """Of the steps that a sweep still has to compute."""

    stages: int = 0
    """That were stored by other code; of several such outcomes the one with the fewest changes counts."""
    changes: tuple[str, ...] = ()
    """The files and libraries in which these differ from now."""


def find_outdated(store: StageStore, runs: Iterable[tuple[RunConfig, int, str]], needed: Collection[str]) -> Outdated:
    """Looks for each needed step at what other code made of it.

    Args:
        store: of the sweep.
        runs: the distinct configurations that are known, each with its number of steps and its data's manifest.
        needed: keys of the steps left to compute.
    """
    stored = _stored(store)
    if not stored:
        return Outdated()
    found: dict[str, list[str]] = {}
    for run, steps, manifest in runs:
        numerics = planned_numerics(run)
        for step in range(steps):
            preimage = stage_preimage(run, step, manifest, numerics)
            key = key_of(preimage)
            if key in needed and key not in found and (earlier := stored.get(_identity(preimage))):
                found[key] = min(map(changes_since, earlier), key=len)
    return Outdated(len(found), tuple(dict.fromkeys(change for changes in found.values() for change in changes)))


def _stored(store: StageStore) -> dict[str, list[Mapping[str, Any]]]:
    """The pre-images of all stages, by what they have in common whatever code computed them."""
    stored: dict[str, list[Mapping[str, Any]]] = {}
    for key in store.keys():  # noqa: SIM118  # a store is no dictionary
        try:
            preimage = store.preimage(key)
        except (BundleError, KeyError):
            continue
        stored.setdefault(_identity(preimage), []).append(preimage)
    return stored


def _identity(preimage: Mapping[str, Any]) -> str:
    parts = {name: value for name, value in preimage.items() if name not in ("code", "libraries", "version")}
    return json.dumps(parts, sort_keys=True)
