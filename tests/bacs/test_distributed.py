"""Two real gloo ranks give what one process gives (Annex B.2)."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import multiprocessing

from bacs.distributed import rank, sum_over_ranks, world_size
from bacs.prototypes import Prototypes

STEPS = np.array([-1, 0, 0])


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 5, 5, generator=generator), torch.randint(0, 3, (4, 5, 5), generator=generator)


def prototype(part: slice) -> torch.Tensor:
    features, labels = data()
    prototypes = Prototypes(3)
    prototypes.append()
    prototypes.update(features[part], labels[part], STEPS, 0)
    return prototypes.values[0]


def one_rank(index: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    assert (rank(), world_size()) == (index, 2)
    torch.save(prototype(slice(2 * index, 2 * index + 2)), f"{folder}/{index}.pt")
    dist.destroy_process_group()


def test_prototypes_of_two_ranks_are_those_of_one(tmp_path):
    multiprocessing.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    whole = prototype(slice(None))
    for index in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{index}.pt"), whole)


def test_alone_everything_is_a_no_op():
    tensor = torch.tensor([1.0])
    assert sum_over_ranks(tensor) is tensor
    assert (rank(), world_size()) == (0, 1)
