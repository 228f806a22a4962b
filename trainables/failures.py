"""The cause of a Python error that ended an attempt of a trial."""

from __future__ import annotations

import errno

import torch

from bacs.launch import RankDiedError
from bacs.patience import REFUSALS, StorageRefusedError
from bacs.run import DivergedError
from trainables.causes import (
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


def cause_of(error: BaseException) -> str:
    """One of :mod:`trainables.causes`."""
    if isinstance(error, OtherCodeError):
        return OTHER_CODE
    if isinstance(error, DivergedError):
        return DIVERGED
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
