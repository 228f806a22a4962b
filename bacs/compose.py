"""Hydra composes the configuration; nothing more of Hydra is used."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from bacs.components import schema_of
from bacs.config import PLAIN_SCHEMAS
from bacs.errors import Fault, RequestError
from bacs.interpolation import references_kept, refuse_growth
from bacs.overrides import Assignment, key_fault, quoted, read, shown
from bacs.plugins import allowing
from bacs.reading import UNREADABLE, read_text, read_yaml, read_yaml_text, yaml_file, yaml_names
from bacs.schema import text_keys

CONF_DIR = Path(__file__).parent / "conf"
TUNED = "tuned"
"""Group of what a method needs on a dataset; the files that ask for it choose by the names of both."""
NO_SCHEMAS: Mapping[str, type] = MappingProxyType({})
_UNUSABLE = (HydraException, *UNREADABLE)
"""What files that cannot be read, or hold no configuration, make of Hydra."""


def compose(
    config_name: str,
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    own_dir: Path | None = None,
    *,
    schemas: Mapping[str, type] = NO_SCHEMAS,
    trusted: bool = False,
) -> dict[str, Any]:
    """The plain nested dictionary behind ``config_name`` and the overrides; references to the environment stay such.

    A dotted key is set even if no file names it: whether it is legal is for the typed check, which finds all faults
    at once, and not only Hydra's first. A key that holds text takes what stands behind the first ``=`` as it is.

    Args:
        config_name: a YAML file of ``config_dir``, with or without its ending.
        overrides: Hydra overrides: ``loss=bacs``, ``loss.lkd=0.5``, ``+training.exp_name=x``.
        config_dir: where the file lies; its groups come before all others.
        own_dir: a folder of the user whose groups come before those of the package.
        schemas: the types of sections beside those of a run, by name.
        trusted: whether ``config_dir`` is the user's own, so that packages which its files name may be loaded.

    Raises:
        RequestError: for an unknown file, group or choice, and for text that is no override.
    """
    directory = (config_dir or CONF_DIR).resolve()
    file = None if ".." in Path(config_name).parts else yaml_file(directory, config_name)
    if file is None:
        names = ", ".join(yaml_names(directory)) or "none"
        raise RequestError.of(shown(config_name), f"is no configuration file in {directory}", f"known: {names}")
    folders = [directory, *(folder.resolve() for folder in (own_dir, CONF_DIR) if folder is not None)]
    for_hydra, assignments, faults = _sorted_out(overrides, folders)
    if f"{TUNED}:" in read_text(file) and any(_names_a_class(text) for text in overrides):
        for_hydra.append(f"~{TUNED}")  # it is for the class that the file names
    searched = ",".join(quoted(f"file://{folder}") for folder in folders[1:])
    GlobalHydra.instance().clear()
    with _careful_reading(), initialize_config_dir(str(directory), version_base="1.3"), references_kept():
        try:
            composed = hydra_compose(config_name, [*for_hydra, f"hydra.searchpath=[{searched}]"])
            with allowing(named_plugins(overrides, OmegaConf.to_container(composed) if trusted else None)):
                faults += _assign(composed, assignments, schemas)
            if not faults:
                refuse_growth(composed)
                values = OmegaConf.to_container(composed, resolve=True)
        except RequestError as error:
            raise RequestError([*faults, *error.faults]) from None
        except _UNUSABLE as error:
            text = " ".join(str(error).partition("Config search path:")[0].split())
            text = text or "an interpolation in it cannot be read"
            faults.append(Fault(shown(config_name), f"cannot be composed: {text}", "correct the file or override"))
    if faults:
        raise RequestError(faults)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _names_a_class(text: str) -> bool:
    """Whether an override puts a class of the user's in the place of a shipped method."""
    return text.lstrip("+").startswith("loss._target_=")


def named_plugins(overrides: Sequence[str], values: Any = None) -> list[str]:
    """The packages that a user has named: in an override ``plugins=[...]``, or in a composed file of his own folder.

    Args:
        overrides: of the command line.
        values: what was composed from a folder that the user calls his own; ``None``: the files are not trusted so far.
    """
    named = [values.get("plugins")] if isinstance(values, Mapping) else []
    for text in overrides:
        with contextlib.suppress(RequestError):  # `compose` says what is wrong with it
            override = read(text)
            if isinstance(override, Override) and override.key_or_group == "plugins":
                named.append(override.value())
    return [name for names in named if isinstance(names, list) for name in names if isinstance(name, str)]


