"""Runs on files with random crops: the same numbers however they are read and wherever they were interrupted."""

from __future__ import annotations

import pytest
import torch

from bacs.checkpoints import CheckpointFolder
from bacs.compose import compose
from bacs.config import RunConfig
from bacs.events import EpochEnded, RunEnded
from bacs.run import ContinualRun


@pytest.fixture
def make(roots, tmp_path):
    """A small BACS run on the tree of VOC."""
    fixed = ["dataset=voc", f"dataset.root={roots['voc']}", f"dataset.cache={tmp_path}", "dataset.crop_size=32"]
    fixed += ["network.width=4", "training.split=15-5", "training.epochs=2", "training.iterations_per_epoch=3"]
    fixed += ["training.batch_size=4", "training.threads=1", "training.device=cpu", "loss.buffer_size=6"]
    return lambda *more: ContinualRun(RunConfig.from_dict(compose("config", [*fixed, *more])))


def finished(run: ContinualRun) -> dict[str, torch.Tensor]:
    *_, last = run.events()
    assert isinstance(last, RunEnded)
    return run.model.state_dict()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def test_reading_processes_and_decoded_copies_change_nothing(make):
    plain = finished(make("training.num_workers=0"))
    assert_same(plain, finished(make("training.num_workers=2")))
    assert_same(plain, finished(make("training.num_workers=0", "dataset.decode_cache=true")))
    assert_same(plain, finished(make("training.num_workers=2", "dataset.decode_cache=true")))


def test_resumed_in_mid_step_is_bit_identical(make, tmp_path):
    whole = finished(make())
    folder = CheckpointFolder(tmp_path / "checkpoints", "same")
    run = make()
    for event in run.events():
        if isinstance(event, EpochEnded):
            folder.save(run.snapshot())
            if event.step == 1:
                break
        else:
            folder.save(run.snapshot())
    resumed = make()
    resumed.restore(CheckpointFolder(tmp_path / "checkpoints", "same").latest())
    assert (resumed.steps_done, resumed.epochs_done) == (1, 3)
    assert_same(whole, finished(resumed))


def test_crops_differ_between_epochs_and_seeds(make):
    run = make()
    view = run.stream.training_view(0)
    first, again, later = (next(run.stream.shuffled(view, 1, 4, 0, epoch)).images for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    other = make("training.seed=7")
    assert not torch.equal(first, next(other.stream.shuffled(view, 1, 4, 0, 0)).images)
