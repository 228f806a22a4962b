"""Fine-tuning (every step plain cross-entropy) and, with one step for all classes, joint training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig:
    """``loss=crossentropy`` has no keys."""


class CrossEntropy(Method):
    """Step 0 and later: cross-entropy over all classes seen, mean over the labelled pixels. No teacher, no memory."""

    Config = CrossEntropyConfig

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
        terms |= self.detector_term(context, batch, output)
        return terms
