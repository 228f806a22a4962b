"""Experience replay: cross-entropy on new images and, apart, on remembered ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bacs.losses import functional
from bacs.losses.base import Batch, ReplayConfig, ReplayMethod, StepContext
from bacs.replay import ReplayBatch
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class ErConfig(ReplayConfig):
    """Keys of ``loss=er``."""

    alpha: float = knob(1.0, acts_from=1, ge=0)
    """Weight of the cross-entropy on remembered images."""
    ignore_rep_bg: bool = knob(True, acts_from=1)
    """Read only the old classes of a remembered image: its background may hide classes of other steps. False: every
    label, as the digit notebook does (which says that its memory collapses under the contradictions)."""


class ExperienceReplay(ReplayMethod):
    """Step 0: cross-entropy. Steps >= 1: the sum of

    - ``cross_entropy``: over all classes seen, on the images of the step;
    - ``replay_labels``: alpha x the same on a draw from memory, with the labels of its own step. Its mean is over the
      pixels of old classes alone, or over all with ``ignore_rep_bg=false``.

    No teacher.
    """

    Config = ErConfig
    config: ErConfig

    @property
    def draws(self) -> int:
        return int(self.config.alpha > 0)

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
        terms |= self.detector_term(context, batch, output)
        if batch.replay is not None:
            terms["replay_labels"] = self.config.alpha * self._replay(context, batch.replay)
        return terms

    def _replay(self, context: StepContext, replay: ReplayBatch) -> Tensor:
        images = replay.images if replay.label_images is None else replay.label_images
        logits = context.model(images).logits
        if not self.config.ignore_rep_bg:
            return functional.cross_entropy(logits, replay.labels)
        weights = functional.replay_class_weights(context.n_classes, context.old_classes, context.has_background)
        return functional.cross_entropy(logits, replay.labels, class_weights=weights.to(logits.device))
