"""Which images the replay memory keeps. Pure functions of what is offered: the same offer gives the same memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Entries:
    """What a policy sees of N images: not the pixels, only what it decides on."""

    presence: np.ndarray
    """(N, K) bool: the internal labels in each image's stored label map; column 0, background, is not looked at."""
    priority: np.ndarray
    """(N,) float64 in [0, 1): a hash of (seed, step, image). Lower is kept first."""
    importance: np.ndarray
    """(N,) float32: minus the mean cross-entropy of the image when it was stored (0 where not measured)."""

    def __len__(self) -> int:
        return len(self.priority)

    def __add__(self, other: Entries) -> Entries:
        width = max(self.presence.shape[1], other.presence.shape[1])
        presence = np.concatenate([_widen(self.presence, width), _widen(other.presence, width)])
        priority = np.concatenate([self.priority, other.priority])
        return Entries(presence, priority, np.concatenate([self.importance, other.importance]))


def _widen(presence: np.ndarray, width: int) -> np.ndarray:
    return np.pad(presence, ((0, 0), (0, width - presence.shape[1])))


Policy = Callable[[Entries, Entries, int, int, np.random.Generator], np.ndarray]
"""(kept so far, offered, capacity, images offered before, generator) -> sorted positions in ``kept + offered``."""


def reservoir(kept: Entries, offered: Entries, capacity: int, _before: int, _rng: np.random.Generator) -> np.ndarray:
    """A uniform sample of everything ever offered (Vitter 1985), drawn by hash priority.

    Keeping the lowest priorities is a uniform reservoir, and a smaller memory is a subset of a larger one.
    """
    order = np.argsort((kept + offered).priority, kind="stable")
    return np.sort(order[:capacity])


def class_balanced(
    kept: Entries, offered: Entries, capacity: int, _before: int, _rng: np.random.Generator
) -> np.ndarray:
    """Gives each foreground class an equal share of the slots.

    Fills greedily: the class with the fewest slots takes its best remaining image. When a new step brings new classes
    the old ones shrink to the new quota, floor(capacity / classes), by giving up their images of lowest rank.
    """
    pool = kept + offered
    order = np.argsort(pool.priority, kind="stable")
    queues = {c: iter(order[pool.presence[order, c]]) for c in range(1, pool.presence.shape[1])}
    slots = dict.fromkeys(queues, 0)
    chosen: set[int] = set()
    while len(chosen) < capacity and slots:
        rarest = min(slots, key=lambda c: (slots[c], c))
        image = next((int(i) for i in queues[rarest] if int(i) not in chosen), None)
        if image is None:
            del slots[rarest]
            continue
        chosen.add(image)
        slots[rarest] += 1
    return np.array(sorted(chosen), dtype=np.int64)


def loss_balanced(kept: Entries, offered: Entries, capacity: int, before: int, rng: np.random.Generator) -> np.ndarray:
    """BACS's loss-aware balanced reservoir, decided image by image.

    An image is accepted with the reservoir's probability; the one that leaves is drawn with a probability that grows
    with 0.3 x importance (easy images leave) + 0.7 x balance (images whose rarest class is frequent leave), each term
    divided by its mean magnitude. Nothing is re-balanced when a new step starts, so early steps keep most slots.
    """
    return _balanced(kept, offered, capacity, before, rng, _by_own_magnitudes)


def loss_balanced_blindly(
    kept: Entries, offered: Entries, capacity: int, before: int, rng: np.random.Generator
) -> np.ndarray:
    """As :func:`loss_balanced`, but with the original's score (``compat.loss_blind_eviction``).

    Importance is divided by the product of both mean magnitudes and balance by nothing, so balance alone decides.
    """
    return _balanced(kept, offered, capacity, before, rng, _by_product)


def shared_by_batch(presence: np.ndarray, batch_size: int) -> np.ndarray:
    """(N, K) presence where every image shows what any of its train batch shows (``compat.batch_level_balance``).

    Args:
        presence: (N, K).
        batch_size: consecutive rows that form a batch; the last may be smaller.
    """
    starts = np.arange(0, len(presence), batch_size)
    shared = np.logical_or.reduceat(presence, starts, axis=0)
    return np.repeat(shared, batch_size, axis=0)[: len(presence)]


Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(importance, balance) -> how much each image should leave."""


def _balanced(
    kept: Entries, offered: Entries, capacity: int, before: int, rng: np.random.Generator, score: Score
) -> np.ndarray:
    pool = kept + offered
    slots = list(range(len(kept)))
    for position in range(len(kept), len(pool)):
        before += 1
        if len(slots) < capacity:
            slots.append(position)
        elif capacity and rng.integers(before) < capacity:
            chances = _eviction_chances(pool, np.array(slots), score)
            slots[int(rng.choice(len(slots), p=chances))] = position
    return np.sort(np.array(slots, dtype=np.int64))


def _eviction_chances(pool: Entries, slots: np.ndarray, scoring: Score) -> np.ndarray:
    presence = pool.presence[slots, 1:]
    counts = np.where(presence, presence.sum(axis=0), np.iinfo(np.int64).max)
    balance = counts.min(axis=1, initial=len(slots)).astype(np.float64)
    importance = pool.importance[slots].astype(np.float64)
    score = scoring(importance, balance)
    score = score - score.min()
    if score.max() <= 0:
        return np.full(len(slots), 1 / len(slots))
    return score / score.sum()


def _by_own_magnitudes(importance: np.ndarray, balance: np.ndarray) -> np.ndarray:
    return 0.3 * _by_magnitude(importance) + 0.7 * _by_magnitude(balance)


def _by_product(importance: np.ndarray, balance: np.ndarray) -> np.ndarray:
    scale = np.abs(importance).mean() * np.abs(balance).mean()
    return 0.3 * (importance / scale if scale > 0 else importance) + 0.7 * balance


def _by_magnitude(values: np.ndarray) -> np.ndarray:
    """Divides by the mean magnitude, so that losses and counts weigh what their factors say."""
    scale = np.abs(values).mean()
    return values / scale if scale > 0 else values


POLICIES: dict[str, Policy] = {
    "class_balanced": class_balanced,
    "reservoir": reservoir,
    "loss_balanced": loss_balanced,
}
