"""The background-shift detector: is this pixel, labelled background, foreground of an earlier step?

Source: BACS; the project's reading of the released method. Shapes: B batch, C bottleneck channels, P projected
channels, h x w bottleneck size, H x W label size, R heads.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bacs.compat import CompatConfig
from bacs.networks.norms import ActivatedNorm
from bacs.prototypes import Prototypes


class Detector(nn.Module):
    """A projector shared by all steps, and per step one prototype and one linear head on the distance to it."""

    def __init__(
        self,
        in_channels: int,
        channels: int | None = None,
        dropout: float = 0.1,
        decay: float = 1.0,
        *,
        per_class: bool = False,
        compat: CompatConfig | None = None,
    ) -> None:
        """Without heads.

        Args:
            in_channels: C.
            channels: P, default C / 4.
            dropout: share of the projected features that training leaves out.
            decay: see :class:`bacs.prototypes.Prototypes`.
            per_class: a prototype for each class instead of one for all classes of a step.
            compat: which of the original's defects to have; none if left out.
        """
        super().__init__()
        compat = compat or CompatConfig()
        self.channels = channels or max(1, in_channels // 4)
        self.projector = nn.Sequential(
            nn.Conv2d(in_channels, self.channels, 3, padding=1, bias=False),
            ActivatedNorm(self.channels, activation="identity"),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.heads = nn.ModuleList()
        self.per_class = per_class
        self.rows: list[range] = []
        """Of each step, its prototypes."""
        self.prototypes = Prototypes(self.channels, decay, scrambled=compat.scrambled_prototypes)
        self._align_corners = compat.aligned_detector_maps
        self._freezes_statistics = not compat.train_mode_detection
        self._in_eval_for_good = False

    def append_head(self, n_classes: int = 1) -> None:
        """Adds the head and the empty prototypes of a step of ``n_classes`` classes; earlier heads stop learning."""
        for head in self.heads:
            head.requires_grad_(False)
        self.heads.append(nn.Conv2d(self.channels, 1, kernel_size=1))
        first = len(self.prototypes.values)
        self.rows.append(range(first, first + (n_classes if self.per_class else 1)))
        self.prototypes.append(len(self.rows[-1]))

    def freeze_projector(self) -> None:
        """From step 1 on the projector neither learns nor moves its running statistics.

        With ``compat.train_mode_detection`` it does not learn, but goes on to move them.
        """
        self.projector.requires_grad_(False)
        self._in_eval_for_good = self._freezes_statistics
        self.train(self.training)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        if self._in_eval_for_good:
            self.projector.eval()
        return self

    def project(self, bottleneck: Tensor) -> Tensor:
        """(B, C, h, w) -> r (B, P, h, w), r >= 0."""
        return self.projector(bottleneck)

    def logits(self, projected: Tensor, head: int, size: tuple[int, int]) -> Tensor:
        """F_k = phi_k(|sigmoid(r) - sigmoid(p_k)|), bilinearly resized to ``size``: (B, H, W).

        Where a step has several prototypes, the largest over those that are not empty: the pixel belongs to one of the
        step's classes. Prototypes never receive a gradient; whether ``projected`` does is the caller's choice.
        """
        counts = self.prototypes.counts
        rows = [row for row in self.rows[head] if len(self.rows[head]) == 1 or counts[row] > 0]
        logits = reduce(torch.maximum, (self._likeness(projected, head, row) for row in rows))
        return functional.interpolate(logits, size=size, mode="bilinear", align_corners=self._align_corners)[:, 0]

    def _likeness(self, projected: Tensor, head: int, row: int) -> Tensor:
        """(B, 1, h, w): what a head makes of the distance to one prototype."""
        prototype = self.prototypes.values[row].detach()
        distance = (torch.sigmoid(projected.float()) - torch.sigmoid(prototype)[None, :, None, None]).abs()
        return self.heads[head](distance).float()

    def ready(self, head: int) -> bool:
        """Whether the step has a prototype that is not empty."""
        return any(self.prototypes.ready(row) for row in self.rows[head])

    def row_of_class(self, step_of_class: np.ndarray) -> np.ndarray:
        """(K,) the prototype of each internal label, -1 for background."""
        return np.arange(len(step_of_class)) - 1 if self.per_class else step_of_class

    @torch.no_grad()
    def seen(self, projected: Tensor, n_heads: int, size: tuple[int, int]) -> Tensor:
        """Seen probabilities of the first ``n_heads`` heads: (B, R, H, W) in [0, 1]."""
        maps = [torch.sigmoid(self.logits(projected, head, size)) for head in range(n_heads)]
        return torch.stack(maps, dim=1)
