"""LwF: learning without forgetting (Li and Hoiem 2016), for segmentation as in the comparison of MiB."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class LwFConfig:
    """Keys of ``loss=lwf``."""

    kd_weight: float = knob(100.0, acts_from=1, ge=0)
    """Weight of the distillation. The published 100 is for steps of thousands of iterations: in 400 on the digits no
    new class is learnt at all (mIoU of the second step's classes 0.00, with 10 it is 0.64; old ones 0.86 and 0.82)."""


class LwF(Method):
    """Step 0: cross-entropy. Steps >= 1: the sum of

    - ``cross_entropy`` over all classes seen, although "background" hides the old ones;
    - ``distillation``: the softmax over the old classes alone is held at the teacher's, on every pixel.
    """

    Config = LwFConfig
    uses_teacher = True
    config: LwFConfig

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
        taught = context.taught(batch.images)
        terms["distillation"] = self.config.kd_weight * functional.logit_distillation(output.logits, taught.logits)
        terms |= self.detector_term(context, batch, output)
        return terms
