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
from bacs.lineage import key_of, on_any_device, stage_key, stage_preimage
from bacs.origin import Origin
from bacs.run import ContinualRun

_OF_THE_RUN = ("identity", "model", "origin")
"""Metadata of a checkpoint that differs between runs that share the stage."""
_OF_THE_STORE = ("preimage", "devices")
ALIASES = "any-device"
"""Folder of links to stages by the key that they would have on any device."""


class StageStore:
    """``<root>/<key>/``, complete or not there. Safe for any number of processes on any number of machines.

    A stage may also be asked for by the key that it would have whatever device computed it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, key: str) -> bool:
        return (self._place(key) / "meta.json").exists()

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
        preimage: dict[str, Any] = load_meta(self._place(key))["meta"]["preimage"]
        return preimage

    def devices(self, key: str) -> list[str]:
        """Those that computed a stage. Raises: BundleError: it is missing or damaged."""
        devices: list[str] = load_meta(self._place(key))["meta"].get("devices", [])
        return devices

    def put(self, key: str, bundle: Path, preimage: dict[str, Any], devices: list[str] | None = None) -> bool:
        """Keeps the outcome that a checkpoint holds. Returns: whether it was not there yet.

        Args:
            key: of the stage.
            bundle: the checkpoint.
            preimage: what the key is the hash of.
            devices: that have computed it.

        Raises:
            BundleError: the checkpoint is damaged.
            OSError: storage refused.
        """
        if self.has(key):
            return False
        meta = {name: value for name, value in load_meta(bundle)["meta"].items() if name not in _OF_THE_RUN}
        put = copy_bundle(bundle, self.root / key, meta | {"preimage": preimage, "devices": devices or []})
        self._link(key, key_of(on_any_device(preimage)))
        return put

    def take(self, key: str, target: Path, of_the_run: dict[str, Any]) -> None:
        """Copies a stage to where a checkpoint is expected.

        Raises:
            BundleError: the stage is missing or damaged.
            OSError: storage refused.
        """
        place = self._place(key)
        meta = {name: value for name, value in load_meta(place)["meta"].items() if name not in _OF_THE_STORE}
        copy_bundle(place, target, meta | of_the_run)
        with contextlib.suppress(OSError):  # used now: cleaning begins with the stage that was used longest ago
            os.utime(place / "meta.json")

    def remove(self, key: str) -> None:
        """At once for all who look for it; who is reading it finds it damaged."""
        gone = self.root / f".{key}.{uuid.uuid4().hex[:8]}.tmp"
        place = self.root / key
        if not place.exists():  # found by the key that it has on any device
            place = self.root / Path(os.path.realpath(self.root / ALIASES / key)).name
        with contextlib.suppress(FileNotFoundError):
            place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def clear_drafts(self, older_than_seconds: float) -> None:
        """Removes what killed writers left."""
        for path in self.root.glob(f".{'[0-9a-f]' * 16}.{'[0-9a-f]' * 8}.tmp"):
            with contextlib.suppress(OSError):
                if not path.is_symlink() and path.stat().st_mtime < time.time() - older_than_seconds:
                    shutil.rmtree(path, ignore_errors=True)
        for link in (self.root / ALIASES).glob("*"):
            if link.is_symlink() and not link.exists():
                link.unlink(missing_ok=True)

    def _place(self, key: str) -> Path:
        place = self.root / key
        return place if place.exists() else self.root / ALIASES / key

    def _link(self, key: str, alias: str) -> None:
        """Lets a stage be found by another key too; the first of several has it."""
        link = self.root / ALIASES / alias
        with contextlib.suppress(OSError):  # who asks by that key computes it again
            link.parent.mkdir(exist_ok=True)
            if link.is_symlink() and not link.exists():  # that stage was cleaned away
                link.unlink(missing_ok=True)
            if alias != key:
                link.symlink_to(Path("..") / key)


def begin(
    run: ContinualRun, checkpoints: CheckpointFolder, origin: Origin, notice: Callable[[str], None]
) -> SharedStages | None:
    """Restores a run from its checkpoints or, where they reach further, from steps that others have finished.

    Other ranks restore by themselves, once this one has called it.

    Args:
        run: that has not begun.
        checkpoints: of the run.
        origin: of the run; learns what the steps behind it were computed by.
        notice: is told what could not be shared.

    Returns:
        What it shares with others; ``None`` where ``training.stages`` names no folder.
    """
    folder = run.config.training.stages
    origin.computes_on(run.numerics)
    shared = None
    if folder is not None:
        shared = SharedStages(StageStore(Path(folder)), run, checkpoints, origin, notice)
        shared.take()
    wait_for_all()
    snapshots = checkpoints.latest()
    run.restore(snapshots)
    if snapshots:
        origin.take_over(snapshots[-1].meta.get("origin"))
    return shared


class SharedStages:
    """What one run takes from a store and gives to it."""

    def __init__(
        self,
        store: StageStore,
        run: ContinualRun,
        checkpoints: CheckpointFolder,
        origin: Origin,
        notice: Callable[[str], None],
    ) -> None:
        """Args: as those of :func:`begin`."""
        self._store, self._run, self._checkpoints = store, run, checkpoints
        self._origin, self._notice = origin, notice
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
        """Stores a step whose checkpoint has just been saved, unless it is not what its key promises."""
        any_device = self._run.config.training.any_device
        if self._origin.mixed or not (any_device or self._origin.is_pure):
            causes = ", ".join(self._origin.mixed or self._origin.devices)
            self._notice(f"step {step} is not shared, as several codes or devices have a part in it: {causes}")
            return
        preimage = stage_preimage(self._run.config, step, self._run.data.manifest, self._run.numerics)
        bundle = self._checkpoints.folder / stage_name(step)
        try:
            self._store.put(self.keys[step], bundle, preimage, self._origin.devices)
        except (BundleError, OSError) as error:  # whoever needs it computes it
            self._notice(f"step {step} is not shared: {error}")

    def _took(self, step: int) -> bool:
        key = self.keys[step]
        try:
            devices = self._store.devices(key)
            origin = self._origin.state() | {"devices": devices}
            of_the_run = {"identity": self._checkpoints.identity, "model": self._run.record.state(), "origin": origin}
            self._store.take(key, self._checkpoints.folder / stage_name(step), of_the_run)
        except BundleError as error:
            self._notice(f"passed over a shared step: {error}")
            self._store.remove(key)
            return False
        except OSError as error:
            self._notice(f"step {step} is computed again: {error}")
            return False
        if others := [device for device in devices if device not in self._origin.devices]:
            self._notice(f"steps 0 to {step} were computed on {', '.join(others)} (training.any_device)")
        return True

    def _key(self, step: int) -> str:
        return stage_key(self._run.config, step, self._run.data.manifest, self._run.numerics)
