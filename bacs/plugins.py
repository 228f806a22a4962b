"""Packages beside `bacs` whose classes `_target_` may name, because the user has named these packages.

A user names them by ``plugins=[mylab.methods]`` on the command line, in the environment variable ``BACS_PLUGINS``
(names with commas between them), in a file of his own ``--config-path``, or by installing a distribution with entry
points of the group ``bacs.plugins``. What else comes from a file (preset, checkpoint, journal) can say that it needs a
package, never that it may be loaded.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bacs.errors import Fault
from bacs.source import LIBRARY_FOLDERS, lies_in

ENVIRONMENT = "BACS_PLUGINS"
ENTRY_POINTS = "bacs.plugins"
SHIPPED = ("bacs", "torch.optim")
"""Packages whose classes may always be named."""

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def named() -> tuple[str, ...]:
    """What the command line and the environment name; child processes inherit it."""
    names = map(str.strip, os.environ.get(ENVIRONMENT, "").split(","))
    return tuple(dict.fromkeys(name for name in names if _is_ownable(name)))


@functools.cache
def installed() -> tuple[str, ...]:
    """What installed distributions announce under the entry-point group; a folder that merely lies on the path, such as
    an unpacked download, installs nothing."""
    names = []
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        place = Path(str(point.dist.locate_file(""))) if point.dist is not None else Path()
        if LIBRARY_FOLDERS & set(place.absolute().parts) and _NAME.fullmatch(point.value.partition(":")[0]):
            names.append(point.module)
    return tuple(dict.fromkeys(names))


def allow(names: Iterable[str]) -> None:
    """Adds packages that the user has named to those of this process and of its children."""
    os.environ[ENVIRONMENT] = ",".join(dict.fromkeys((*named(), *filter(_is_ownable, names))))


@contextlib.contextmanager
def allowing(names: Iterable[str] = ()) -> Iterator[None]:
    """Inside, these packages are allowed too; whatever was allowed inside is forgotten at the end."""
    before = os.environ.get(ENVIRONMENT)
    try:
        allow(names)
        yield
    finally:
        os.environ.pop(ENVIRONMENT, None) if before is None else os.environ.update({ENVIRONMENT: before})


def package_of(module: str) -> str | None:
    """The allowed package that a module belongs to; ``None``: none, so nothing of it may be loaded."""
    allowed = [package for package in (*SHIPPED, *named()) if lies_in(module, [package])]
    allowed = allowed or [package for package in installed() if lies_in(module, [package])]
    return allowed[0] if allowed else None


def needed_by(targets: Iterable[str]) -> list[str]:
    """The packages behind class paths that do not ship with the project, for checkpoints and journals to record."""
    packages = {package_of(target.rpartition(".")[0]) for target in targets}
    return sorted(package for package in packages if package is not None and package not in SHIPPED)


def name_faults(names: Any) -> list[Fault]:
    """What is wrong with a value of the key ``plugins``, with packages that only a file names among it."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return [Fault("plugins", f"is {names!r}, but must be a list of packages", "write plugins=[mylab.methods]")]
    faults = []
    for name in names:
        if not _is_ownable(name):
            problem = f"names {name!r}, which is no package of yours"
            faults.append(Fault("plugins", problem, "write its import path: plugins=[mylab.methods]"))
        elif package_of(name) is None:
            problem = f"names {name}, but only you can allow that its code runs, no file that names it"
            faults.append(Fault("plugins", problem, how_to_allow(name)))
    return faults


def how_to_allow(module: str) -> str:
    """The remedy where a package has not been named."""
    if not _is_ownable(module):
        return "name a class of the project, or of a package of your own"
    return f"if you trust it, set {ENVIRONMENT}={module} in the environment, or add plugins=[{module}] to the command"


def _is_ownable(module: str) -> bool:
    """Whether it is an import path, and not one of Python itself."""
    return _NAME.fullmatch(module) is not None and module.partition(".")[0] not in sys.stdlib_module_names
