"""Small files that a user gives: read only where they are regular files of a sane size, and YAML only without bombs."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bacs.errors import RequestError

MOST_BYTES = 2**20
"""Of a YAML file, and of what its aliases stand for."""
YAML_SUFFIXES = (".yaml", ".yml")
UNREADABLE = (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError, OSError)
"""What a file that is no YAML, or no configuration, makes of its reader."""

_NODE_BYTES = 20
"""What a node of YAML counts beside its text."""
_DEEPEST = 50


def read_text(path: Path, where: str | None = None) -> str:
    """The text of a file.

    Args:
        path: of the file.
        where: what a fault names; ``None``: the path.

    Raises:
        RequestError: it is absent, a folder, a device or a pipe, too large, or no UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device never ends
            problem = "it is no regular file"
        else:
            with path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
            if len(content) <= MOST_BYTES:
                return content.decode("utf-8-sig")
            problem = f"it is larger than {MOST_BYTES:,} bytes"
    except UnicodeDecodeError as error:
        problem = f"it is no UTF-8 text ({error.reason} at byte {error.start})"
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        problem = getattr(error, "strerror", None) or str(error)
    place = "" if where is None else f"is {path}, which "
    raise RequestError.of(where or str(path), f"{place}cannot be read: {problem}", "correct the file, or name another")


def read_yaml(path: Path, where: str | None = None) -> Any:
    """What OmegaConf makes of a YAML file, interpolations as they stand: a dictionary or a list.

    Unlike PyYAML alone it refuses a key that stands there twice.

    Raises:
        RequestError: as :func:`read_yaml_text`, or it is no YAML.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(read_yaml_text(path, where))))
    except RequestError:
        raise
    except UNREADABLE as error:
        raise _no_yaml(path, where, error) from None


def read_yaml_text(path: Path, where: str | None = None) -> str:
    """The text of a YAML file that may be parsed.

    Raises:
        RequestError: as :func:`read_text`, or it holds an alias bomb, or is nested too deeply.
    """
    text = read_text(path, where)
    try:
        refuse_bombs(text)
    except UNREADABLE as error:
        raise _no_yaml(path, where, error) from None
    return text


def _no_yaml(path: Path, where: str | None, error: Exception) -> RequestError:
    place = "" if where is None else f"is {path}, which "
    problem = f"{place}cannot be read: {' '.join(str(error).split())}"
    return RequestError.of(where or str(path), problem, "correct the file")


def refuse_bombs(text: str) -> None:
    """Looks at YAML event by event, before anything is built from it.

    Raises:
        ValueError: what it stands for is larger than a sane file, nested too deeply, or contains itself.
        yaml.YAMLError: it is no YAML.
    """
    sizes: dict[str, int] = {}
    holders: list[tuple[str | None, int]] = []  # the collections around, each with what stood before it began
    total = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            holders.append((event.anchor, total))
            total += _NODE_BYTES
            if len(holders) > _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = holders.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            size = _NODE_BYTES + len(event.value)
            total += size
            if event.anchor is not None:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in holders):
                raise ValueError(f"*{event.anchor} contains itself")
            total += sizes.get(event.anchor, 0)
        if total > MOST_BYTES:
            raise ValueError(f"with its aliases written out it is larger than {MOST_BYTES:,} bytes")


def yaml_file(folder: Path, name: str) -> Path | None:
    """``NAME.yaml`` or ``NAME.yml``, or NAME itself where it ends so; ``None``: there is no such regular file."""
    own = name.endswith(YAML_SUFFIXES)
    for path in [folder / name] if own else [folder / f"{name}{suffix}" for suffix in YAML_SUFFIXES]:
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # too long for the disk, or with a NUL
            return None
    return None


def yaml_names(folder: Path) -> list[str]:
    """The YAML files of a folder, without their endings."""
    return sorted({path.stem for suffix in YAML_SUFFIXES for path in folder.glob(f"*{suffix}")})
