"""Foreground prototypes: one mean projected feature per continual step, or per class."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from bacs.distributed import sum_over_ranks
from bacs.losses.functional import resize_labels


class Prototypes(nn.Module):
    """Means of the projected features at the foreground of each step (or class), buffers so that they are saved."""

    values: Tensor
    """(R, C) float32: one row a step, or a class."""
    counts: Tensor
    """(R,) float64: locations behind each row (decayed, if ``decay`` < 1); 0 while the row is empty."""

    def __init__(self, channels: int, decay: float = 1.0, *, scrambled: bool = False) -> None:
        """No row yet.

        Args:
            channels: C.
            decay: weight of the past at every update of the newest rows; 1 is the plain running mean over all updates.
            scrambled: updates sum as :func:`scrambled_sum` does.
        """
        super().__init__()
        self.decay = decay
        self._sum = scrambled_sum if scrambled else foreground_sum
        self._newest = 0  # the first row of the step under way
        self.register_buffer("values", torch.zeros(0, channels))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.float64))

    def append(self, n: int = 1) -> None:
        """Adds the empty rows of a new step."""
        self._newest = len(self.values)
        self.values = torch.cat([self.values, self.values.new_zeros(n, self.values.shape[1])])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(n)])

    def ready(self, row: int) -> bool:
        return bool(self.counts[row] > 0)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor, row_of_class: np.ndarray, row: int) -> None:
        """Folds the batch of all ranks into the running mean of ``row``: p <- (N p + sum r) / (N + n), N <- N + n.

        Args:
            features: (B, C, h, w) projected features.
            labels: (B, H, W) internal labels; brought to (h, w) by nearest neighbour.
            row_of_class: (K,) row of each internal label, -1 for background.
            row: which is updated.
        """
        total, count = of_all_ranks(*self._sum(features, labels, row_of_class, row))
        past = self.counts[row] * (self.decay if row >= self._newest else 1.0)
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
def foreground_sum(features: Tensor, labels: Tensor, row_of_class: np.ndarray, row: int) -> tuple[Tensor, Tensor]:
    """Sum (C,) float64 and number of the features whose label belongs to ``row``, of this rank's images."""
    chosen = _locations(features, labels, row_of_class, row)
    # The channel axis goes last before masking: masking (B, C, h, w) directly would mix channels of different images.
    rows = features.permute(0, 2, 3, 1)[chosen].double()
    return rows.sum(dim=0), rows.new_tensor(float(len(rows)))


def of_all_ranks(total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over all ranks of what :func:`foreground_sum` returned on each, in one message."""
    packed = sum_over_ranks(torch.cat([total, count[None]]))
    return packed[:-1], packed[-1]


@torch.no_grad()
def scrambled_sum(features: Tensor, labels: Tensor, row_of_class: np.ndarray, row: int) -> tuple[Tensor, Tensor]:
    """The original's sum: masks (B, C, h, w) directly and cuts what is left, image after image, into C equal parts.

    Equals :func:`foreground_sum` for one image; for more it mixes channels (``compat.scrambled_prototypes``).
    """
    chosen = _locations(features, labels, row_of_class, row)
    parts = features[chosen[:, None].expand_as(features)].view(features.shape[1], -1).double()
    return parts.sum(dim=1), parts.new_tensor(float(parts.shape[1]))


def rounded_steps(step_of_class: np.ndarray) -> np.ndarray:
    """The original's step of each label: rint((label - X) / Y), at least 0 (``compat.rounded_step_map``).

    Args:
        step_of_class: (K,) the right map. X is the number of classes of its step 0, Y that of its step 1.

    Returns:
        (K,), -1 for background.
    """
    first, increment = ((step_of_class[1:] == step).sum() for step in (0, 1))
    if increment == 0:
        return step_of_class
    steps = np.rint((np.arange(len(step_of_class)) - first) / increment).clip(min=0).astype(np.int64)
    steps[0] = -1
    return steps


def _locations(features: Tensor, labels: Tensor, row_of_class: np.ndarray, row: int) -> Tensor:
    """(B, h, w) bool: where the label, brought to the features' size, belongs to ``row``."""
    small = resize_labels(labels, (features.shape[-2], features.shape[-1]))
    table = torch.full((256,), -1, dtype=torch.int64, device=labels.device)
    table[: len(row_of_class)] = torch.as_tensor(row_of_class, device=labels.device)
    return table[small] == row
