"""What a storage folder holds that nobody needs: shared stages and checkpoints, and the end of both.

Only what is provably of our making goes: it has a name of ours, a record of ours that can be read and fits the name,
and no link lies on the way to it. All else stays and is told.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bacs.bundle import BundleError, load_meta
from bacs.checkpoints import is_checkpoint_name, stage_name
from bacs.config import RunConfig, n_steps
from bacs.errors import RequestError
from bacs.lineage import acting_fields, key_of
from bacs.origin import changes_since
from bacs.stages import ALIASES, StageStore
from results.errors import ResultsError
from results.journal import is_being_written
from results.state import SweepState
from sweeps.edits import settings_of
from sweeps.leases import clear_leases
from sweeps.trials import at_home

JOURNAL = "journal.jsonl"
DRAFT_SECONDS = 24 * 3600.0
"""Age from which a draft in the store, or a lease, cannot belong to a living process."""
_TRIAL_KEY = re.compile(r"[0-9a-f]{12}")
_STAGE_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Removal:
    """One folder that can go."""

    path: Path
    reason: str
    freed_bytes: int
    """Of its files that are then gone under all of their names."""


@dataclass(slots=True)
class Cleaning:
    """What can go, and what lies there and stays because it may be somebody else's."""

    removals: list[Removal] = field(default_factory=list)
    left: dict[Path, str] = field(default_factory=dict)
    """Path -> why it is not taken for ours."""

    @property
    def freed_bytes(self) -> int:
        return sum(removal.freed_bytes for removal in self.removals)


def stages_to_clean(storage: Path, max_bytes: int | None, *, other_code: bool = False) -> Cleaning:
    """Stages that no run can find any more, that no trial of any sweep in a storage folder consists of, and beyond a
    budget those used longest ago.

    Stages of trials that are not over always stay, unless other code than that of now computed them and these shall go.

    Args:
        storage: with journals, and the store below it.
        max_bytes: budget for all stages; ``None``: none.
        other_code: whether what other code or libraries have computed shall go too.

    Raises:
        ResultsError, RequestError: a sweep has lost its journal or its dataset, so nobody can tell what it needs.
    """
    found = Cleaning()
    root = storage / "stages"
    if root.is_symlink():
        found.left[root] = "is a link"
        return found
    needed, known = _stages_of_sweeps(storage)
    preimages = dict(_stages(root, found))
    sizes = {key: StageStore(root).size(key) for key in preimages}
    reasons: dict[str, str] = {}
    for key, preimage in preimages.items():
        if "code" not in preimage:
            reasons[key] = "of an earlier version, found by nobody"
        elif _identity(preimage) not in known:
            reasons[key] = "no trial here consists of it"
        elif other_code and (changes := changes_since(preimage)):
            reasons[key] = f"of other code: {', '.join(changes)}"
    left = sum(size for key, size in sizes.items() if key not in reasons)
    for key, preimage in preimages.items():  # those used longest ago first
        if max_bytes is None or left <= max_bytes:
            break
        if key not in reasons and _identity(preimage) not in needed:
            reasons[key] = "used longest ago"
            left -= sizes[key]
    found.removals = [Removal(root / key, reason, sizes[key]) for key, reason in reasons.items()]
    return found


def checkpoints_to_clean(folder: Path) -> Cleaning:
    """Of the trials of a sweep that are over everything but the last step, which holds the finished model.

    Raises:
        RequestError: the sweep runs.
    """
    if is_being_written(folder / JOURNAL):
        raise RequestError.of("NAME", f"is {folder.name}, which runs just now", "stop it first, or wait until it ends")
    found = Cleaning()
    for trial in SweepState.load(folder / JOURNAL).trials.values():
        if not trial.is_over or trial.status == "failed":  # `resume --retry-failed` goes on from them
            continue
        checkpoints = folder / "trials" / trial.key / "checkpoints"
        if not _TRIAL_KEY.fullmatch(trial.key):
            found.left[checkpoints] = "the journal names no trial of ours"
        elif link := _link_on_the_way(folder, checkpoints):
            found.left[link] = "is a link"
        else:
            _add_checkpoints(checkpoints, {stage_name(max(0, trial.step - 1))}, found)
    return found


