"""The cause of a Python error that ended an attempt of a trial."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import torch

from bacs.data.pixels import WrongKindError
from bacs.errors import RequestError, UnreachableError
from bacs.launch import RankDiedError, RankError
from bacs.patience import REFUSALS, StorageRefusedError
from bacs.run import DivergedError
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

_OTHER_RANKS_INPUT = re.compile(rf"rank \d+: ({RequestError.__name__}|{WrongKindError.__name__}): /")


def cause_of(error: BaseException) -> str:
    """One of :mod:`trainables.causes`."""
    if isinstance(error, OtherCodeError):
        return OTHER_CODE
    if isinstance(error, DivergedError):
        return DIVERGED
    if isinstance(error, RequestError):
        return BROKEN_INPUT if _is_met_again(error) else EXCEPTION
    if isinstance(error, RankError) and _OTHER_RANKS_INPUT.match(str(error)):
        return BROKEN_INPUT
    if isinstance(error, RankDiedError | TrialBusyError):
        return DIED
    if isinstance(error, StorageRefusedError):
        return STORAGE
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, OSError):
        if error.errno in REFUSALS:
            return STORAGE
        return OUT_OF_MEMORY if error.errno == errno.ENOMEM else EXCEPTION
    return OUT_OF_MEMORY if isinstance(error, RuntimeError) and tells_of_memory(str(error)) else EXCEPTION


def _is_met_again(error: RequestError) -> bool:
    """Whether it is about what a file holds, or what a network can take. Another machine may have a folder or a package
    that this one lacks."""
    wheres = [fault.where for fault in error.faults]
    told = all(where == "network" or Path(where).is_absolute() for where in wheres)
    return told and not isinstance(error, UnreachableError)
