from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from bacs.losses import functional as losses
from bacs.losses.base import Batch, Method, StepContext
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class WeightConfig:
    weight: float = knob(acts_from=1, ge=0)
    only: str = knob("this", acts_from=1, choices=("this",))


class Weighted(Method):
    """Step 0: cross-entropy. Steps >= 1: the same, weighted."""

    Config = WeightConfig
    plain_step_0 = False

    def weight(self, context: StepContext) -> float:
        return self.config.weight if context.step else 1.0

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        return {"mine": self.weight(context) * losses.cross_entropy(output.logits, batch.labels)}


class NanWhereAllIsIgnored(Weighted):
    """Step 0 and later: cross-entropy."""

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        logits = context.model(batch.images).logits
        return {"mine": functional.cross_entropy(logits, batch.labels, ignore_index=losses.IGNORE)}


class ActsEarlier(Weighted):
    """Step 0 and later: weighted cross-entropy."""

    def weight(self, context: StepContext) -> float:
        return self.config.weight


class SpoilsTheBatch(Weighted):
    """It does not say what is done in the first step, nor in others."""

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        batch.images.mul_(0.5)
        return super().terms(context, batch)


class Stranger:
    """No class of any kind."""
