"""Hydra composes the configuration; nothing more of Hydra is used."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bacs.errors import Fault, RequestError
from bacs.interpolation import secrets_kept_out

CONF_DIR = Path(__file__).parent / "conf"
_SHOWN = 100
"""Characters of a request that an error repeats."""
_UNUSABLE = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError, RecursionError)
"""What files that cannot be read, or hold no configuration, make of Hydra."""


def compose(
    config_name: str, overrides: Sequence[str] = (), config_dir: Path | None = None, own_dir: Path | None = None
) -> dict[str, Any]:
    """The plain nested dictionary behind ``config_name`` and the overrides.

    A dotted key is set even if no file names it: whether it is legal is for the typed check, which finds all faults
    at once, and not only Hydra's first.

    Args:
        config_name: a YAML file of ``config_dir``, without its ending.
        overrides: Hydra overrides: ``loss=bacs``, ``loss.lkd=0.5``, ``+training.exp_name=x``.
        config_dir: where the file lies; its groups come before all others.
        own_dir: a folder of the user whose groups come before those of the package.

    Raises:
        RequestError: for an unknown file, group or choice, and for text that is no override.
    """
    directory = (config_dir or CONF_DIR).resolve()
    if ".." in Path(config_name).parts or not _is_file(directory / f"{config_name}.yaml"):
        names = ", ".join(sorted(path.stem for path in directory.glob("*.yaml"))) or "none"
        raise RequestError.of(config_name[:_SHOWN], f"is no configuration file in {directory}", f"known: {names}")
    others = [folder.resolve() for folder in (own_dir, CONF_DIR) if folder is not None]
    searched = ",".join(f"file://{folder}" for folder in others)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory), version_base="1.3"):
        prepared = _prepare(overrides, [directory, *others])
        try:
            with secrets_kept_out():
                composed = hydra_compose(config_name, [*prepared, f"hydra.searchpath=[{searched}]"])
                values = OmegaConf.to_container(composed, resolve=True)
        except _UNUSABLE as error:
            text = " ".join(str(error).partition("Config search path:")[0].split())
            raise RequestError.of(config_name, f"cannot be composed: {text}", "correct the file or override") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def named_plugins(overrides: Sequence[str], values: Mapping[str, Any] | None = None) -> list[str]:
    """The packages that a user has named: in an override ``plugins=[...]``, or in a composed file of his own folder.

    Args:
        overrides: of the command line.
        values: what was composed from a folder that the user calls his own; ``None``: the files are not trusted so far.
    """
    named = [] if values is None else [values.get("plugins")]
    parser = OverridesParser.create()
    for text in overrides:
        with contextlib.suppress(HydraException, ValueError):  # `compose` says what is wrong with it
            override = parser.parse_override(text)
            named += [override.value()] if override.key_or_group == "plugins" else []
    return [name for names in named if isinstance(names, list) for name in names if isinstance(name, str)]


def _prepare(overrides: Sequence[str], folders: Sequence[Path]) -> list[str]:
    parser = OverridesParser.create()
    prepared, faults = [], []
    for text in overrides:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        try:
            override = parser.parse_override(text)
        except (HydraException, ValueError) as error:  # Python reads no number of thousands of digits
            reason, _, _ = str(error).partition("\n")
            problem = f"is not an override: {reason}"
            faults.append(Fault(shown, problem, "write KEY=VALUE, for example loss.lkd=0.5"))
            continue
        key = override.key_or_group
        options = group_options(key, folders) if key else []
        if wrong := _misuse(key, override):
            faults.append(Fault(shown, *wrong))
        elif options:
            choice = override.value()
            if choice not in options:
                remedy = f"choose one of: {', '.join(options)}"
                faults.append(Fault(key, f"is {choice!r}, which is no choice of this group", remedy))
            prepared.append(text)
        elif override.is_delete():
            prepared.append(text)
        else:
            prepared.append("++" + text.lstrip("+"))
    if faults:
        raise RequestError(faults)
    return prepared


def _misuse(key: str, override: Override) -> tuple[str, str] | None:
    """(problem, remedy) of an override that Hydra itself would take."""
    if not key:
        return "is not an override: it has no key", "write KEY=VALUE, for example loss.lkd=0.5"
    if key.startswith("hydra"):
        return "is a setting of Hydra, which only composes here", "leave it out"
    if override.is_sweep_override():
        return "gives several values, but a key has one", "give one; what a sweep varies stands in search.space"
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long for the disk
        return False


def group_options(group: str, folders: Sequence[Path] = (CONF_DIR,)) -> list[str]:
    """The choices of a configuration group; empty if there is no such group."""
    if "." in group or group.startswith("/"):
        return []
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def group_section(group: str, choice: str, own_dir: Path | None = None) -> dict[str, Any]:
    """What ``GROUP=CHOICE`` stands for. Raises: RequestError: for an unknown choice."""
    folders = [folder for folder in (own_dir, CONF_DIR) if folder is not None]
    for folder in folders:
        if choice in group_options(group, [folder]):
            section: dict[str, Any] = yaml.safe_load((folder / group / f"{choice}.yaml").read_text(encoding="utf-8"))
            return section
    known = ", ".join(group_options(group, folders))
    raise RequestError.of(group, f"is {choice!r}, which is no choice of this group", f"choose one of: {known}")
