"""Two real gloo ranks give what one process gives (Annex B.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from bacs.distributed import rank, sum_over_ranks, world_size
from bacs.prototypes import Prototypes
from tests.validation_pixels import batches, finished_step

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


def detector_metrics(seeds: list[int]) -> dict[str, float]:
    detection, context = finished_step()
    found = list(batches(4))
    return detection.diagnose(context, [found[seed] for seed in seeds])


def one_rank(index: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    assert (rank(), world_size()) == (index, 2)
    found = {
        "prototype": prototype(slice(2 * index, 2 * index + 2)),
        "halves": detector_metrics([0, 2] if index == 0 else [1, 3]),
        "one without": detector_metrics([0, 1, 2, 3] if index == 0 else []),
    }
    torch.save(found, f"{folder}/{index}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks has found."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{index}.pt") for index in range(2)]


def test_prototypes_of_two_ranks_are_those_of_one(of_ranks):
    whole = prototype(slice(None))
    for found in of_ranks:
        torch.testing.assert_close(found["prototype"], whole)


def test_detector_metrics_of_two_ranks_are_those_of_one(of_ranks):
    """Also where a rank has no image."""
    whole = pytest.approx(detector_metrics([0, 1, 2, 3]), rel=1e-12)
    for found in of_ranks:
        assert found["halves"] == found["one without"] == whole


def test_alone_everything_is_a_no_op():
    tensor = torch.tensor([1.0])
    assert sum_over_ranks(tensor) is tensor
    assert (rank(), world_size()) == (0, 1)
