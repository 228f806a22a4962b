from __future__ import annotations

import errno
import resource
import subprocess
import sys

import pytest
import torch

from bacs.data.pixels import WrongKindError
from bacs.errors import RequestError, UnreachableError
from bacs.launch import RankDiedError, RankError
from bacs.patience import StorageRefusedError
from bacs.run import DivergedError
from trainables.failures import cause_of
from trainables.folder import TrialBusyError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (DivergedError("the loss is not finite"), "diverged"),
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("could not create a primitive"), "out_of_memory"),
        (RuntimeError("could not create a primitive descriptor for a convolution"), "exception"),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (RankError("rank 1: OutOfMemoryError: CUDA out of memory"), "out_of_memory"),
        (RankError("rank 1: ValueError: boom"), "exception"),
        (RequestError.of("/data/a.jpg", "cannot be read: it is empty", "restore it"), "broken_input"),
        (WrongKindError.of("/data/a.jpg", "has 16 bits", "convert it"), "broken_input"),
        (RequestError.of("network", "cannot be trained on an image", "give larger images"), "broken_input"),
        (UnreachableError.of("/data/a.jpg", "cannot be read: Input/output error", "restore it"), "exception"),
        (RequestError.of("dataset.root", "is /data, which is not a folder", "mount it"), "exception"),
        (RankError("rank 1: RequestError: /data/a.jpg: cannot be read"), "broken_input"),
        (RankDiedError("rank 1 died (exit code -9)"), "died"),
        (TrialBusyError("x is still locked by another process"), "died"),
        (StorageRefusedError("gave up writing a checkpoint"), "storage"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (OSError(errno.EACCES, "Permission denied"), "exception"),
        (ValueError("an image is out of memory bounds"), "exception"),
        (RuntimeError("shape mismatch"), "exception"),
    ],
)
def test_causes(error, cause):
    assert cause_of(error) == cause


GREEDY = """
import resource
import torch
from trainables.failures import cause_of
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY))
for allocate in (lambda: torch.empty(8 << 30, dtype=torch.uint8), lambda: bytearray(8 << 30)):
    try:
        allocate()
    except Exception as error:
        print(type(error).__name__, cause_of(error))
"""


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY, reason="memory is limited")
def test_what_torch_and_python_really_raise():
    done = subprocess.run([sys.executable, "-c", GREEDY], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == ["RuntimeError out_of_memory", "MemoryError out_of_memory"]
