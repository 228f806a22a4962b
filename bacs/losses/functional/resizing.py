"""Labels and masks at the resolution of a feature map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps (B, H, W) at the resolution (h, w) of a feature map, by nearest neighbour: (B, h, w) int64."""
    return F.interpolate(labels.unsqueeze(1).float(), size=size, mode="nearest").squeeze(1).long()


def resize_mask(mask: Tensor, size: tuple[int, int], share: float = 0.5) -> Tensor:
    """The mask at the resolution of a feature map: True where more than ``share`` of the area is.

    Area down-sampling, so that no map is computed at full resolution.

    Args:
        mask: (B, H, W) bool.
        size: (h, w).
        share: in [0, 1); the comparison is strict.

    Returns:
        (B, h, w) bool.
    """
    return F.adaptive_avg_pool2d(mask.float().unsqueeze(1), size).squeeze(1) > share
