"""LwF-MC: one sigmoid a class, learning without forgetting by iCaRL's loss without its memory (Rebuffi et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class LwFMCConfig:
    """Keys of ``loss=lwf_mc``."""

    kd_weight: float = knob(1.0, acts_from=1, ge=0)
    """Weight of the classes for which the teacher speaks, against the new ones."""
    bg_from_labels: bool = knob(False, acts_from=1)
    """Labels speak for background. Published: the teacher does, so that a pixel of a new class is asked to be that
    class and background too, and background, which knows no new class, often wins."""


class LwFMC(Method):
    """Step 0: ``binary_cross_entropy``, summed over one sigmoid for each class, with the labels. (The original trains
    step 0 by softmax, after which sigmoids of its teacher mean little; so this step 0 is shared with no other method.)

    Steps >= 1: the same, but for background and old classes the sigmoids of the teacher are the targets, and labels
    speak for the classes of the step alone.
    """

    Config = LwFMCConfig
    uses_teacher = True
    plain_step_0 = False
    needs_background = True  # without new classes labels would have no say
    config: LwFMCConfig

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        terms = {"binary_cross_entropy": self._classification(context, batch, output.logits)}
        terms |= self.detector_term(context, batch, output)
        return terms

    def _classification(self, context: StepContext, batch: Batch, logits: Tensor) -> Tensor:
        if context.step == 0:
            return functional.taught_binary_cross_entropy(logits, batch.labels)
        taught = context.taught(batch.images)
        return functional.taught_binary_cross_entropy(
            logits,
            batch.labels,
            taught.logits,
            teach_background=not self.config.bg_from_labels,
            teacher_weight=self.config.kd_weight,
        )
