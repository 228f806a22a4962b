"""References to the environment, ``${oc.env:NAME}``: what is recorded is the reference, never the value.

A configuration is written to journals, checkpoints, MLflow and beside results. So composing leaves references as they
stand; the process that needs such a value looks it up. Fields that act on results take none, as no result may depend on
what nobody recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from bacs.errors import Fault, RequestError

_REFERENCE = re.compile(r"\$\{\s*oc\.env\s*:")
_NAME = re.compile(r"[A-Za-z_]\w*|\$\{.*\}")
_SHORTEST = 3
"""Characters of a value that :func:`hidden` looks for; shorter ones stand in every text."""

_NODE = re.compile(r"\$\{\s*(?:oc\.(?:select|dict\.keys|dict\.values)\s*:\s*)?(?P<dots>\.*)(?P<key>[^:{}$,]*?)\s*[,}]")
_BUILT = re.compile(r"\$\{\s*(?:oc\.(?:select|dict\.\w+)\s*:)?[^:{}]*\$\{")
_MOST_BYTES = 2**22
"""Of a composed configuration, with all that its interpolations stand for."""

_looked_up: dict[str, str] = {}
"""Value -> reference, of this process."""


@contextmanager
def references_kept() -> Iterator[None]:
    """Inside, OmegaConf resolves a reference to the environment to itself."""
    OmegaConf.register_new_resolver("oc.env", _reference, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _reference(name: str, *default: Any) -> str:
    texts = [name if _NAME.fullmatch(name) else _quoted(name)]
    texts += ["null" if value is None else _quoted(str(value)) for value in default]
    return f"${{oc.env:{','.join(texts)}}}"


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def has_reference(value: Any) -> bool:
    """Whether a text, or anything inside a list or a dictionary, refers to the environment."""
    if isinstance(value, Mapping):
        return any(has_reference(key) or has_reference(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(map(has_reference, value))
    return isinstance(value, str) and _REFERENCE.search(value) is not None


def is_reference(text: str) -> bool:
    """Whether a text is one reference and nothing else."""
    match = _REFERENCE.match(text)
    return match is not None and text.endswith("}") and "}" not in text[:-1] and "$" not in text[1:]


def variable_of(text: str) -> str | None:
    """The variable that a text refers to without a default, and nothing else; ``None``: it is another text."""
    match = re.fullmatch(r"\$\{\s*oc\.env\s*:\s*([A-Za-z_]\w*)\s*\}", text)
    return match and match[1]


def looked_up(text: str, where: str) -> str:
    """The text with the values of the references in it.

    Args:
        text: as it is recorded.
        where: its key.

    Raises:
        RequestError: the environment has no such variable, or it is empty.
    """
    if not has_reference(text):
        return text
    try:
        value = OmegaConf.create({"text": text})["text"]
    except OmegaConfBaseException as error:
        reason = " ".join(str(error).partition("full_key:")[0].split())
        remedy = "set the variable where the command runs, on a cluster on every node; or write the value itself"
        raise RequestError.of(where, f"is {text}, which cannot be resolved here: {reason}", remedy) from None
    if not isinstance(value, str) or not value.strip():
        raise RequestError.of(where, f"is {text}, which is empty here", "set the variable, or leave the key out")
    _looked_up[value] = text
    for reference in re.findall(r"\$\{\s*oc\.env\s*:[^{}]*\}", text):
        part = OmegaConf.create({"text": reference})["text"]
        _looked_up.setdefault(str(part), reference)
    return value


def hidden(text: str) -> str:
    """A text for people or records, with the reference in the place of each value that this process has looked up."""
    for value in sorted(_looked_up, key=len, reverse=True):
        if len(value) >= _SHORTEST:
            text = text.replace(value, _looked_up[value])
    return text


def hidden_faults(faults: list[Fault]) -> list[Fault]:
    """The same faults, without values that were looked up."""
    return [Fault(hidden(fault.where), hidden(fault.problem), hidden(fault.remedy)) for fault in faults]


def as_recorded(used: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dictionary of values in use, with the references of ``given`` in their places again."""
    recorded = dict(used)
    for key, value in given.items():
        if key not in recorded:
            continue
        if isinstance(value, Mapping) and isinstance(recorded[key], Mapping):
            recorded[key] = as_recorded(recorded[key], value)
        elif has_reference(value):
            recorded[key] = value
    return recorded


def refuse_growth(config: DictConfig) -> None:
    """Looks at what the interpolations of a configuration will come to, before they are resolved.

    Raises:
        ValueError: more than a sane configuration, or nobody can tell.
    """
    raw = OmegaConf.to_container(config)
    sizes: dict[tuple[str, ...], int] = {}

    def size_of(path: tuple[str, ...]) -> int:
        if path in sizes:
            return sizes[path]
        sizes[path] = 0  # a circle ends here; OmegaConf says so
        node = _at(raw, path)
        if isinstance(node, dict | list):
            keys = node if isinstance(node, dict) else range(len(node))
            total = 1 + sum(size_of((*path, str(key))) for key in keys)
        elif isinstance(node, str):
            if _BUILT.search(node):
                raise ValueError(f"{'.'.join(path)} builds the name of a key from another: {node[:100]}")
            total = 1 + len(node) + sum(size_of(_target(path, match)) for match in _NODE.finditer(node))
        else:
            total = 1
        if total > _MOST_BYTES:
            raise ValueError(f"{'.'.join(path)} stands for more than {_MOST_BYTES:,} characters")
        sizes[path] = total
        return total

    size_of(())


def _at(node: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if isinstance(node, dict):
            node = next((item for key, item in node.items() if str(key) == part), None)
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    return node


def _target(path: tuple[str, ...], match: re.Match[str]) -> tuple[str, ...]:
    """The place that an interpolation at ``path`` leads to."""
    keys = tuple(part for part in re.split(r"[.\[\]]", match["key"].strip()) if part)
    return (*path[: max(0, len(path) - len(match["dots"]))], *keys) if match["dots"] else keys
