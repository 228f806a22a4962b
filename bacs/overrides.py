"""Overrides of the command line, ``KEY=VALUE``: Hydra's grammar, and texts that it would not read."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from bacs.errors import Fault, RequestError
from bacs.reading import refuse_bombs

_SHOWN = 100
"""Characters of a request that an error repeats."""
_DOTTED = re.compile(r"\+{0,2}(?P<key>\w+(\.[\w$-]+)+)=(?P<raw>.*)", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.:-]*")
_EXAMPLE = "write KEY=VALUE, for example loss.lkd=0.5"


def quoted(text: str) -> str:
    """A text as Hydra's grammar reads it back, whatever it holds; ``$`` begins no interpolation."""
    return QuotedString(text.replace("${", "\\${"), Quote.single).with_quotes()


def as_override(value: Any) -> str:
    """A value as it stands behind ``=``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_override(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_override, value)) + "]"
    if isinstance(value, str):
        is_plain = _PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false", "nan", "inf")
        return value if is_plain else quoted(value).replace("\\${", "${")
    return str(value) if not isinstance(value, float) or math.isfinite(value) else quoted(str(value))


def pasted(key: str, value: Any) -> str:
    """``KEY=VALUE`` for a shell."""
    return shlex.quote(f"{key}={as_override(value)}")


def shown(text: str) -> str:
    """As much of what a user wrote as an error repeats."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@dataclass(frozen=True, slots=True)
class Assignment:
    """``GROUP.KEY=VALUE``, whose meaning depends on the type of the key."""

    text: str
    """As given."""
    key: str
    """Dotted."""
    raw: str
    """What stands behind the first ``=``."""
    override: Override | None
    """As Hydra reads it."""
    reason: str
    """Why Hydra does not."""

    def value(self, *, is_text: bool) -> Any:
        """What the key gets.

        Args:
            is_text: the key holds text or null: it takes what was written as it is, unless that is null or in quotes.

        Raises:
            RequestError: it can be no value.
        """
        known = None if self.override is None or self.override.is_sweep_override() else self.override
        if is_text:
            found = None if known is None else known.value()
            is_null = known is not None and found is None
            is_quoted = isinstance(found, str) and self.raw.strip()[:1] in ("'", '"')
            return found if is_null or is_quoted else self.raw
        if known is not None:
            return known.value()
        if self.override is not None:
            remedy = "give one; what a sweep varies stands in search.space"
            raise RequestError.of(shown(self.text), "gives several values, but a key has one", remedy)
        if "${" in self.raw:  # OmegaConf reads more of these than Hydra
            return self.raw
        if self.raw.strip()[:1] in ("[", "{"):  # lists and dictionaries of names in any script
            try:
                refuse_bombs(self.raw)
                return yaml.safe_load(self.raw)
            except (yaml.YAMLError, ValueError):
                pass
        raise RequestError.of(shown(self.text), f"is not an override: {self.reason}", _EXAMPLE)


def read(text: str) -> Assignment | Override:
    """An override of a dotted key, or any other that Hydra reads (a group, a deletion).

    Raises:
        RequestError: it is neither.
    """
    dotted = _DOTTED.fullmatch(text)
    override, reason = None, ""
    try:
        override = OverridesParser.create().parse_override(text)
    except (HydraException, ValueError) as error:  # Python reads no number of thousands of digits
        reason = str(error).partition("\n")[0]
    if dotted is not None and (override is None or override.key_or_group == dotted["key"]):
        return Assignment(text, dotted["key"], dotted["raw"], override, reason)
    if override is None:
        raise RequestError.of(shown(text), f"is not an override: {reason}", _EXAMPLE)
    return override


def key_fault(text: str, key: str) -> Fault | None:
    """For an override of what nobody may override, though Hydra itself would."""
    if not key:
        return Fault(shown(text), "is not an override: it has no key", _EXAMPLE)
    if key.partition(".")[0] == "hydra":
        return Fault(shown(text), "is a setting of Hydra, which only composes here", "leave it out")
    return None
