"""Pseudo-labels: the background of a step is labelled by the model of the step before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class PseudoLabelConfig:
    """Keys of ``loss=pseudo_label``."""

    confidence: float = knob(0.0, acts_from=1, ge=0, lt=1)
    """Least probability of the teacher's answer; a background pixel that it gives to an old class with less is left
    out. 0, as in the original and in the digit notebook: its answer always counts."""


class PseudoLabel(Method):
    """Step 0: cross-entropy. Steps >= 1: ``cross_entropy`` over all classes seen, where every background pixel is
    labelled with the class that the teacher sees there (which may be background).
    """

    Config = PseudoLabelConfig
    uses_teacher = True
    needs_background = True
    config: PseudoLabelConfig

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        labels = pseudo_labels(batch.labels, context.taught(batch.images).logits, self.config.confidence)
        terms = {"cross_entropy": functional.cross_entropy(output.logits, labels)}
        terms |= self.detector_term(context, batch, output)
        return terms


def pseudo_labels(labels: Tensor, teacher_logits: Tensor, confidence: float) -> Tensor:
    """A copy of the labels whose background is what the teacher predicts; see :class:`PseudoLabelConfig`.

    Args:
        labels: (B, H, W).
        teacher_logits: (B, O, H, W).
        confidence: in [0, 1), a probability.
    """
    probability, predicted = teacher_logits.float().softmax(dim=1).max(dim=1)
    doubtful = (predicted > 0) & (probability < confidence)
    return torch.where(labels == 0, predicted.masked_fill(doubtful, functional.IGNORE), labels)
