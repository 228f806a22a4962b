"""How ``python -m bacs`` ends, and how it says that a request was wrong."""

from __future__ import annotations

from rich.console import Console

from bacs.errors import RequestError

DONE, FAILED, WRONG_REQUEST = 0, 1, 2


def refuse(errors: Console, error: RequestError) -> int:
    """Shows all faults. Returns the exit code."""
    errors.print(f"[bold red]{len(error.faults)} fault(s) in the request; nothing was started[/]")
    errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
    return WRONG_REQUEST


def fail(errors: Console, error: Exception) -> int:
    """Shows why a run that had begun ended early. Returns the exit code."""
    errors.print(f"the run failed: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    return FAILED
