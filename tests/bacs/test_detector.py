from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bacs.detector import Detector
from bacs.prototypes import Prototypes, foreground_sum


def wave(shape, a, b, s):
    """The generator of Annex A: element k of the flattened tensor is s sin(a k + b)."""
    count = int(np.prod(shape))
    return (s * torch.sin(a * torch.arange(count, dtype=torch.float64) + b)).reshape(shape)


def test_head_gives_the_golden_logits_of_annex_a6():
    detector = Detector(4, channels=4)
    detector.append_head()
    with torch.no_grad():
        detector.heads[0].weight.copy_(wave((4,), 0.6, -0.5, 1).reshape(1, 4, 1, 1))
        detector.heads[0].bias.fill_(0.25)
        detector.prototypes.values[0] = wave((4,), 1.3, 0.1, 2).float()
    projected = wave((1, 4, 1, 2), 0.8, 0.2, 3).relu().float()
    logits = detector.logits(projected, 0, (1, 2))
    torch.testing.assert_close(logits.flatten(), torch.tensor([0.6494, 0.5128]), atol=1e-4, rtol=0)
    seen = detector.seen(projected, 1, (1, 2))
    torch.testing.assert_close(seen.flatten(), torch.tensor([0.6569, 0.6255]), atol=1e-4, rtol=0)


def test_running_prototype_of_annex_a9():
    prototypes = Prototypes(2)
    prototypes.append()
    steps = np.array([-1, 0])
    prototypes.update(torch.tensor([[1.0, 3.0], [2.0, 4.0]]).reshape(1, 2, 1, 2), torch.ones(1, 1, 2), steps, 0)
    prototypes.update(torch.tensor([5.0, 6.0]).reshape(1, 2, 1, 1), torch.ones(1, 1, 1), steps, 0)
    assert prototypes.values[0].tolist() == [3.0, 4.0]
    assert float(prototypes.counts[0]) == 3


@pytest.mark.parametrize("batch", [1, 2, 4, 12])
def test_prototype_does_not_depend_on_the_batch_size(batch):
    """Annex B.2; the original mixed the channels of different images whenever the batch was larger than one."""
    torch.manual_seed(1)
    features = torch.randn(12, 5, 6, 6)
    labels = torch.randint(0, 4, (12, 12, 12))
    labels[0, :3] = 255
    steps = np.array([-1, 0, 1, 1])
    whole = features.permute(0, 2, 3, 1)[torch.isin(labels[:, ::2, ::2], torch.tensor([2, 3]))].double().mean(dim=0)
    prototypes = Prototypes(5)
    prototypes.append()
    prototypes.append()
    for start in range(0, 12, batch):
        part = slice(start, start + batch)
        prototypes.update(features[part], labels[part], steps, row=1)
    torch.testing.assert_close(prototypes.values[1].double(), whole, atol=1e-6, rtol=1e-5)
    assert not prototypes.ready(0)


def test_foreground_sum_of_a_batch_without_foreground_is_empty():
    total, count = foreground_sum(torch.randn(1, 3, 2, 2), torch.zeros(1, 4, 4), np.array([-1, 0]), 0)
    assert count == 0
    assert total.abs().sum() == 0


def test_projector_is_frozen_for_good_after_step_0():
    detector = Detector(8)
    detector.append_head()
    detector.append_head()
    detector.freeze_projector()
    detector.train()
    norm = next(m for m in detector.projector if isinstance(m, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    detector.project(torch.randn(4, 8, 5, 5) + 3)
    torch.testing.assert_close(norm.running_mean, before)
    assert not any(p.requires_grad for p in detector.projector.parameters())
    assert not any(p.requires_grad for p in detector.heads[0].parameters())
    assert all(p.requires_grad for p in detector.heads[1].parameters())


def test_with_a_prototype_a_class_a_head_answers_for_the_class_that_is_most_alike():
    detector = Detector(3, channels=3, per_class=True)
    detector.append_head(2)
    detector.append_head(3)
    assert [list(rows) for rows in detector.rows] == [[0, 1], [2, 3, 4]]
    assert detector.row_of_class(np.array([-1, 0, 0, 1, 1, 1])).tolist() == [-1, 0, 1, 2, 3, 4]
    projected = torch.randn(2, 3, 4, 4).relu()
    assert not detector.ready(1)
    with torch.no_grad():
        detector.prototypes.values.normal_()
        detector.prototypes.counts[2:4] = 1  # the third class of the step has not been seen
    assert detector.ready(1)
    single = Detector(3, channels=3)
    single.append_head()
    single.heads[0].load_state_dict(detector.heads[1].state_dict())
    alone = []
    for row in (2, 3):
        single.prototypes.values[0] = detector.prototypes.values[row]
        alone.append(single.logits(projected, 0, (4, 4)))
    torch.testing.assert_close(detector.logits(projected, 1, (4, 4)), torch.maximum(*alone))


def test_all_rows_of_the_newest_step_forget_and_older_ones_do_not():
    prototypes = Prototypes(1, decay=0.5)
    prototypes.append(2)
    prototypes.append(2)
    rows = np.array([-1, 0, 1, 2, 3])
    for value in (1.0, 3.0):
        for row in range(4):
            labels = torch.full((1, 1, 1), row + 1.0)
            prototypes.update(torch.full((1, 1, 1, 1), value), labels, rows, row)
    torch.testing.assert_close(prototypes.values.flatten(), torch.tensor([2.0, 2.0, 3.5 / 1.5, 3.5 / 1.5]))
