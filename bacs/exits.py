"""How ``python -m bacs`` ends, and how it says that a request was wrong."""

from __future__ import annotations

from bacs.errors import RequestError
from bacs.interpolation import hidden
from bacs.terminal import Terminal

DONE, FAILED, WRONG_REQUEST = 0, 1, 2


def refuse(errors: Terminal, error: RequestError) -> int:
    """Shows all faults. Returns the exit code."""
    errors.print(f"[bold red]{len(error.faults)} fault(s) in the request; nothing was started[/]")
    errors.say(hidden(str(error)))
    return WRONG_REQUEST


def fail(errors: Terminal, error: Exception) -> int:
    """Shows why a run that had begun ended early. Returns the exit code."""
    errors.say(f"the run failed: {error}", "bold red")
    return FAILED
