"""The terminal: text that comes from data or from a user's values is shown, and never acts on it."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.segment import Segment

_JOINERS = "\u200c\u200d"
"""Some scripts need them inside words."""


class Terminal(Console):
    """A console on which control characters of what is printed have no effect, and no encoding is an error."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        super().__init__(stderr=stderr, width=width)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """The one place through which everything goes, tables and live displays too."""
        return super()._render_buffer(
            part if part.control else Segment("\n".join(map(printable, part.text.split("\n"))), part.style)
            for part in buffer
        )

    def say(self, text: str, style: str | None = None) -> None:
        """Prints text as it is, unwrapped, so that a command in it can be copied."""
        self.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    r"""A line of text with escapes in the place of whatever is no printable character: ``\x1b``, ``\n``, ``\u202e``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in text)
