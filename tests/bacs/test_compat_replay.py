"""The original's defects of the replay memory, behind their switches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bacs.compat import CompatConfig
from bacs.randomness import generator
from bacs.remembering import recall
from bacs.replay import Collected, Offer, ReplayMemory, autocontrast, first_of_batches, stretched
from bacs.replay_policies import shared_by_batch


def offer(presence: np.ndarray, importance: np.ndarray | None = None) -> Offer:
    """Images whose every pixel is their position + 1."""

    def collect(positions):
        marks = (torch.as_tensor(positions) + 1).to(torch.uint8)
        shape = (-1, 1, 2, 2)
        return Collected(
            marks[:, None, None, None].expand(shape).clone(),
            marks[:, None, None].expand(-1, 2, 2).clone(),
            marks[:, None, None, None].expand(shape).to(torch.float16).clone(),
        )

    scores = np.zeros(len(presence), dtype=np.float32) if importance is None else importance
    return Offer(0, np.arange(len(presence)), presence, 1, collect, lambda: scores)


def filled(*switches: str, policy="reservoir", capacity=6, **given) -> ReplayMemory:
    compat = CompatConfig(**dict.fromkeys(switches, True))
    memory = ReplayMemory(capacity, policy, seed=given.pop("seed", 0), batch_size=5, compat=compat)
    memory.update(offer(given.pop("presence", np.ones((40, 3), dtype=bool)), **given))
    return memory


def test_accepted_slots_get_the_first_images_of_their_batch():
    assert first_of_batches(np.array([1, 4, 7, 10, 13, 14]), 5).tolist() == [0, 1, 5, 10, 11, 12]
    right, shifted = filled().state_dict(), filled("shifted_slots").state_dict()
    assert shifted["index"].tolist() == first_of_batches(right["index"].numpy(), 5).tolist()
    assert torch.equal(shifted["priority"], right["priority"])


def test_slot_0_is_never_written():
    memory = filled("shifted_slots")
    state = memory.state_dict()
    assert [bool((state[name][0] == 0).all()) for name in ("images", "labels", "logits")] == [True] * 3
    assert (state["images"][1:].flatten(1) == state["index"][1:, None] + 1).all()
    memory.update(offer(np.ones((40, 3), dtype=bool)))
    blank = (memory.state_dict()["images"].flatten(1) == 0).all(dim=1)
    assert blank.tolist() == [True] + [False] * 5


def test_batch_level_balance_credits_all_labels_of_a_batch():
    presence = np.eye(3, dtype=bool)[[0, 1, 0, 2, 2]]
    assert shared_by_batch(presence, 2).tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 0, 1]]


def test_batch_level_balance_balances_nothing():
    presence = np.zeros((200, 3), dtype=bool)
    presence[:, 1] = True
    presence[::5, 1], presence[::5, 2] = False, True  # the rare class is in every batch of five
    kept = {}
    for switches in ((), ("batch_level_balance",)):
        memory = filled(*switches, policy="class_balanced", capacity=40, presence=presence)
        kept[switches] = float(presence[memory.state_dict()["index"].numpy(), 2].mean())
    assert kept[()] == 0.5
    assert kept[("batch_level_balance",)] < 0.35


def test_blind_eviction_does_not_look_at_the_loss():
    presence = np.ones((200, 3), dtype=bool)
    presence[::2, 2] = False
    importance = -generator("hardness").permutation(np.linspace(0.1, 2, 200)).astype(np.float32)
    hardness = {}
    for switches in ((), ("loss_blind_eviction",)):
        states = [
            filled(
                *switches, policy="loss_balanced", capacity=30, presence=presence, importance=importance, seed=seed
            ).state_dict()
            for seed in range(20)
        ]
        hardness[switches] = np.mean([float(-state["importance"].mean()) for state in states])
    mean = float(-importance.mean())
    assert hardness[()] > 1.12 * mean
    assert hardness[("loss_blind_eviction",)] < 1.07 * mean


def test_autocontrast_stretches_every_channel_and_cuts_flat_ones():
    images = torch.tensor([[-2.0, 0, 2, 1], [-3, -3, -3, -3], [5, 5, 5, 5]]).reshape(1, 3, 2, 2)
    assert autocontrast(images).flatten(2)[0].tolist() == [[0, 0.5, 1, 0.75], [0] * 4, [1] * 4]
    torch.testing.assert_close(autocontrast(autocontrast(images)), autocontrast(images))


def test_three_quarters_of_the_images_are_stretched_half_of_the_batches_whole():
    chosen = np.stack([stretched(12, generator("test", i)) for i in range(400)])
    assert chosen.mean() == pytest.approx(0.75, abs=0.04)
    assert chosen.all(axis=1).mean() == pytest.approx(0.5, abs=0.07)


def test_only_the_images_of_the_logits_are_stretched():
    """After normalisation; the ones that the labels belong to stay as they are."""
    memory = filled(capacity=40)
    state = memory.state_dict()
    state["images"][:, :, 0] += 100
    memory.load_state_dict(state | {"label_images": state["images"].clone()})
    stream = SimpleNamespace(training=SimpleNamespace(seed=0), to_device=lambda images: images.float() / 10 - 1)
    plain, changed = (
        recall(memory, stream, 40, (1, 0, 0), CompatConfig(replay_autocontrast=on)) for on in (False, True)
    )
    torch.testing.assert_close(changed.label_images, plain.images)
    moved = (changed.images != plain.images).flatten(1).any(dim=1)
    assert moved.float().mean() > 0.3
    torch.testing.assert_close(changed.images[moved], autocontrast(plain.images)[moved])
    assert all(torch.equal(getattr(changed, name), getattr(plain, name)) for name in ("labels", "logits", "n_logits"))
