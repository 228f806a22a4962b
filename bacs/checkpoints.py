"""The checkpoints of one run: a bundle for every finished step and for the last epochs of the step under way."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacs.bundle import BundleError, bundle_names, load_bundle, load_meta, save_bundle
from bacs.patience import patiently

KEPT_EPOCHS = 2
"""Epoch bundles kept, so that a damaged last one costs one epoch more."""

_NAME = re.compile(r"stage-(?P<stage>\d+)|epoch-(?P<step>\d+)-(?P<epoch>\d+)")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a run needs to go on from one place."""

    step: int
    """0-based step the snapshot belongs to."""
    epoch: int | None
    """Finished epochs of the step; ``None``: the step is finished, this is its stage bundle."""
    tensors: dict[str, Any]
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a bundle belongs in the course of a run."""

    step: int
    epoch: int | None

    @property
    def name(self) -> str:
        return stage_name(self.step) if self.epoch is None else f"epoch-{self.step:03d}-{self.epoch:05d}"

    @property
    def order(self) -> tuple[bool, int, int]:
        """Epochs, from first to last, then stages."""
        return self.epoch is None, self.step, self.epoch or 0


def stage_name(step: int) -> str:
    """The folder of a finished step."""
    return f"stage-{step:03d}"


def is_checkpoint_name(name: str) -> bool:
    """Whether a bundle of a run may have this name."""
    match = _NAME.fullmatch(name)
    return match is not None and _place(match).name == name


class CheckpointFolder:
    """``stage-<step>/`` and ``epoch-<step>-<epoch>/`` below one folder. One process at a time may save."""

    def __init__(
        self,
        folder: Path,
        identity: str,
        notice: Callable[[str], None] | None = None,
        origin: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """Args:
        folder: of the bundles; made when the first one is saved.
        identity: of the configuration; bundles written under another one are passed over.
        notice: is told while a save waits for storage; else it stands in ``notes``.
        origin: gives what every bundle shall say of the code behind it (`bacs.origin`).
        """
        self.folder = folder
        self.identity = identity
        self.notes: list[str] = []
        """What was found damaged and passed over, for the user."""
        self._notice = notice or self.notes.append
        self._origin = origin

    def save(self, snapshot: Snapshot) -> None:
        """Makes the snapshot durable, then drops the epochs that it makes needless.

        While storage refuses, the run stands still: going on would put more and more work at risk.

        Raises:
            bacs.patience.StorageRefusedError: it refused for too long.
        """
        place = _Place(snapshot.step, snapshot.epoch)
        meta = {**snapshot.meta, "identity": self.identity, "step": place.step, "epoch": place.epoch}
        if self._origin is not None:
            meta["origin"] = self._origin()
        patiently(
            lambda: save_bundle(self.folder / place.name, snapshot.tensors, meta),
            f"the checkpoint {place.name}",
            self.folder,
            self._notice,
        )
        self._prune(place)

    def latest(self) -> list[Snapshot]:
        """What to restore, in order: the last finished step, then the last epoch after it. Empty: start afresh.

        Whatever is damaged is passed over for the one before, and noted.
        """
        found: list[Snapshot] = []
        places = self._places()
        stages = [place for place in places if place.epoch is None]
        self._take_last(stages, found)
        step = found[0].step + 1 if found else 0
        self._take_last([place for place in places if place.epoch is not None and place.step == step], found)
        lost = [place.step for place in stages if place.step >= step]
        if lost:
            self.notes.append(f"trains step {step} again: no checkpoint of its end can be used")
        return found

    def latest_meta(self) -> dict[str, Any] | None:
        """The metadata of the last place that can be read, without its tensors; ``None``: there is none."""
        for place in sorted(self._places(), key=lambda place: (place.step, *place.order), reverse=True):
            with contextlib.suppress(BundleError):
                meta: dict[str, Any] = load_meta(self.folder / place.name)["meta"]
                if meta.get("identity") == self.identity:
                    return meta
        return None

    def stages_done(self) -> int:
        """Steps up to the last whose end was saved; whether that can be used shows when it is loaded."""
        return max((place.step + 1 for place in self._places() if place.epoch is None), default=0)

    def _take_last(self, places: list[_Place], found: list[Snapshot]) -> None:
        for place in reversed(places):
            snapshot = self._load(place)
            if snapshot is not None:
                found.append(snapshot)
                return

    def _places(self) -> list[_Place]:
        """Of all bundles there are, in order."""
        matches = filter(None, map(_NAME.fullmatch, bundle_names(self.folder)))
        return sorted(map(_place, matches), key=lambda place: place.order)

    def _load(self, place: _Place) -> Snapshot | None:
        path = self.folder / place.name
        try:
            tensors, meta = load_bundle(path)
        except BundleError as error:
            self.notes.append(f"passed over a checkpoint: {error}")
            return None
        if meta.get("identity") != self.identity:
            self.notes.append(f"passed over {path}: it belongs to another configuration")
            return None
        # Bundles of earlier versions do not tell their epoch.
        if (meta.get("step"), meta.get("epoch", place.epoch)) != (place.step, place.epoch):
            self.notes.append(f"passed over {path}: it is that of another place, under this name")
            return None
        return Snapshot(place.step, place.epoch, tensors, meta)

    def _prune(self, saved: _Place) -> None:
        """Keeps the last epochs up to the one just saved; later ones were left by a run that had to go back."""
        epochs = [place for place in self._places() if place.epoch is not None]
        kept = [place for place in epochs if place.step == saved.step and place.order <= saved.order]
        for place in epochs:
            if saved.epoch is None or place not in kept[-KEPT_EPOCHS:]:
                shutil.rmtree(self.folder / place.name, ignore_errors=True)


def _place(match: re.Match[str]) -> _Place:
    if match["stage"] is not None:
        return _Place(int(match["stage"]), None)
    return _Place(int(match["step"]), int(match["epoch"]))
