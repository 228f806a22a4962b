"""A batch in pieces trains as the whole batch does, in less memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bacs.checkpoints import CheckpointFolder
from bacs.events import EpochEnded
from bacs.lineage import run_identity
from bacs.losses.base import Batch
from bacs.micro_batches import pieces
from bacs.replay import ReplayBatch
from bacs.run import ContinualRun

FLOAT32 = "training.mixed_precision=false"
SMOOTH = "optimizer=nesterov"  # Adam divides by the size of a gradient, which makes rounding errors large


@pytest.mark.parametrize(
    ("count", "sizes", "replayed"), [(1, [5], [7]), (2, [3, 2], [4, 3]), (5, [1] * 5, [2, 2, 1, 1, 1])]
)
def test_pieces_share_out_every_image(count, sizes, replayed):
    images = torch.arange(5.0)[:, None, None, None]
    memory = torch.arange(7)
    replay = ReplayBatch(memory[:, None, None, None], memory[:, None, None], memory[:, None, None, None], memory)
    parts = pieces(Batch(images, images[:, 0], replay), count)
    assert [len(part.images) for part, _ in parts] == sizes
    assert [len(part.replay.images) for part, _ in parts] == replayed
    assert sum(share for _, share in parts) == pytest.approx(1)
    assert sorted(torch.cat([part.images.flatten() for part, _ in parts]).tolist()) == list(range(5))
    assert sorted(torch.cat([part.replay.n_logits for part, _ in parts]).tolist()) == list(range(7))
    assert all(torch.equal(part.images[:, 0], part.labels) for part, _ in parts)


def after_one_step(run: ContinualRun, step: int) -> dict[str, Tensor]:
    """The weights after one optimisation step, with batch norms that do not look at the batch."""
    run._begin_step(step)
    run.model.eval()
    optimizer = run._optimizer_of_step()
    optimizer.begin(0, 0)
    (batch,) = run.stream.shuffled(run.stream.training_view(step), 1, 6, step, 0)
    run._add(run._context(step, 0), run._with_replay(batch, step, 0, 0))
    optimizer.finish()
    return {name: weight.detach().clone() for name, weight in run.model.named_parameters()}


@pytest.mark.parametrize("count", [2, 4])
def test_cross_entropy(tiny_config, tiny_digits, count):
    options = ["loss=crossentropy", "training.split=5-5", FLOAT32, SMOOTH]
    whole = after_one_step(ContinualRun(tiny_config(*options), tiny_digits), 0)
    run = ContinualRun(tiny_config(*options, f"training.micro_batches={count}"), tiny_digits)
    torch.testing.assert_close(after_one_step(run, 0), whole, rtol=1e-5, atol=1e-6)


def second_step(tiny_config, tiny_digits, folder, *overrides: str) -> ContinualRun:
    """A run that stands at the beginning of step 1, with memory and teacher from a step 0 that is trained once."""
    options = ["training.split=5-5", "training.epochs=1", FLOAT32, SMOOTH, *overrides]
    run = ContinualRun(tiny_config(*options), tiny_digits)
    checkpoints = CheckpointFolder(folder, "any")
    if not checkpoints.latest():
        events = run.events()
        while run.steps_done == 0:
            next(events)
        checkpoints.save(run.snapshot())
        run = ContinualRun(tiny_config(*options), tiny_digits)
    run.restore(checkpoints.latest())
    return run


def test_bacs(tiny_config, tiny_digits, tmp_path):
    """Where every mean is over all pixels it is exact; means over a part of them come close."""
    exact = ["loss.beta=0", "loss.prototype_margin=8", "loss.lkd=1"]
    change = {}
    for terms, tolerance in ((exact, 1e-4), ([], 0.1)):
        start = second_step(tiny_config, tiny_digits, tmp_path, *terms)
        before = {name: weight.detach().clone() for name, weight in start.model.named_parameters()}
        for count in (1, 2):
            run = second_step(tiny_config, tiny_digits, tmp_path, *terms, f"training.micro_batches={count}")
            after = after_one_step(run, 1)
            assert len(run.memory) == 20
            # The detector's head reads prototypes that a batch in pieces moves twice.
            kept = [name for name in before if "detector" not in name and before[name].shape == after[name].shape]
            change[count] = torch.cat([(after[name] - before[name]).flatten() for name in kept])
        assert float((change[2] - change[1]).norm() / change[1].norm()) < tolerance
        assert float(change[1].norm()) > 0


class Saved:
    """Bytes that wait for the backward pass, and the most there ever were."""

    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.size = tensor.numel() * tensor.element_size()
        Saved.now += self.size
        Saved.most = max(Saved.most, Saved.now)

    def __del__(self) -> None:
        Saved.now -= self.size


def test_two_pieces_need_about_half_the_memory(tiny_config, tiny_digits):
    most = {}
    for count in (1, 2):
        Saved.now = Saved.most = 0
        run = ContinualRun(tiny_config("loss=crossentropy", f"training.micro_batches={count}"), tiny_digits)
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            after_one_step(run, 0)
        most[count] = Saved.most
    assert most[2] < 0.6 * most[1]


def test_a_run_goes_on_from_its_checkpoint_with_another_number(tiny_config, tiny_digits, tmp_path):
    """Images, order, schedule and number of steps stay; what differs is small."""
    options = ["loss=crossentropy", "training.split=5-5"]
    whole = ContinualRun(tiny_config(*options), tiny_digits)
    wanted = [event for event in whole.events() if isinstance(event, EpochEnded)]
    first = ContinualRun(tiny_config(*options), tiny_digits)
    next(first.events())
    CheckpointFolder(tmp_path, run_identity(first.config)).save(first.snapshot())
    config = tiny_config(*options, "training.micro_batches=2", "training.eval_batch_size=25")
    checkpoints = CheckpointFolder(tmp_path, run_identity(config))
    second = ContinualRun(config, tiny_digits)
    second.restore(checkpoints.latest())
    assert (checkpoints.notes, second.epochs_done) == ([], 1)
    rest = [event for event in second.events() if isinstance(event, EpochEnded)]
    for one, other in zip(wanted[1:], rest, strict=True):
        mine, theirs = ({point.metric: point.value for point in event.points} for event in (other, one))
        assert mine["lr"] == theirs["lr"]
        assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=0.3)
