"""Leases on steps that are being computed, so that sweeps which share a stage store at the same time compute each once.

A lease is a symbolic link ``<folder>/<step>.<n>`` to the name of its owner: made at once with what it says, by one
process alone, on every file system. An owner lives as long as the number in ``<owner>.beat`` grows, watched by the
clock of who looks: no clocks are compared, and a lock server is not needed. Where an owner has stood still for
`EXPIRES_SECONDS` the next taker makes ``<step>.<n + 1>``, which one of them can, and from then on the older lease is
void, also for an owner that comes to life again. All that a lease held wrongly could cost is a step computed twice: the
store takes the first of two equal outcomes (`bacs.stages`).
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Container, Sequence
from pathlib import Path

BEAT_SECONDS = 5.0
EXPIRES_SECONDS = 60.0
_ASK_SECONDS = 1.0
"""Between two looks at a lease that somebody else holds."""


class Leases:
    """Those that one process holds. Storage that refuses leaves it as if nobody else were there."""

    def __init__(self, store: Path, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        store: the root of the stage store that the owners have in common.
        name: of whom at most one process works for at a time; leases of the one before are void at once.
        clock: reading of a clock that nobody sets, in seconds.
        """
        self.folder = store / ".leases"
        self._name = hashlib.sha256(name.encode()).hexdigest()[:12]
        self.owner = f"{self._name}-{uuid.uuid4().hex[:12]}"
        self._clock = clock
        self._held: dict[str, Path] = {}
        self._seen: dict[str, tuple[str, float]] = {}  # owner -> its last beat, and when that was new to us
        self._asked: dict[str, float] = {}  # step -> when somebody else was found to hold it
        self._beats = 0
        self._last_beat = 0.0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, steps: Sequence[str]) -> bool:
        """Whether all these steps are free for this process, which then holds them, or no lease can be had at all."""
        with self._lock, contextlib.suppress(OSError):
            now = self._clock()
            if any(now < self._asked.get(step, -_ASK_SECONDS) + _ASK_SECONDS for step in steps):
                return False
            self._start()
            fresh = [step for step in steps if step not in self._held]
            for step in fresh:
                lease = self._made(step)
                if lease is None:
                    self._asked[step] = now
                    for taken in fresh[: fresh.index(step)]:
                        self._give_back(self._held.pop(taken))
                    return False
                self._held[step] = lease
        return True

    def _made(self, step: str) -> Path | None:
        """The lease, unless somebody alive has it."""
        generations = self._generations(step)
        newest = max(generations, default=-1)
        if newest >= 0 and self._lives(_owner(self.folder / f"{step}.{newest}")):
            return None
        lease = self.folder / f"{step}.{newest + 1}"
        try:
            lease.symlink_to(self.owner)
        except FileExistsError:
            return None
        for older in generations:
            (self.folder / f"{step}.{older}").unlink(missing_ok=True)
        return lease

    def keep(self, steps: Container[str]) -> None:
        """Gives back all leases but those on ``steps``."""
        with self._lock:
            for step in [step for step in self._held if step not in steps]:
                self._give_back(self._held.pop(step))

    def beat(self) -> None:
        """Says that this process lives; its thread does so every `BEAT_SECONDS`. One that stood still for too long
        forgets the leases that others have taken over."""
        with self._lock, contextlib.suppress(OSError):
            if self._clock() - self._last_beat >= EXPIRES_SECONDS:
                self._held = {step: lease for step, lease in self._held.items() if _owner(lease) == self.owner}
            self._beats += 1
            self._beat_of(self.owner).write_text(str(self._beats), encoding="ascii")
            self._last_beat = self._clock()

    def close(self) -> None:
        """Gives everything back, also what killed processes of the same name left."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self.keep(())
        with contextlib.suppress(OSError):
            self._clear_own()
            self.folder.rmdir()  # refused while others use it

    def _start(self) -> None:
        if self._thread is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_own()
            self._beat_of(self.owner).write_text("0", encoding="ascii")
            self._last_beat = self._clock()
            self._thread = threading.Thread(target=self._beat_on, daemon=True, name="leases")
            self._thread.start()

    def _clear_own(self) -> None:
        """Removes everything of this name: at the start and at the end of a process, which then holds nothing."""
        for lease in self.folder.glob("*.[0-9]*"):
            if self._is_own(_owner(lease)):
                lease.unlink(missing_ok=True)
        for beat in self.folder.glob(f"{self._name}-*.beat"):
            beat.unlink(missing_ok=True)

    def _is_own(self, owner: str) -> bool:
        return owner.startswith(f"{self._name}-")

    def _beat_on(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            self.beat()

    def _generations(self, step: str) -> list[int]:
        return [int(path.suffix[1:]) for path in self.folder.glob(f"{step}.*")]

    def _lives(self, owner: str) -> bool:
        if self._is_own(owner):
            return False
        try:
            beat = self._beat_of(owner).read_text(encoding="ascii")
        except FileNotFoundError:
            self._seen.pop(owner, None)
            return False
        before, since = self._seen.get(owner, ("", 0.0))
        if beat != before:
            self._seen[owner] = (beat, self._clock())
            return True
        return self._clock() - since < EXPIRES_SECONDS

    def _beat_of(self, owner: str) -> Path:
        return self.folder / f"{owner}.beat"

    def _give_back(self, lease: Path) -> None:
        with contextlib.suppress(OSError):
            if _owner(lease) == self.owner:
                lease.unlink()


def clear_leases(store: Path, older_than_seconds: float) -> None:
    """Removes what dead owners left."""
    folder = store / ".leases"
    oldest = time.time() - older_than_seconds
    with contextlib.suppress(OSError):
        for beat in folder.glob("*.beat"):
            if beat.stat().st_mtime < oldest:
                beat.unlink(missing_ok=True)
        for lease in folder.glob("*.[0-9]*"):
            if lease.lstat().st_mtime < oldest and not (folder / f"{_owner(lease)}.beat").exists():
                lease.unlink(missing_ok=True)


def _owner(lease: Path) -> str:
    """Empty where the lease is gone."""
    try:
        return lease.readlink().name
    except FileNotFoundError:
        return ""
