from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bacs.randomness import generator
from bacs.replay import Collected, Offer, ReplayMemory
from bacs.replay_policies import POLICIES, Entries


def offer(step: int, presence: np.ndarray, n_logits: int) -> Offer:
    """Images whose every pixel tells their index, labels and logits likewise: a mix-up would show."""

    def collect(positions: np.ndarray) -> Collected:
        marks = torch.as_tensor(positions) + 100 * step
        images = marks.to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).clone()
        labels = (marks % 7).to(torch.uint8)[:, None, None].expand(-1, 4, 4).clone()
        logits = marks.to(torch.float16)[:, None, None, None].expand(-1, n_logits, 4, 4).clone()
        return Collected(images, labels, logits)

    indices = np.arange(len(presence)) + 1000 * step
    return Offer(step, indices, presence, n_logits, collect, lambda: -np.linspace(0.1, 2, len(presence)).astype("f"))


def presence_of_step(rng: np.random.Generator, n: int, first: int, last: int) -> np.ndarray:
    presence = np.zeros((n, last + 1), dtype=bool)
    presence[:, 0] = True
    presence[np.arange(n), rng.integers(first, last + 1, n)] = True
    return presence


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_is_bounded_deterministic_and_keeps_triples_together(policy):
    memories = []
    for _ in range(2):
        memory = ReplayMemory(30, policy, seed=3)
        rng = generator("test")
        for step in range(3):
            memory.grow_logits(2 * step + 3)
            memory.update(offer(step, presence_of_step(rng, 50, 2 * step + 1, 2 * step + 2), 2 * step + 3))
            assert len(memory) == 30
        memories.append(memory)
    first, second = (memory.state_dict() for memory in memories)
    assert all(torch.equal(first[name], second[name]) for name in first)
    marks = first["index"] % 1000 + 100 * first["step"].long()
    assert torch.equal(first["images"][:, 0, 0, 0].long(), marks % 256)
    assert torch.equal(first["labels"][:, 0, 0].long(), marks % 7)
    assert torch.equal(first["logits"][:, 0, 0, 0].long(), marks)
    assert (first["logits"][first["step"] == 0][:, 3:] == 0).all()
    assert len(set(first["index"].tolist())) == 30


def test_state_survives_a_round_trip():
    memory = ReplayMemory(8, "class_balanced", seed=0)
    memory.update(offer(0, presence_of_step(generator(1), 20, 1, 2), 3))
    copy = ReplayMemory(8, "class_balanced", seed=0)
    copy.load_state_dict(memory.state_dict())
    for one in (memory, copy):
        one.update(offer(1, presence_of_step(generator(2), 20, 3, 4), 5))
    assert all(torch.equal(memory.state_dict()[name], copy.state_dict()[name]) for name in memory.state_dict())
    drawn, again = memory.sample(5, generator("draw")), copy.sample(5, generator("draw"))
    assert torch.equal(drawn.images, again.images)
    assert torch.equal(drawn.n_logits, again.n_logits)


def test_class_balanced_fills_the_quota_of_every_class():
    """Annex B.5: with one class an image, each class gets its quota within one, and shrinks when new classes come."""
    memory = ReplayMemory(40, "class_balanced", seed=0)
    for step in range(4):
        memory.update(
            offer(step, presence_of_step(generator("q", step), 200, 2 * step + 1, 2 * step + 2), 2 * step + 3)
        )
        histogram = memory.class_histogram()[1:]
        quota = 40 / len(histogram)
        assert (histogram - quota).abs().max() <= 1, histogram
    assert set(memory.step_histogram().values()) == {10}


def test_smaller_reservoir_is_a_subset_of_a_larger_one():
    kept = {}
    for capacity in (10, 25):
        memory = ReplayMemory(capacity, "reservoir", seed=1)
        for step in range(2):
            memory.update(offer(step, presence_of_step(generator("r", step), 60, 1, 2), 3))
        kept[capacity] = set(memory.state_dict()["index"].tolist())
    assert kept[10] < kept[25]


def test_reservoir_is_uniform_over_everything_offered():
    counts = np.zeros(2)
    for seed in range(60):
        memory = ReplayMemory(20, "reservoir", seed=seed)
        for step, n in enumerate((150, 50)):
            memory.update(offer(step, presence_of_step(generator(seed, step), n, 1, 2), 3))
        counts += [memory.step_histogram().get(0, 0), memory.step_histogram().get(1, 0)]
    assert counts[0] / counts.sum() == pytest.approx(0.75, abs=0.04)


def test_loss_balanced_prefers_hard_images_of_rare_classes():
    """Over many seeds, images of the rare class and images of high loss stay more often."""
    presence = np.zeros((200, 3), dtype=bool)
    presence[:, 1] = True
    presence[::10, 1], presence[::10, 2] = False, True  # one image in ten shows the rare class 2
    rare, late_loss = 0, []
    for seed in range(30):
        memory = ReplayMemory(40, "loss_balanced", seed=seed)
        memory.update(offer(0, presence, 3))
        state = memory.state_dict()
        rare += int(state["presence"][:, 2].sum())
        late_loss.append(float(-state["importance"].mean()))
    assert rare / (30 * 40) > 0.13  # a uniform choice keeps 0.10
    assert np.mean(late_loss) > 1.05


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_policies_keep_only_what_they_were_shown(data):
    n_old, n_new = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 12))
    capacity, classes = data.draw(st.integers(1, 15)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    old, new = (
        Entries(rng.random((n, classes + 1)) < 0.6, rng.random(n), -rng.random(n).astype("f")) for n in (n_old, n_new)
    )
    old = Entries(old.presence[:capacity], old.priority[:capacity], old.importance[:capacity])
    for name, policy in POLICIES.items():
        kept = policy(old, new, capacity, n_old, np.random.default_rng(0))
        assert len(kept) <= capacity
        assert len(set(kept.tolist())) == len(kept)
        assert (np.diff(kept) > 0).all()
        assert len(kept) == 0 or kept.max() < len(old) + len(new)
        if name != "class_balanced":  # which has no use for images without foreground
            assert len(kept) == min(capacity, len(old) + len(new))


def test_empty_capacity_stores_nothing():
    memory = ReplayMemory(0, "reservoir", seed=0)
    memory.update(offer(0, presence_of_step(generator(0), 5, 1, 2), 3))
    assert len(memory) == 0
    assert memory.megabytes == 0
