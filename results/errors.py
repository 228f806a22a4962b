"""The error of this package: what went wrong, and how to repair it."""

from __future__ import annotations


class ResultsError(Exception):
    """A journal, a tracking server or a table cannot be used as asked.

    ``message`` gives the path or the value and the rule it breaks; ``hint`` is the remedy (may be empty).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n    -> {self.hint}" if self.hint else self.message


class WorkFailedError(ResultsError):
    """The request was right, but what it asks for cannot be done now."""


class StorageRefusedError(WorkFailedError):
    """Storage did not take a write, for longer than is worth waiting."""
