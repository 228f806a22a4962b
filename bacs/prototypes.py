"""Foreground prototypes: one mean projected feature per continual step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bacs.distributed import sum_over_ranks


class Prototypes(nn.Module):
    """Means of the projected features at the foreground of each step, kept as buffers so that they are saved."""

    values: Tensor
    """(R, C) float32: one row a step."""
    counts: Tensor
    """(R,) float64: locations behind each row (decayed, if ``decay`` < 1); 0 while the row is empty."""

    def __init__(self, channels: int, decay: float = 1.0) -> None:
        """Args: decay: weight of the past at every update; 1 is the plain running mean over all updates."""
        super().__init__()
        self.decay = decay
        self.register_buffer("values", torch.zeros(0, channels))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.float64))

    def append(self) -> None:
        """Adds an empty row for a new step."""
        self.values = torch.cat([self.values, self.values.new_zeros(1, self.values.shape[1])])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(1)])

    def ready(self, row: int) -> bool:
        return bool(self.counts[row] > 0)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, step_of_class: np.ndarray, row: int) -> None:
        """Folds a batch into the running mean of ``row``: p <- (N p + sum r) / (N + n), N <- N + n.

        Args:
            features: (B, C, h, w) projected features.
            labels: (B, H, W) internal labels; brought to (h, w) by nearest neighbour.
            step_of_class: (K,) step of each internal label, -1 for background.
            row: the step whose prototype is updated.
        """
        total, count = foreground_sum(features, labels, step_of_class, row)
        past = self.counts[row] * self.decay
        if count > 0:
            mean = (past * self.values[row].double() + total) / (past + count)
            self.values[row] = mean.to(self.values.dtype)
            self.counts[row] = past + count

    @torch.no_grad()
    def replace(self, row: int, total: Tensor, count: Tensor) -> None:
        """Sets a row to ``total / count``; an empty sum leaves it as it is."""
        if count > 0:
            self.values[row] = (total / count).to(self.values.dtype)
            self.counts[row] = count


@torch.no_grad()
def foreground_sum(features: Tensor, labels: Tensor, step_of_class: np.ndarray, row: int) -> tuple[Tensor, Tensor]:
    """Sum (C,) float64 and number of the features whose label belongs to step ``row``, over all ranks."""
    small = functional.interpolate(labels[:, None].float(), size=features.shape[-2:], mode="nearest")
    table = torch.full((256,), -1, dtype=torch.int64, device=labels.device)
    table[: len(step_of_class)] = torch.as_tensor(step_of_class, device=labels.device)
    chosen = table[small[:, 0].long()] == row
    # The channel axis goes last before masking: masking (B, C, h, w) directly would mix channels of different images.
    rows = features.permute(0, 2, 3, 1)[chosen].double()
    packed = torch.cat([rows.sum(dim=0), rows.new_tensor([float(len(rows))])])
    packed = sum_over_ranks(packed)
    return packed[:-1], packed[-1]
