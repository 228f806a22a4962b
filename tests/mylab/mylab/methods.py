"""The lab's own method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.schema import knob
from mylab import terms


@dataclass(frozen=True, kw_only=True)
class HoldConfig:
    """Keys of ``loss=hold``."""

    weight: float = knob(0.5, acts_from=1, ge=0)
    """Weight of the distance of old logits."""


class Hold(Method):
    """Step 0: cross-entropy. Steps >= 1: ``cross_entropy`` and ``hold``, the distance to the teacher's old logits."""

    Config = HoldConfig
    uses_teacher = True
    config: HoldConfig

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        taught = context.taught(batch.images)
        return {
            "cross_entropy": functional.cross_entropy(output.logits, batch.labels),
            "hold": self.config.weight * terms.held_logits(output.logits, taught.logits),
        } | self.detector_term(context, batch, output)
