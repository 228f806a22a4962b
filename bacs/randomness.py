"""Randomness as a function of (seed, step, epoch, ...), never of what happened before.

Two runs that stand at the same place draw the same numbers, whether they came there in one go, by resuming or by
forking from a shared stage.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a tuple such as ``(seed, "order", step, epoch)``; equal parts give equal seeds."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """An independent NumPy generator for a tuple of parts."""
    return np.random.default_rng(derive_seed(*parts))


def seed_everything(*parts: int | str) -> None:
    """Sets the global generators (dropout, initialisation, user code) afresh."""
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def epoch_order(n_items: int, n_draws: int, *parts: int | str) -> np.ndarray:
    """Positions of ``n_draws`` items: whole permutations of ``range(n_items)``, one after the other.

    Args:
        n_items: how many items there are.
        n_draws: how many positions to return; more than ``n_items`` goes through them again in a new order.
        parts: where the run stands, such as ``(seed, step, epoch)``.
    """
    rounds = -(-n_draws // n_items)
    orders = [generator("order", *parts, turn).permutation(n_items) for turn in range(rounds)]
    return np.concatenate(orders)[:n_draws] if orders else np.empty(0, dtype=np.int64)