class _UserFiles(FileConfigSource):
    """Reads what Hydra asks for only where it is a small regular file without alias bombs; ``.yml`` is YAML too."""

    def is_config(self, config_path: str) -> bool:
        return yaml_file(Path(self.path), config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        path = yaml_file(Path(self.path), config_path)
        if path is None:
            raise RequestError.of(str(Path(self.path) / config_path), "does not exist", "correct the name")
        text = read_yaml_text(path)
        config = OmegaConf.load(io.StringIO(text))
        if isinstance(config, DictConfig) and OmegaConf.select(config, "hydra.searchpath") is not None:
            raise RequestError.of(str(path), "has hydra.searchpath, and with it files of others", "leave it out")
        return ConfigResult(self.provider, f"file://{self.path}", config, self._get_header_dict(text))


@contextlib.contextmanager
def _careful_reading() -> Iterator[None]:
    """Inside, Hydra reads files by :class:`_UserFiles`."""
    Plugins.instance()  # registers Hydra's own
    types = SourcesRegistry.instance().types
    before = types["file"]
    types["file"] = _UserFiles
    try:
        yield
    finally:
        types["file"] = before


def _sorted_out(overrides: Sequence[str], folders: Sequence[Path]) -> tuple[list[str], list[Assignment], list[Fault]]:
    """(what Hydra composes with, what is set afterwards, what is wrong)."""
    for_hydra, assignments, faults = [], [], []
    for text in overrides:
        try:
            override = read(text)
        except RequestError as error:
            faults += error.faults
            continue
        key = override.key if isinstance(override, Assignment) else override.key_or_group
        if fault := key_fault(text, key):
            faults.append(fault)
        elif isinstance(override, Assignment):
            assignments.append(override)
        elif fault := _choice_fault(text, override, folders):
            faults.append(fault)
        else:
            plain = group_options(key, folders) or override.is_delete()
            for_hydra.append(text if plain else "++" + text.lstrip("+"))
    return for_hydra, assignments, faults


def _choice_fault(text: str, override: Override, folders: Sequence[Path]) -> Fault | None:
    """For a group, or a key at the top, that gets no legal value."""
    if override.is_sweep_override():
        remedy = "give one; what a sweep varies stands in search.space"
        return Fault(shown(text), "gives several values, but a key has one", remedy)
    options = group_options(override.key_or_group, folders)
    if not options or override.value() in options:
        return None
    problem = f"is {override.value()!r}, which is no choice of this group"
    return Fault(override.key_or_group, problem, f"choose one of: {', '.join(options)}")


def _assign(composed: DictConfig, assignments: Sequence[Assignment], schemas: Mapping[str, type]) -> list[Fault]:
    """Sets the keys, in order; returns what is wrong with their values."""
    faults = []
    for assignment in sorted(assignments, key=lambda a: not a.key.endswith("._target_")):
        try:
            value = assignment.value(is_text=is_text_key(assignment.key, composed, schemas))
            OmegaConf.update(composed, assignment.key, value, merge=True, force_add=True)
        except RequestError as error:
            faults += error.faults
        except _UNUSABLE as error:
            reason = " ".join(str(error).partition("full_key:")[0].split())
            faults.append(Fault(shown(assignment.text), f"cannot be set: {reason}", "write GROUP.KEY=VALUE"))
    return faults


def is_text_key(key: str, values: Mapping[Any, Any], schemas: Mapping[str, type] = NO_SCHEMAS) -> bool:
    """Whether a dotted key of a configuration holds text. Args: schemas: as for :func:`compose`."""
    group, _, name = key.partition(".")
    schema = schemas.get(group) or PLAIN_SCHEMAS.get(group) or schema_of(group, values.get(group))
    return schema is not None and name in text_keys(schema)


def group_options(group: str, folders: Sequence[Path] = (CONF_DIR,)) -> list[str]:
    """The choices of a configuration group; empty if there is no such group."""
    if "." in group or group.startswith("/"):
        return []
    return sorted({name for folder in folders for name in yaml_names(folder / group)})


def group_section(group: str, choice: str, own_dir: Path | None = None) -> dict[str, Any]:
    """What ``GROUP=CHOICE`` stands for. Raises: RequestError: for an unknown choice."""
    folders = [folder for folder in (own_dir, CONF_DIR) if folder is not None]
    for folder in folders:
        if choice in group_options(group, [folder]) and (path := yaml_file(folder / group, choice)):
            section: dict[str, Any] = read_yaml(path)
            return section
    known = ", ".join(group_options(group, folders))
    raise RequestError.of(group, f"is {choice!r}, which is no choice of this group", f"choose one of: {known}")
