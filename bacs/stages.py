"""Outcomes of steps that runs share: a folder of bundles, each under the key of its stage.

A stage is a pure function of what its key is the hash of (`bacs.lineage`), so whoever needs it takes it from here, and
nobody has to agree on who writes it: a second writer finds it there and drops its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bacs.bundle import BundleError, copy_bundle, load_meta
from bacs.checkpoints import CheckpointFolder, stage_name
from bacs.distributed import wait_for_all
from bacs.lineage import stage_key, stage_preimage
from bacs.run import ContinualRun

_OF_THE_RUN = ("identity", "model")
"""Metadata of a checkpoint that differs between runs that share the stage."""


class StageStore:
    """``<root>/<key>/``, complete or not there. Safe for any number of processes on any number of machines."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, key: str) -> bool:
        return (self.root / key / "meta.json").exists()

    def keys(self) -> list[str]:
        """Of all stages, those used last at the end."""
        found = [(path.stat().st_mtime, path.parent.name) for path in self.root.glob("[!.]*/meta.json")]
        return [key for _, key in sorted(found)]

    def size(self, key: str) -> int:
        """Bytes; checkpoints that were copied from the stage, or to it, mostly share them."""
        return sum(path.stat().st_size for path in (self.root / key).iterdir())

    def preimage(self, key: str) -> dict[str, Any]:
        """What the stage is the outcome of, readable.

        Raises:
            BundleError: the stage is missing or damaged.
        """
        preimage: dict[str, Any] = load_meta(self.root / key)["meta"]["preimage"]
        return preimage

    def put(self, key: str, bundle: Path, preimage: dict[str, Any]) -> bool:
        """Keeps the outcome that a checkpoint holds. Returns: whether it was not there yet.

        Raises:
            BundleError: the checkpoint is damaged.
            OSError: storage refused.
        """
        if self.has(key):
            return False
        meta = {name: value for name, value in load_meta(bundle)["meta"].items() if name not in _OF_THE_RUN}
        return copy_bundle(bundle, self.root / key, meta | {"preimage": preimage})

    def take(self, key: str, target: Path, of_the_run: dict[str, Any]) -> None:
        """Copies a stage to where a checkpoint is expected.

        Raises:
            BundleError: the stage is missing or damaged.
            OSError: storage refused.
        """
        meta = {name: value for name, value in load_meta(self.root / key)["meta"].items() if name != "preimage"}
        copy_bundle(self.root / key, target, meta | of_the_run)
        with contextlib.suppress(OSError):  # used now: cleaning begins with the stage that was used longest ago
            os.utime(self.root / key / "meta.json")

    def remove(self, key: str) -> None:
        """At once for all who look for it; who is reading it finds it damaged."""
        gone = self.root / f".{key}.{uuid.uuid4().hex[:8]}.tmp"
        with contextlib.suppress(FileNotFoundError):
            (self.root / key).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def clear_drafts(self, older_than_seconds: float) -> None:
        """Removes what killed writers left."""
        for path in self.root.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - older_than_seconds:
                    shutil.rmtree(path, ignore_errors=True)


def begin(run: ContinualRun, checkpoints: CheckpointFolder, notice: Callable[[str], None]) -> SharedStages | None:
    """Restores a run from its checkpoints or, where they reach further, from steps that others have finished.

    Other ranks restore by themselves, once this one has called it.

    Returns:
        What it shares with others; ``None`` where ``training.stages`` names no folder.
    """
    folder = run.config.training.stages
    shared = None
    if folder is not None:
        shared = SharedStages(StageStore(Path(folder)), run, checkpoints, notice)
        shared.take()
    wait_for_all()
    run.restore(checkpoints.latest())
    return shared


class SharedStages:
    """What one run takes from a store and gives to it."""

    def __init__(
        self, store: StageStore, run: ContinualRun, checkpoints: CheckpointFolder, notice: Callable[[str], None]
    ) -> None:
        """Args: notice: is told what could not be shared."""
        self._store, self._run, self._checkpoints, self._notice = store, run, checkpoints, notice
        self.keys = [self._key(step) for step in range(run.split.n_steps)]
        """Of every step of the run."""
        self.taken = 0
        """Steps that the run was spared."""

    def take(self) -> None:
        """Gives the run, by way of its checkpoints, the longest chain of steps that somebody has finished before.

        Nothing where its own checkpoints reach as far. A damaged stage is removed, and noted.
        """
        own = self._checkpoints.stages_done()
        for step in reversed(range(own, len(self.keys))):
            if self._store.has(self.keys[step]) and self._took(step):
                self.taken = step + 1
                return

    def give(self, step: int) -> None:
        """Stores a step whose checkpoint has just been saved."""
        preimage = stage_preimage(self._run.config, step, self._run.data.manifest, self._run.numerics)
        try:
            self._store.put(self.keys[step], self._checkpoints.folder / stage_name(step), preimage)
        except (BundleError, OSError) as error:  # whoever needs it computes it
            self._notice(f"step {step} is not shared: {error}")

    def _took(self, step: int) -> bool:
        of_the_run = {"identity": self._checkpoints.identity, "model": self._run.record.state()}
        try:
            self._store.take(self.keys[step], self._checkpoints.folder / stage_name(step), of_the_run)
        except BundleError as error:
            self._notice(f"passed over a shared step: {error}")
            self._store.remove(self.keys[step])
            return False
        except OSError as error:
            self._notice(f"step {step} is computed again: {error}")
            return False
        return True

    def _key(self, step: int) -> str:
        return stage_key(self._run.config, step, self._run.data.manifest, self._run.numerics)
