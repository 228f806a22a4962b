"""What a storage folder holds that nobody needs: shared stages and checkpoints, and the end of both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bacs.bundle import BundleError, bundle_names
from bacs.checkpoints import stage_name
from bacs.config import RunConfig, n_steps
from bacs.errors import RequestError
from bacs.lineage import acting_fields
from bacs.origin import changes_since
from bacs.stages import StageStore
from results.journal import is_being_written
from results.state import SweepState, TrialState
from sweeps.leases import clear_leases

JOURNAL = "journal.jsonl"
DRAFT_SECONDS = 24 * 3600.0
"""Age from which a draft in the store, or a lease, cannot belong to a living process."""


@dataclass(slots=True)
class Cleaning:
    """What can go, and why."""

    stages: dict[str, str] = field(default_factory=dict)
    """Key -> reason."""
    folders: list[Path] = field(default_factory=list)
    """Checkpoints."""
    freed_bytes: int = 0
    """Of files that are gone under all of their names."""


def stages_to_clean(storage: Path, max_bytes: int | None, *, other_code: bool = False) -> Cleaning:
    """Stages that no run can find any more, that no trial of any sweep in a storage folder consists of, and beyond a
    budget those used longest ago.

    Stages of trials that are not over always stay, unless other code than that of now computed them and these shall go.

    Args:
        storage: with journals, and the store below it.
        max_bytes: budget for all stages; ``None``: none.
        other_code: whether what other code or libraries have computed shall go too.
    """
    store = StageStore(storage / "stages")
    needed, known = _stages_of_sweeps(storage)
    preimages = {key: _preimage_of(store, key) for key in store.keys()}  # noqa: SIM118  # a store is no dictionary
    identities = {key: _identity(preimage) if preimage else "" for key, preimage in preimages.items()}
    sizes = {key: store.size(key) for key in identities}
    stages = {}
    for key, preimage in preimages.items():
        if not preimage:
            stages[key] = "damaged"
        elif "code" not in preimage:
            stages[key] = "of an earlier version, found by nobody"
        elif identities[key] not in known:
            stages[key] = "no trial here consists of it"
        elif other_code and (changes := changes_since(preimage)):
            stages[key] = f"of other code: {', '.join(changes)}"
    left = sum(size for key, size in sizes.items() if key not in stages)
    for key, identity in identities.items():  # those used longest ago first
        if max_bytes is None or left <= max_bytes:
            break
        if key not in stages and identity not in needed:
            stages[key] = "used longest ago"
            left -= sizes[key]
    return Cleaning(stages, freed_bytes=sum(sizes[key] for key in stages))


def checkpoints_to_clean(folder: Path) -> Cleaning:
    """Of the trials of a sweep that are over everything but the last step, which holds the finished model.

    Raises:
        RequestError: the sweep runs.
    """
    if is_being_written(folder / JOURNAL):
        raise RequestError.of("NAME", f"is {folder.name}, which runs just now", "stop it first, or wait until it ends")
    found = Cleaning()
    for trial in SweepState.load(folder / JOURNAL).trials.values():
        checkpoints = folder / "trials" / trial.key / "checkpoints"
        if not trial.is_over or trial.status == "failed":  # `resume --retry-failed` goes on from them
            continue
        for name in sorted(bundle_names(checkpoints) - {stage_name(max(0, trial.step - 1))}):
            found.folders.append(checkpoints / name)
            found.freed_bytes += _own_bytes(checkpoints / name)
    return found


def clean(storage: Path, cleaning: Cleaning) -> None:
    """Removes what was found."""
    store = StageStore(storage / "stages")
    for key in cleaning.stages:
        store.remove(key)
    store.clear_drafts(DRAFT_SECONDS)
    clear_leases(store.root, DRAFT_SECONDS)
    for folder in cleaning.folders:
        shutil.rmtree(folder, ignore_errors=True)


def _stages_of_sweeps(storage: Path) -> tuple[set[str], set[str]]:
    """Identities of the stages of trials that are not over, and of all trials."""
    needed, known = set(), set()
    for path in storage.glob(f"*/{JOURNAL}"):
        for trial in SweepState.load(path).trials.values():
            identities = set(_identities(trial))
            known |= identities
            if not trial.is_over:
                needed |= identities
    return needed, known


def _identities(trial: TrialState) -> Iterator[str]:
    config = RunConfig.from_dict(trial.config)
    for step in range(n_steps(config.dataset, config.training)):
        yield _identity(acting_fields(config, step))


def _preimage_of(store: StageStore, key: str) -> dict[str, Any]:
    """Empty where the stage is damaged."""
    try:
        return store.preimage(key)
    except (BundleError, KeyError):
        return {}


def _identity(preimage: Mapping[str, Any]) -> str:
    """What of a stage the configuration decides; its data and numeric setting only a run knows."""
    return json.dumps({name: preimage.get(name) for name in ("fields", "measured", "classes")}, sort_keys=True)


def _own_bytes(folder: Path) -> int:
    """Of the files in it that have no other name."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)
