"""The replay memory of dark experience replay: images with the labels and logits they had when they were stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bacs.compat import CompatConfig
from bacs.randomness import generator
from bacs.replay_policies import POLICIES, Entries, loss_balanced_blindly, shared_by_batch


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
    label_images: Tensor | None = None
    """(B, ...) uint8: the images that the labels belong to, with ``compat.shuffled_label_replay``."""

    def share(self, rank: int, world: int) -> ReplayBatch:
        """The part of one rank."""
        mine = slice(rank, None, world)
        others = None if self.label_images is None else self.label_images[mine]
        return ReplayBatch(self.images[mine], self.labels[mine], self.logits[mine], self.n_logits[mine], others)


@dataclass(frozen=True, slots=True)
class Collected:
    """What one pass of the finished model over the chosen images gives; see :class:`ReplayBatch` for shapes."""

    images: Tensor
    labels: Tensor
    logits: Tensor
    label_images: Tensor | None = None


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
    """Reads the given positions of the offer and runs the model on them."""
    importance: Callable[[], np.ndarray]
    """(N,) minus the mean cross-entropy of each image; asked for only by policies that use it."""


class ReplayMemory:
    """At most ``capacity`` images over all steps."""

    def __init__(
        self, capacity: int, policy: str, seed: int, *, batch_size: int = 1, compat: CompatConfig | None = None
    ) -> None:
        """An empty memory.

        Args:
            capacity: M, images.
            policy: one of :data:`bacs.replay_policies.POLICIES`.
            seed: of the choice.
            batch_size: images of a train batch; only the original's defects ask for it.
            compat: which of these to have; none if left out.
        """
        if policy not in POLICIES:
            raise ValueError(f"policy ({policy}) must be one of {', '.join(POLICIES)}")
        self.capacity = capacity
        self.policy = policy
        self.seed = seed
        self.batch_size = batch_size
        self.compat = compat or CompatConfig()
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
        policy = loss_balanced_blindly if self._loss_is_ignored() else POLICIES[self.policy]
        kept = policy(self._entries(), offered, self.capacity, self._offered, rng)
        self._offered += len(offered)
        stay, enter = kept[kept < len(self)], kept[kept >= len(self)] - len(self)
        self._store(offer, offered, stay, enter)

    def sample(self, batch_size: int, rng: np.random.Generator) -> ReplayBatch:
        """Draws uniformly, without repetition where the memory holds enough images."""
        chosen = torch.as_tensor(rng.choice(len(self), size=batch_size, replace=batch_size > len(self)))
        items = {name: tensor[chosen] for name, tensor in self._items.items()}
        labels = items["labels"].long()
        logits, n_logits = items["logits"].float(), items["n_logits"].long()
        return ReplayBatch(items["images"], labels, logits, n_logits, items.get("label_images"))

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
        shared = self.compat.batch_level_balance
        presence = shared_by_batch(offer.presence, self.batch_size) if shared else offer.presence
        return Entries(presence, np.array(draws, dtype=np.float64), importance)

    def _loss_is_ignored(self) -> bool:
        return self.compat.loss_blind_eviction and self.policy == "loss_balanced"

    def _store(self, offer: Offer, offered: Entries, stay: np.ndarray, enter: np.ndarray) -> None:
        survivors = {name: tensor[torch.as_tensor(stay)] for name, tensor in self._items.items()}
        if len(enter) == 0:
            self._items = survivors
            return
        written = first_of_batches(enter, self.batch_size) if self.compat.shifted_slots else enter
        fresh = offer.collect(written)
        count = len(enter)
        new = {
            "index": torch.as_tensor(offer.indices[written]).long(),
            "step": torch.full((count,), offer.step, dtype=torch.int16),
            "n_logits": torch.full((count,), offer.n_logits, dtype=torch.int16),
            "presence": torch.as_tensor(offered.presence[enter]),
            "priority": torch.as_tensor(offered.priority[enter]),
            "importance": torch.as_tensor(offered.importance[enter]),
            "images": fresh.images,
            "labels": fresh.labels.to(torch.uint8),
            "logits": fresh.logits.to(torch.float16),
        }
        if fresh.label_images is not None:
            new["label_images"] = fresh.label_images
        self._items = {name: _concatenate(survivors.get(name), tensor) for name, tensor in new.items()}
        if self.compat.shifted_slots:
            self._blank_first()

    def _blank_first(self) -> None:
        """Zeros where nothing was written; labels that belong to other images are read from those."""
        blank = ["images", "logits", *(["labels"] if "label_images" not in self._items else [])]
        for name in blank:
            self._items[name][0] = 0


def first_of_batches(accepted: np.ndarray, batch_size: int) -> np.ndarray:
    """As many positions, but in every train batch its first ones (``compat.shifted_slots``).

    Args:
        accepted: (N,) positions in an offer, in rising order.
        batch_size: consecutive positions that form a batch.
    """
    batches, counts = np.unique(accepted // batch_size, return_counts=True)
    starts = [batch * batch_size + np.arange(count) for batch, count in zip(batches, counts, strict=True)]
    return np.concatenate(starts)


def autocontrast(images: Tensor) -> Tensor:
    """Stretches every channel of every image (B, C, H, W) to [0, 1]; one without contrast is cut to it."""
    low, high = images.amin(dim=(-2, -1), keepdim=True), images.amax(dim=(-2, -1), keepdim=True)
    flat = low == high
    return ((images - low.masked_fill(flat, 0)) / (high - low).masked_fill(flat, 1)).clamp(0, 1)


def stretched(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) bool: the images of a batch that ``compat.replay_autocontrast`` stretches."""
    return (rng.random(count) < 0.5) | (rng.random() < 0.5)


def _concatenate(old: Tensor | None, new: Tensor) -> Tensor:
    """Stacks along the first axis; the second is padded with 0 where ``old`` is narrower (fewer classes then)."""
    if old is None or len(old) == 0:
        return new
    if old.ndim > 1 and old.shape[1] < new.shape[1]:
        padding = [0, 0] * (old.ndim - 2) + [0, new.shape[1] - old.shape[1]]
        old = functional.pad(old, padding)
    return torch.cat([old, new])