def clean(storage: Path, cleaning: Cleaning) -> None:
    """Removes what was found, and drafts and leases of processes that died long ago."""
    store = StageStore(storage / "stages")
    for removal in cleaning.removals:
        if removal.path.parent == store.root:
            store.remove(removal.path.name)
        else:
            shutil.rmtree(removal.path, ignore_errors=True)
    if not store.root.is_symlink():
        store.clear_drafts(DRAFT_SECONDS)
        clear_leases(store.root, DRAFT_SECONDS)


def _add_checkpoints(folder: Path, kept: set[str], found: Cleaning) -> None:
    for path in sorted(folder.glob("*")):
        if path.name in kept:
            continue
        if reason := _why_no_checkpoint(path):
            found.left[path] = reason
        else:
            found.removals.append(Removal(path, "not the last step", _own_bytes(path)))


def _why_no_checkpoint(path: Path) -> str:
    """Empty for a bundle that we wrote under this name."""
    if path.is_symlink():
        return "is a link"
    if not is_checkpoint_name(path.name):
        return "is no name of a checkpoint"
    try:
        load_meta(path)
    except BundleError as error:
        return f"has no record that can be read ({error})"
    return ""


def _stages(root: Path, found: Cleaning) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and pre-image of what is a stage beyond doubt, those used longest ago first."""
    store, ours = StageStore(root), {}
    for path in sorted(path for path in root.glob("[!.]*") if path.name != ALIASES):
        preimage: dict[str, Any] = {}
        if path.is_symlink():
            found.left[path] = "is a link"
        elif not _STAGE_KEY.fullmatch(path.name):
            found.left[path] = "is no name of a stage"
        else:
            try:
                preimage = store.preimage(path.name)
            except (BundleError, KeyError, TypeError) as error:
                found.left[path] = f"has no record that can be read ({error})"
                continue
            if key_of(preimage) != path.name:
                found.left[path] = "has the record of another stage"
            else:
                ours[path.name] = preimage
    yield from ((key, ours[key]) for key in store.keys() if key in ours)  # noqa: SIM118  # a store is no dictionary


def _link_on_the_way(start: Path, path: Path) -> Path | None:
    """The first link between a folder and what lies below it."""
    parts = path.relative_to(start).parts
    ways = (start.joinpath(*parts[:i]) for i in range(len(parts) + 1))
    return next((way for way in ways if way.is_symlink()), None)


def _stages_of_sweeps(storage: Path) -> tuple[set[str], set[str]]:
    """Identities of the stages of trials that are not over, and of all trials."""
    needed, known = set(), set()
    for folder in sorted(path.parent for path in storage.glob("*/trials") if path.is_dir()):
        path = folder / JOURNAL
        state = SweepState.load(path) if path.is_file() else SweepState()
        trials = state.trials.values()
        if not trials and any((folder / "trials").iterdir()):
            raise ResultsError(
                f"{path} is empty or missing, but there are trials in {folder / 'trials'}, whose steps cannot be told",
                "restore the journal from a copy, or move that folder out of the storage",
            )
        base = settings_of(state, storage).base if trials else {}
        for trial in trials:
            try:
                identities = set(_identities(at_home(base, trial.config)))
            except RequestError as error:
                where, problem = error.faults[0].where, error.faults[0].problem
                problem = f"of the sweep {folder.name} {problem}, so nobody can tell which stages it consists of"
                remedy = (
                    f"`resume {folder.name} {where}=...` records another value; or move {folder} out of the storage"
                )
                raise RequestError.of(where, problem, remedy) from None
            known |= identities
            if not trial.is_over:
                needed |= identities
    return needed, known


def _identities(values: Mapping[str, Any]) -> Iterator[str]:
    config = RunConfig.from_dict(values)
    for step in range(n_steps(config.dataset, config.training)):
        yield _identity(acting_fields(config, step))


def _identity(preimage: Mapping[str, Any]) -> str:
    """What of a stage the configuration decides; its data and numeric setting only a run knows."""
    return json.dumps({name: preimage.get(name) for name in ("fields", "measured", "classes")}, sort_keys=True)


def _own_bytes(folder: Path) -> int:
    """Of the files in it that have no other name."""
    stats = [path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)
