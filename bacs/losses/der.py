"""DER, dark experience replay (Buzzega et al., NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.replay import ReplayBatch
from bacs.replay_policies import POLICIES
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class DerConfig:
    """Keys of ``loss=der``."""

    buffer_size: int = knob(300, acts_from=1, ge=0)
    """M: images in the replay memory over all steps; 0: no replay."""
    buffer_policy: str = knob("reservoir", acts_from=1, choices=tuple(POLICIES))
    """As published: every image ever offered stays with the same probability."""
    replay_batch_size: int | None = knob(None, acts_from=1, ge=1)
    """Replayed images per optimisation step; null: as many as new ones."""
    alpha: float = knob(0.3, acts_from=1, ge=0)
    """Weight of the squared error. The authors' code asks for it and ships 0.3 for Split CIFAR-100 with 500 images."""
    ignore_rep_bg: bool = knob(False, acts_from=1)
    """Leave the background's logit free on remembered images, as BACS does: what was background when an image was
    stored may be a class by now. (Streams of domains have no background, and nothing is left out.)"""


class DarkReplay(Method):
    """Step 0: cross-entropy. Steps >= 1: the sum of

    - ``cross_entropy``: over all classes seen, on the images of the step;
    - ``replay_logits``: alpha x the squared error between the logits of a draw from memory and those it was stored
      with, mean over the logits that were stored. Logits of classes that came later are left free.

    No teacher.
    """

    Config = DerConfig
    config: DerConfig

    @property
    def memory(self) -> tuple[int, str]:
        return (self.config.buffer_size if self.config.alpha > 0 else 0), self.config.buffer_policy

    def replay_batch_size(self, batch_size: int) -> int:
        return self.config.replay_batch_size or batch_size

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
        if self.detection is not None:
            terms |= self.detection.term(context, batch, output, doubted=None)
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
