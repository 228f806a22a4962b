"""Whether a trial that failed is tried again. Decided from the journal alone, so a resumed sweep decides the same."""

from __future__ import annotations

from dataclasses import dataclass

from bacs.patience import StorageRefusedError
from results.state import Failure, TrialState
from trainables.causes import (
    BROKEN_INPUT,
    DIED,
    DIVERGED,
    EXCEPTION,
    OTHER_CODE,
    OUT_OF_MEMORY,
    STORAGE,
    OtherCodeError,
    tells_of_memory,
)
from trainables.folder import TrialBusyError

OWN_FAULTS = (DIVERGED, BROKEN_INPUT, OUT_OF_MEMORY, EXCEPTION)
"""Causes that lie in the trial and not in the machine."""

NO_WORD = "the worker process died without a Python error"
_LOST_NODE = ("node has died", "node was terminated", "NodeDiedError")
_SHORT_OF_MEMORY = "low on memory"
_PYTHON_ERROR = "ray::"


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of an attempt that failed."""

    cause: str
    reason: str
    traceback: str
    lost_node: bool = False
    """Whether the machine went, pre-empted or broken; that is never counted against a trial."""

    @property
    def failure(self) -> Failure:
        return Failure(self.cause, self.reason)

    @property
    def is_charged(self) -> bool:
        """Whether it counts against ``sweep.max_failures``."""
        return self.cause not in (DIVERGED, BROKEN_INPUT, OUT_OF_MEMORY, OTHER_CODE) and not self.lost_node


def ending_of(ray_text: str, *, lost_node: bool = False) -> Ending:
    """What Ray tells of an attempt that left no word itself; ``lost_node``: known from elsewhere."""
    lines = ray_text.strip().splitlines() or [NO_WORD]
    if tells_of_python(ray_text):  # it could not write, or another process held its folder
        return Ending(_cause_told(lines[-1]), lines[-1], ray_text)
    if _SHORT_OF_MEMORY in ray_text:
        return Ending(OUT_OF_MEMORY, "Ray killed the worker: its machine ran low on memory", ray_text)
    lost = lost_node or any(words in ray_text for words in _LOST_NODE)
    return Ending(DIED, "its node was lost" if lost else NO_WORD, ray_text, lost_node=lost)


def tells_of_python(ray_text: str) -> bool:
    """Whether a Python error ended the attempt."""
    return ray_text.lstrip().startswith(_PYTHON_ERROR)


def _cause_told(error: str) -> str:
    """Of a Python error, from the line that names it."""
    if TrialBusyError.__name__ in error:
        return DIED
    if OtherCodeError.__name__ in error:
        return OTHER_CODE
    if StorageRefusedError.__name__ in error:
        return STORAGE
    return OUT_OF_MEMORY if tells_of_memory(error) else EXCEPTION


def is_retried(trial: TrialState, ending: Ending, max_failures: int) -> bool:
    """Whether a trial is tried again after one more failure.

    - ``diverged`` and ``broken_input``: never, for it would diverge, or meet the same file, again.
    - ``out_of_memory``: once, with every batch in twice as many pieces, if there is anything to cut.
    - ``exception``: not if the same was raised before; else as ``died``.
    - ``other_code``: by whoever resumes the sweep.
    - ``died`` and ``storage``: ``max_failures`` times since the driver began, and always after a lost machine.

    Args:
        trial: as it was before this failure.
        ending: of the attempt.
        max_failures: ``sweep.max_failures``.
    """
    if ending.cause in (DIVERGED, BROKEN_INPUT):
        return False
    if ending.cause == OUT_OF_MEMORY:
        return extra_pieces(trial) == 1 and _can_be_cut(trial)
    if ending.cause == EXCEPTION and ending.failure in trial.failures:
        return False
    return not ending.is_charged or trial.charged < max_failures


def extra_pieces(trial: TrialState) -> int:
    """Into how many pieces more than configured the trial's batches are cut: twice as many as before it failed."""
    return 2 if any(failure.cause == OUT_OF_MEMORY for failure in trial.failures) else 1


def _can_be_cut(trial: TrialState) -> bool:
    training = trial.config["training"]
    return bool(training["batch_size"] // training["n_gpus"] > training.get("micro_batches", 1))
