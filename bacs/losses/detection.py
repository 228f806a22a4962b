"""Training of the background-shift detector beside a network; BACS needs it, other methods may ask for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bacs.compat import CompatConfig
from bacs.detector import Detector
from bacs.distributed import any_rank, sum_over_ranks
from bacs.losses import functional
from bacs.metrics import RANKING_BINS, auroc_ap, ranking_histogram
from bacs.model import Model
from bacs.networks import NetworkOutput, SegmentationNetwork
from bacs.prototypes import foreground_sum, of_all_ranks, rounded_steps

if TYPE_CHECKING:
    from bacs.losses.base import Batch, StepContext


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """What the keys of the same names (``detector_...``, ``det_...``) of ``loss=bacs`` say."""

    channels: int | None = None
    dropout: float = 0.1
    weight: float = 1.0
    warmup_epochs: int = 0
    lr_factor: float = 10.0
    focal_alpha: float | None = None
    prototypes: str = "step"
    prototype_decay: float = 0.99


class Detection:
    """Focal loss of the head of the current step; from step 1 on nothing else of the detector learns."""

    def __init__(self, settings: DetectionSettings, compat: CompatConfig | None = None) -> None:
        self.settings = settings
        self.compat = compat or CompatConfig()

    def build(self, network: SegmentationNetwork) -> Detector:
        s = self.settings
        return Detector(
            network.bottleneck_channels,
            s.channels,
            s.dropout,
            s.prototype_decay,
            per_class=s.prototypes == "class",
            compat=self.compat,
        )

    def parameter_groups(self, model: Model) -> list[tuple[list[nn.Parameter], float]]:
        """(parameters, factor on the learning rate): all of the model, the detector's heads apart."""
        heads = list(detector_of(model).heads.parameters())
        chosen = {id(parameter) for parameter in heads}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
        return [(rest, 1.0), (heads, self.settings.lr_factor)]

    def term(
        self, context: StepContext, batch: Batch, output: NetworkOutput, doubted: Tensor | None
    ) -> dict[str, Tensor]:
        """The loss of the current head: foreground of this step against the rest.

        In step 0 its gradient reaches the backbone. From step 1 on only the head learns.

        Args:
            context: where the run stands.
            batch: images and labels.
            output: the network's, on the images.
            doubted: (B, H, W) bool: background pixels that are left out because earlier heads call them foreground,
                so that neither label is reliable there.
        """
        return self.loss(context, batch, self.observe(context, batch, output), doubted)

    def observe(self, context: StepContext, batch: Batch, output: NetworkOutput) -> Tensor:
        """First half of :meth:`term`: projects the features and updates the prototypes with them; (B, P, h, w)."""
        detector = detector_of(context.model)
        bottleneck = output.bottleneck if context.step == 0 else output.bottleneck.detach()
        projected = detector.project(bottleneck)
        rows, newest = self._rows(context), detector.rows[context.step]
        # A wrong map finds some classes of this step in the step before.
        for row in range(int(rows[max(context.old_classes, 1) :].min(initial=newest[0])), newest[-1] + 1):
            detector.prototypes.update(projected, batch.labels, rows, row)
        return projected

    def loss(self, context: StepContext, batch: Batch, projected: Tensor, doubted: Tensor | None) -> dict[str, Tensor]:
        """Second half of :meth:`term`, on what :meth:`observe` returned."""
        detector = detector_of(context.model)
        background = batch.labels == 0
        if not detector.ready(context.step) or not any_rank(bool(background.any()), background.device):
            return {}
        target = (batch.labels >= max(context.old_classes, 1)) & (batch.labels != functional.IGNORE)
        counted = background | target
        if doubted is not None:
            counted &= ~(background & doubted)
        logits = detector.logits(projected, context.step, size_of(batch.labels))
        loss = functional.focal_loss(logits, target, mask=counted, alpha=self.settings.focal_alpha)
        return {"detector": self.weight(context.epoch, context.epochs) * loss}

    def weight(self, epoch: int, epochs: int) -> float:
        """Of the detector's loss in an epoch (0-based) of ``epochs``."""
        warmup = self.settings.warmup_epochs
        weight = self.settings.weight * (min(1.0, (epoch + 1) / (warmup + 1)) if warmup else 1.0)
        return weight * functional.detector_weight(epoch, epochs) if self.compat.fading_detector_weight else weight

    def _rows(self, context: StepContext) -> np.ndarray:
        """(K,) the prototype that each label is taken to belong to."""
        rounded = self.compat.rounded_step_map
        steps = rounded_steps(context.step_of_class) if rounded else context.step_of_class
        return detector_of(context.model).row_of_class(steps)

    @torch.no_grad()
    def finish_step(self, context: StepContext, batches: Iterable[Batch]) -> None:
        """Recomputes the prototypes of the step with the final weights, in eval mode, over all its images.

        The scrambled prototype stays the running mean: it depends on the batches, and none but train batches count.
        """
        detector = detector_of(context.model)
        if self.compat.scrambled_prototypes and detector.ready(context.step):
            return
        row_of_class, rows = self._rows(context), detector.rows[context.step]
        values = detector.prototypes.values
        totals = values.new_zeros(len(rows), values.shape[1], dtype=torch.float64)
        counts = values.new_zeros(len(rows), dtype=torch.float64)
        for batch in batches:
            projected = detector.project(context.model(batch.images).bottleneck)
            for i, row in enumerate(rows):
                total, count = foreground_sum(projected, batch.labels, row_of_class, row)
                totals[i] += total
                counts[i] += count
        for i, row in enumerate(rows):
            detector.prototypes.replace(row, *of_all_ranks(totals[i], counts[i]))

    @torch.no_grad()
    def diagnose(self, context: StepContext, batches: Iterable[Batch]) -> dict[str, float]:
        """How well the finished detector, the next step's judge, tells all seen foreground from background."""
        detector = detector_of(context.model)
        histogram = detector.prototypes.values.new_zeros(2, RANKING_BINS, dtype=torch.int64)
        for batch in batches:
            projected = detector.project(context.model(batch.images).bottleneck)
            seen = detector.seen(projected, context.step + 1, size_of(batch.labels)).amax(dim=1)
            histogram += ranking_histogram(seen, batch.labels > 0, batch.labels != functional.IGNORE)
        auroc, precision = auroc_ap(sum_over_ranks(histogram))
        return {"detector/auroc": auroc, "detector/ap": precision}


def detector_of(model: Model) -> Detector:
    if model.detector is None:
        raise AssertionError("the method has built a detector")
    return model.detector


def size_of(tensor: Tensor) -> tuple[int, int]:
    """(H, W) of the last two axes."""
    return int(tensor.shape[-2]), int(tensor.shape[-1])
