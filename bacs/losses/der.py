"""DER, dark experience replay (Buzzega et al., NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, ReplayConfig, ReplayMethod, StepContext
from bacs.replay import ReplayBatch
from bacs.replay_policies import POLICIES
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class DerConfig(ReplayConfig):
    """Keys of ``loss=der``."""

    buffer_policy: str = knob("reservoir", acts_from=1, choices=tuple(POLICIES))
    """As published: every image ever offered stays with the same probability."""
    alpha: float = knob(0.3, acts_from=1, ge=0)
    """Weight of the squared error. The authors' code asks for it and ships 0.3 for Split CIFAR-100 with 500 images."""
    ignore_rep_bg: bool = knob(False, acts_from=1)
    """Leave the background's logit free on remembered images, as BACS does: what was background when an image was
    stored may be a class by now. (Streams of domains have no background, and nothing is left out.)"""


class DarkReplay(ReplayMethod):
    """Step 0: cross-entropy. Steps >= 1: the sum of

    - ``cross_entropy``: over all classes seen, on the images of the step;
    - ``replay_logits``: alpha x the squared error between the logits of a draw from memory and those it was stored
      with, mean over the logits that were stored. Logits of classes that came later are left free.

    No teacher.
    """

    Config = DerConfig
    config: DerConfig

    @property
    def draws(self) -> int:
        return int(self.config.alpha > 0)

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
        terms |= self.detector_term(context, batch, output)
        if batch.replay is not None:
            terms["replay_logits"] = self.config.alpha * self._replay(context, batch.replay)
        return terms

    def _replay(self, context: StepContext, replay: ReplayBatch) -> Tensor:
        return functional.dark_replay(
            context.model(replay.images).replay_logits,
            replay.logits,
            replay.n_logits,
            ignore_background=self.config.ignore_rep_bg and context.has_background,
            reduction="mean_valid",
        )
