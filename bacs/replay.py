"""The replay memory of dark experience replay: images with the labels and logits they had when they were stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bacs.randomness import generator
from bacs.replay_policies import POLICIES, Entries


@dataclass(frozen=True, slots=True)
class ReplayBatch:
    """A draw from the memory; labels and logits belong to exactly these pixels."""

    images: Tensor
    """(B, ...) uint8, as the dataset gives them."""
    labels: Tensor
    """(B, H, W) int64 internal labels, only those of the step in which the image was stored."""
    logits: Tensor
    """(B, K, h, w) float32; channels that did not exist when the image was stored are 0."""
    n_logits: Tensor
    """(B,) int64: how many channels existed."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What one pass of the finished model over the chosen images gives; see :class:`ReplayBatch` for shapes."""

    images: Tensor
    labels: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True)
class Offer:
    """The images of a finished step that may enter the memory."""

    step: int
    indices: np.ndarray
    """(N,) positions in the dataset's training images."""
    presence: np.ndarray
    """(N, K) bool: internal labels in the step's label maps."""
    n_logits: int
    collect: Callable[[np.ndarray], Collected]
    """Runs the model in eval mode on the given positions of the offer."""
    importance: Callable[[], np.ndarray]
    """(N,) minus the mean cross-entropy of each image; asked for only by policies that use it."""


class ReplayMemory:
    """At most ``capacity`` images over all steps."""

    def __init__(self, capacity: int, policy: str, seed: int) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy ({policy}) must be one of {', '.join(POLICIES)}")
        self.capacity = capacity
        self.policy = policy
        self.seed = seed
        self._offered = 0
        self._items: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self._items["index"]) if self._items else 0

    @property
    def megabytes(self) -> float:
        return sum(t.numel() * t.element_size() for t in self._items.values()) / 1e6

    def update(self, offer: Offer) -> None:
        """Offers the images of a finished step; the policy decides, and only what it keeps is run through the model."""
        if self.capacity == 0:
            return
        offered = self._entries_of(offer)
        rng = generator(self.seed, "replay-policy", offer.step)
        kept = POLICIES[self.policy](self._entries(), offered, self.capacity, self._offered, rng)
        self._offered += len(offered)
        stay, enter = kept[kept < len(self)], kept[kept >= len(self)] - len(self)
        self._store(offer, offered, stay, enter)

    def sample(self, batch_size: int, rng: np.random.Generator) -> ReplayBatch:
        """Draws uniformly, without repetition where the memory holds enough images."""
        chosen = torch.as_tensor(rng.choice(len(self), size=batch_size, replace=batch_size > len(self)))
        items = {name: tensor[chosen] for name, tensor in self._items.items()}
        labels = items["labels"].long()
        return ReplayBatch(items["images"], labels, items["logits"].float(), items["n_logits"].long())

    def grow_logits(self, n_classes: int) -> None:
        """Gives stored logits ``n_classes`` channels; the new ones are 0 and marked as not valid by ``n_logits``."""
        if self._items:
            missing = n_classes - self._items["logits"].shape[1]
            self._items["logits"] = functional.pad(self._items["logits"], (0, 0, 0, 0, 0, missing))

    def class_histogram(self) -> Tensor:
        """(K,) number of stored images that show each internal label."""
        return self._items["presence"].sum(dim=0) if self._items else torch.zeros(0, dtype=torch.int64)

    def step_histogram(self) -> dict[int, int]:
        """Number of stored images a step."""
        steps, counts = torch.unique(self._items.get("step", torch.zeros(0)), return_counts=True)
        return {int(step): int(count) for step, count in zip(steps, counts, strict=True)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"offered": torch.tensor(self._offered), **self._items}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._offered = int(state["offered"])
        self._items = {name: tensor for name, tensor in state.items() if name != "offered"}

    def _entries(self) -> Entries:
        if not self._items:
            return Entries(np.zeros((0, 1), dtype=bool), np.zeros(0), np.zeros(0, dtype=np.float32))
        names = ("presence", "priority", "importance")
        return Entries(*(self._items[name].numpy() for name in names))

    def _entries_of(self, offer: Offer) -> Entries:
        draws = [generator(self.seed, "replay", offer.step, int(i)).random() for i in offer.indices]
        scored = self.policy == "loss_balanced"
        importance = offer.importance() if scored else np.zeros(len(draws), dtype=np.float32)
        return Entries(offer.presence, np.array(draws, dtype=np.float64), importance)

    def _store(self, offer: Offer, offered: Entries, stay: np.ndarray, enter: np.ndarray) -> None:
        survivors = {name: tensor[torch.as_tensor(stay)] for name, tensor in self._items.items()}
        if len(enter) == 0:
            self._items = survivors
            return
        fresh = offer.collect(enter)
        count = len(enter)
        new = {
            "index": torch.as_tensor(offer.indices[enter]).long(),
            "step": torch.full((count,), offer.step, dtype=torch.int16),
            "n_logits": torch.full((count,), offer.n_logits, dtype=torch.int16),
            "presence": torch.as_tensor(offered.presence[enter]),
            "priority": torch.as_tensor(offered.priority[enter]),
            "importance": torch.as_tensor(offered.importance[enter]),
            "images": fresh.images,
            "labels": fresh.labels.to(torch.uint8),
            "logits": fresh.logits.to(torch.float16),
        }
        self._items = {name: _concatenate(survivors.get(name), tensor) for name, tensor in new.items()}


def _concatenate(old: Tensor | None, new: Tensor) -> Tensor:
    """Stacks along the first axis; the second is padded with 0 where ``old`` is narrower (fewer classes then)."""
    if old is None or len(old) == 0:
        return new
    if old.ndim > 1 and old.shape[1] < new.shape[1]:
        padding = [0, 0] * (old.ndim - 2) + [0, new.shape[1] - old.shape[1]]
        old = functional.pad(old, padding)
    return torch.cat([old, new])
