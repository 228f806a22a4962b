"""Hydra composes the configuration; nothing more of Hydra is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bacs.errors import Fault, RequestError

CONF_DIR = Path(__file__).parent / "conf"


def compose(config_name: str, overrides: Sequence[str] = (), config_dir: Path | None = None) -> dict[str, Any]:
    """The plain nested dictionary behind ``config_name`` and the overrides.

    A dotted key is set even if no file names it: whether it is legal is for the typed check, which finds all faults
    at once, and not only Hydra's first.

    Args:
        config_name: a YAML file of ``config_dir``, without its ending.
        overrides: Hydra overrides: ``loss=bacs``, ``loss.lkd=0.5``, ``+training.exp_name=x``.
        config_dir: where the file lies; its groups come before those of the package.

    Raises:
        RequestError: for an unknown file, group or choice, and for text that is no override.
    """
    directory = (config_dir or CONF_DIR).resolve()
    if not (directory / f"{config_name}.yaml").is_file():
        names = ", ".join(sorted(path.stem for path in directory.glob("*.yaml"))) or "none"
        raise RequestError.of(config_name, f"is no configuration file in {directory}", f"known: {names}")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory), version_base="1.3"):
        prepared = _prepare(overrides, directory)
        try:
            composed = hydra_compose(config_name, [*prepared, f"hydra.searchpath=[file://{CONF_DIR}]"])
            values = OmegaConf.to_container(composed, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            text = str(error).strip().replace("\n", " ")
            raise RequestError.of(config_name, f"cannot be composed: {text}", "correct the file or override") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _prepare(overrides: Sequence[str], directory: Path) -> list[str]:
    parser = OverridesParser.create()
    prepared, faults = [], []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            faults.append(Fault(text, "is not an override", "write KEY=VALUE, for example loss.lkd=0.5"))
            continue
        key = override.key_or_group
        options = group_options(key, directory)
        if options:
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


def group_options(group: str, directory: Path = CONF_DIR) -> list[str]:
    """The choices of a configuration group; empty if there is no such group."""
    if "." in group or group.startswith("/"):
        return []
    folders = {directory / group, CONF_DIR / group}
    return sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")})
