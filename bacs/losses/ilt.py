"""ILT: incremental learning techniques (Michieli and Zanuttigh 2019), as in the comparison of MiB."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class ILTConfig:
    """Keys of ``loss=ilt``."""

    kd_weight: float = knob(100.0, acts_from=1, ge=0)
    """Weight of the distillation of the logits. The published 100 is too much for short steps, see ``loss=lwf``."""
    encoder_weight: float = knob(100.0, acts_from=1, ge=0)
    """Weight of the distillation of the encoder's output."""


class ILT(Method):
    """Step 0: cross-entropy. Steps >= 1: the sum of

    - ``cross_entropy`` over all classes seen, although "background" hides the old ones;
    - ``distillation``: the softmax over the old classes alone is held at the teacher's, on every pixel, as in LwF;
    - ``encoder``: squared distance of the deepest features to the teacher's.
    """

    Config = ILTConfig
    uses_teacher = True
    config: ILTConfig

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
        taught = context.taught(batch.images)
        terms["distillation"] = self.config.kd_weight * functional.logit_distillation(output.logits, taught.logits)
        encoder = functional.feature_distillation(output.bottleneck, taught.bottleneck)
        terms["encoder"] = self.config.encoder_weight * encoder
        terms |= self.detector_term(context, batch, output)
        return terms
