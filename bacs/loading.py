"""Batches of a view, read by this process or by worker processes; either way the same bytes in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bacs.errors import RequestError

MAX_AUTO_WORKERS = 8

Pick = tuple[NDArray[np.int64], NDArray[np.int64] | None]
"""Positions in the view, and the seed of each image's augmentation (None: the deterministic view)."""


class Readable(Protocol):
    """Images with labels that are read by position; a view of a step is one."""

    def __len__(self) -> int: ...

    def batch(self, positions: NDArray[np.int64], draws: NDArray[np.int64] | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`bacs.data.StepView.batch`."""


def read_batches(view: Readable, picks: list[Pick], num_workers: int, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of each pick; see :meth:`Readable.batch`.

    Args:
        view: what to read.
        picks: one entry a batch.
        num_workers: processes that read ahead; 0: this process reads.
        pin: whether the tensors go to a GPU next.

    Raises:
        RequestError: a file cannot be read; whichever process has met it.
    """
    if num_workers == 0 or len(picks) == 0:
        yield from (view.batch(*pick) for pick in picks)
        return
    workers = min(num_workers, len(picks))
    # Without one of its own the loader would draw from the global generator, and dropout would come out differently.
    own = torch.Generator()
    loader = DataLoader(_Picked(view, picks), batch_size=None, num_workers=workers, pin_memory=pin, generator=own)
    for read in loader:
        if isinstance(read, RequestError):
            raise read
        yield read


def worker_count(asked: Any, in_memory: bool, cores: int) -> int:
    """Reading processes of one rank.

    Args:
        asked: ``training.num_workers``.
        in_memory: whether an image is there without decoding.
        cores: CPU cores of the rank.
    """
    if asked != "auto":
        return int(asked)
    return 0 if in_memory or cores < 4 else min(MAX_AUTO_WORKERS, cores - 1)


class _Picked(Dataset[tuple[Tensor, Tensor] | RequestError]):
    """Batches, or what is wrong with a file: raised in a worker, it would come out as a text of PyTorch's."""

    def __init__(self, view: Readable, picks: list[Pick]) -> None:
        self.view = view
        self.picks = picks

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | RequestError:
        torch.set_num_threads(1)
        try:
            return self.view.batch(*self.picks[index])
        except RequestError as error:
            return error
