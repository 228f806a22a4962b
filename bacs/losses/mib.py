"""MiB: modelling the background (Cermelli et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class MiBConfig:
    """Keys of ``loss=mib``."""

    kd_weight: float = knob(10.0, acts_from=1, ge=0)
    """lambda: weight of the distillation; 10 is published."""


class MiB(Method):
    """Step 0: cross-entropy. Steps >= 1: the sum of

    - ``unbiased_ce``: cross-entropy in which "background" means background or any old class;
    - ``distillation``: to the teacher, new classes are background, on every pixel.

    New classes start as copies of the background's head (``training.new_head_init=mib``), for which short steps are
    too short: after 400 iterations on the digits mIoU of the second step's classes is 0.19, with ``mib_noise`` 0.62.
    """

    Config = MiBConfig
    uses_teacher = True
    needs_background = True
    head_init = "mib"
    config: MiBConfig

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        taught = context.taught(batch.images)
        distillation = functional.unbiased_distillation(output.logits, taught.logits)
        terms = {
            "unbiased_ce": self._classification(context, batch, output.logits),
            "distillation": self.config.kd_weight * distillation,
        }
        terms |= self.detector_term(context, batch, output)
        return terms

    def _classification(self, context: StepContext, batch: Batch, logits: Tensor) -> Tensor:
        return functional.unbiased_cross_entropy(
            logits,
            batch.labels,
            context.old_classes,
            keep_old_labels=context.old_labels_shown,
            denominator="all" if self.options.compat.all_pixel_mean else "valid",
        )
