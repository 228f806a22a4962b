"""Where the numbers of a run come from: its code, its libraries, its devices, and what changed on the way.

Checkpoints, results and journals carry it. Going on from a checkpoint under other code is refused unless it is asked
for; then every later result says so.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bacs import __version__
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.fingerprint import fingerprint, libraries, run_code, version_of
from bacs.precision import Numerics
from bacs.source import current, file_of

UNKNOWN = "code that the version of then did not record"
ALLOW_OTHER_CODE = "--allow-other-code"
"""The switch of both command lines."""
MIXED = "MIXED CODE"
"""How results begin that several codes have a part in."""
_GIT_SECONDS = 10.0


@dataclass(slots=True)
class Origin:
    """Of one run, as far as it has come."""

    code: dict[str, str]
    """The digest of every module that acts, by name."""
    libraries: dict[str, str]
    """Package -> version."""
    commit: str | None
    """Of the project's repository; ``None``: it is no repository, or an installed copy."""
    dirty: bool | None
    """Whether files of the repository differed from the commit."""
    devices: list[str] = field(default_factory=list)
    """Those that have computed a part of it."""
    mixed: list[str] = field(default_factory=list)
    """What has changed since earlier parts were computed, in words; empty: everything comes from the same code."""

    @classmethod
    def of(cls, config: RunConfig) -> Origin:
        code = run_code(config)
        return cls(code.modules, libraries(config, code), *commit())

    @property
    def fingerprint(self) -> str:
        """12 hex digits of code and libraries."""
        return fingerprint(self.code, self.libraries)

    def state(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {"fingerprint": self.fingerprint, **asdict(self)}

    def computes_on(self, numerics: Numerics) -> None:
        """Notes the device of this process."""
        self._add_devices([f"{numerics.device.type} {numerics.model}"])

    def take_over(self, earlier: Mapping[str, Any] | None) -> None:
        """Goes on from what another process has come to. Args: earlier: its `state`; ``None``: it kept none."""
        self.mixed = list(dict.fromkeys([*_texts(earlier, "mixed"), *self.mixed, *changes_since(earlier)]))
        self._add_devices(_texts(earlier, "devices"))

    @property
    def is_pure(self) -> bool:
        """Whether all of it was computed by one code on one kind of device, so that others may share its steps."""
        return not self.mixed and len(self.devices) <= 1

    def _add_devices(self, names: list[str]) -> None:
        self.devices = list(dict.fromkeys([*self.devices, *names]))


def changes_since(earlier: Mapping[str, Any] | None) -> list[str]:
    """Files and libraries that are not as they were.

    Modules that act now and did not then are no changes: a setting that asks for them may be new, and where another
    module began to import them, it has changed itself.

    Args:
        earlier: an origin's `state`, or the code that a journal keeps; ``None``: none was kept.
    """
    told = earlier if isinstance(earlier, Mapping) else {}
    code, versions = told.get("code"), told.get("libraries")
    if not isinstance(code, Mapping) or not code:
        return [UNKNOWN]
    now = current(code)
    files = [file_of(module) for module, digest in code.items() if now[module] != digest]
    return files + _other_versions(versions if isinstance(versions, Mapping) else {})


def refuse_changes(where: str, earlier: Mapping[str, Any] | None, new_name: str, switch: str) -> None:
    """For whoever is about to go on from what other code has computed.

    Args:
        where: the file or key to name.
        earlier: as for :func:`changes_since`.
        new_name: how to begin anew, as a remedy.
        switch: how to go on all the same.

    Raises:
        RequestError: naming the files that differ.
    """
    changes = changes_since(earlier)
    if changes:
        problem = f"was computed by other code or libraries than those of now: {', '.join(changes)}"
        remedy = f"{new_name}; or go on all the same with {switch}, and every later result is marked as mixed"
        raise RequestError.of(where, problem, remedy)


def version() -> str:
    """What ``--version`` prints: the version, the commit, and a fingerprint of all modules of `bacs`."""
    folder = Path(__file__).parent
    files = [path.relative_to(folder.parent).with_suffix("") for path in folder.rglob("*.py")]
    names = sorted(".".join(file.parts).removesuffix(".__init__") for file in files)
    head, dirty = commit()
    place = "no repository" if head is None else f"commit {head[:10]}{', edited' if dirty else ''}"
    code = fingerprint(current(names))
    return f"bacs-sweeps {__version__} ({place}), code {code}, torch {version_of('torch')}"


def _texts(earlier: Any, name: str) -> list[str]:
    """A list of an origin's `state`, which may come from anywhere."""
    values = earlier.get(name) if isinstance(earlier, Mapping) else None
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


@functools.cache
def commit() -> tuple[str | None, bool | None]:
    """(commit, whether files differ from it) of the repository that this code lies in; twice ``None``: in none."""
    folder = Path(__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    told = _git(folder, "--no-optional-locks", "status", "--porcelain=v2", "--branch")
    lines = (told or "").splitlines()
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    return oid, None if oid is None else any(not line.startswith("#") for line in lines)


def _git(folder: Path, *arguments: str) -> str | None:
    """``None`` where it fails."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _other_versions(earlier: Mapping[str, str]) -> list[str]:
    now = {name: version_of(name) for name in earlier}
    return [f"{name} {old} -> {now[name] or 'none'}" for name, old in earlier.items() if now[name] != old]
