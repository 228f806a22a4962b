"""The checkpoints of one run: a bundle for every finished step and for the last epochs of the step under way."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacs.bundle import BundleError, load_bundle, save_bundle

KEPT_EPOCHS = 2
"""Epoch bundles kept, so that a damaged last one costs one epoch more."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a run needs to go on from one place."""

    step: int
    """0-based step the snapshot belongs to."""
    epoch: int | None
    """Finished epochs of the step; ``None``: the step is finished, this is its stage bundle."""
    tensors: dict[str, Any]
    meta: dict[str, Any]


class CheckpointFolder:
    """``stage-<step>/`` and ``epoch-<step>-<epoch>/`` below one folder."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Args: identity: of the configuration; bundles written under another one are refused."""
        self.folder = folder
        self.identity = identity
        self.notes: list[str] = []
        """What was found damaged and passed over, for the user."""

    def save(self, snapshot: Snapshot) -> None:
        meta = {"identity": self.identity, "step": snapshot.step, **snapshot.meta}
        if snapshot.epoch is None:
            save_bundle(self.folder / f"stage-{snapshot.step:03d}", snapshot.tensors, meta)
            self._prune(keep=0)
        else:
            name = f"epoch-{snapshot.step:03d}-{snapshot.epoch:05d}"
            save_bundle(self.folder / name, snapshot.tensors, meta)
            self._prune(keep=KEPT_EPOCHS)

    def latest(self) -> list[Snapshot]:
        """What to restore, in order: the last finished step, then the last epoch after it. Empty: start afresh."""
        found: list[Snapshot] = []
        for path in sorted(self.folder.glob("stage-*"), reverse=True):
            stage = self._load(path, int(path.name.split("-")[1]), None)
            if stage is not None:
                found.append(stage)
                break
        step = found[0].step + 1 if found else 0
        for path in sorted(self.folder.glob(f"epoch-{step:03d}-*"), reverse=True):
            epoch = self._load(path, step, int(path.name.split("-")[2]))
            if epoch is not None:
                found.append(epoch)
                break
        return found

    def _load(self, path: Path, step: int, epoch: int | None) -> Snapshot | None:
        try:
            tensors, meta = load_bundle(path)
        except BundleError as error:
            self.notes.append(f"passed over a checkpoint: {error}")
            return None
        if meta.get("identity") != self.identity:
            self.notes.append(f"passed over {path}: it belongs to another configuration")
            return None
        return Snapshot(step, epoch, tensors, meta)

    def _prune(self, keep: int) -> None:
        epochs = sorted(self.folder.glob("epoch-*"))
        for path in epochs[: len(epochs) - keep]:
            shutil.rmtree(path, ignore_errors=True)
