"""Exit codes, and how a wrong request is told."""

from __future__ import annotations

import typer

from bacs.errors import RequestError
from bacs.interpolation import hidden
from bacs.terminal import Terminal

FAILED, WRONG_REQUEST = 1, 2


def told(error: RequestError, consequence: str = "") -> typer.Exit:
    """Prints every fault with its remedy; returns the exception that ends the command."""
    errors = Terminal(stderr=True)
    count = len(error.faults)
    errors.print(f"[bold red]{count} fault{'s' if count > 1 else ''} in the request{consequence}[/]")
    errors.say(hidden(str(error)))
    return typer.Exit(WRONG_REQUEST)
