"""Distillation at the output, as in the MNIST-Extended notebook on continual segmentation of digits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class OutputDistillationConfig:
    """Keys of ``loss=output_distillation``."""

    lambda_distill: float = knob(10.0, acts_from=1, ge=0)
    """Weight of the distillation; the notebook's value."""


class OutputDistillation(Method):
    """Step 0: cross-entropy. Steps >= 1: the sum of

    - ``cross_entropy``: over all classes seen;
    - ``distillation``: lambda x the teacher's probabilities against the student's on the old foreground classes; both
      are normalised over background and old classes, and background is dropped after that.
    """

    Config = OutputDistillationConfig
    uses_teacher = True
    needs_background = True
    config: OutputDistillationConfig

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
        terms |= self.detector_term(context, batch, output)
        if self.config.lambda_distill > 0:
            taught = context.taught(batch.images)
            distillation = functional.foreground_distillation(output.logits, taught.logits)
            terms["distillation"] = self.config.lambda_distill * distillation
        return terms
