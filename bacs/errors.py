"""The error every user-facing check raises: what was given, which rule it breaks, how to repair it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request."""

    where: str
    """The configuration key, file or service at fault, such as ``loss.lkd``."""
    problem: str
    """The value that was given and the rule it breaks."""
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}\n    -> {self.remedy}"


class RequestError(ValueError):
    """The request was wrong. Carries every fault found, not only the first; nothing was started."""

    def __init__(self, faults: list[Fault]) -> None:
        if not faults:
            raise AssertionError("a RequestError needs at least one fault")
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))

    @classmethod
    def of(cls, where: str, problem: str, remedy: str) -> Self:
        return cls([Fault(where, problem, remedy)])

    def __reduce__(self) -> tuple[type[RequestError], tuple[list[Fault]]]:
        return (type(self), (self.faults,))


class UnreachableError(RequestError):
    """The system did not give a file, which may be there the next time: absent, forbidden, its disk without answer."""
