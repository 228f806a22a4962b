"""Distillation at encoder and decoder, as in the MNIST-Extended notebook on continual segmentation of digits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.networks import NetworkOutput
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class FeatureDistillationConfig:
    """Keys of ``loss=feature_distillation``; a factor of 0 switches its level off."""

    lambda_distill: float = knob(10.0, acts_from=1, ge=0)
    """Weight of all levels together. The notebook ran output and encoder with 10, output and decoder with 1.25."""
    output_factor: float = knob(1.0, acts_from=1, ge=0)
    """Of the term of ``loss=output_distillation``."""
    encoder_factor: float = knob(1.0, acts_from=1, ge=0)
    """Of the squared error of the network's deepest features."""
    decoder_factor: float = knob(0.1, acts_from=1, ge=0)
    """Of the squared error of the features that the classifier reads."""


class FeatureDistillation(Method):
    """Step 0: cross-entropy. Steps >= 1: the sum of

    - ``cross_entropy``: over all classes seen;
    - ``output``, ``encoder``, ``decoder``: lambda x factor x the distance between teacher and student at that level:
      of the old foreground's probabilities, of the deepest features, of the decoder's output (mean squared errors).
    """

    Config = FeatureDistillationConfig
    uses_teacher = True
    needs_background = True
    config: FeatureDistillationConfig

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
        terms |= self.detector_term(context, batch, output)
        return terms | self._distillation(output, context.taught(batch.images))

    def _distillation(self, output: NetworkOutput, taught: NetworkOutput) -> dict[str, Tensor]:
        c = self.config
        terms = {}
        if c.output_factor > 0:
            terms["output"] = c.output_factor * functional.foreground_distillation(output.logits, taught.logits)
        if c.encoder_factor > 0:
            terms["encoder"] = c.encoder_factor * functional.feature_distillation(output.bottleneck, taught.bottleneck)
        if c.decoder_factor > 0:
            student, teacher = output.features[-1], taught.features[-1]
            terms["decoder"] = c.decoder_factor * functional.feature_distillation(student, teacher)
        return {name: c.lambda_distill * term for name, term in terms.items()}
