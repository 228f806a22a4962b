"""PLOP: learning without forgetting for continual semantic segmentation (Douillard et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bacs.distributed import sum_over_ranks
from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.networks import NetworkOutput
from bacs.schema import knob

BINS, OFFICIAL_BINS = 10_000, 100
"""Of the histograms in which medians are searched. Most predictions are almost certain: fine bins tell them apart."""


@dataclass(frozen=True, kw_only=True)
class PLOPConfig:
    """Keys of ``loss=plop``."""

    pod_weight: float = knob(0.01, acts_from=1, ge=0)
    """Weight of the pooled distillation of the features. The published 0.01 is for steps of thousands of iterations: in
    400 on the digits the term ends at four times the cross-entropy, and new classes learn little."""
    pod_logits_weight: float = knob(0.0005, acts_from=1, ge=0)
    """The same for the logits."""
    entropy_floor: float = knob(0.001, acts_from=1, ge=0, le=1)
    """Smallest threshold: predictions of less entropy, as a share of the largest possible one, are always believed."""
    adaptive_factor: bool = knob(True, acts_from=1)
    """Weigh the cross-entropy of an image by the share of its background of which the teacher is certain."""


class PLOP(Method):
    """Step 0: cross-entropy. Steps >= 1: the sum of

    - ``pseudo_ce``: cross-entropy after the teacher has labelled the background: with its prediction (which may be
      background) where its entropy is below the median of that class, as left out where it is not. The medians are
      taken before the step over all its images;
    - ``pod``: all features and logits, squared and pooled over strips of several sizes, are held at the teacher's;
      times sqrt(K / n), K logits of which n are new.

    New classes start as copies of the background's head (``training.new_head_init=mib``), as in MiB. The
    official code, in which medians are none: ``compat.plop_official``.
    """

    Config = PLOPConfig
    uses_teacher = True
    needs_background = True
    head_init = "mib"
    config: PLOPConfig
    _thresholds: Tensor | None = None
    """(O,) entropy below which the teacher's prediction of a class is believed."""

    @property
    def official(self) -> bool:
        return self.options.compat.plop_official

    def begin_step(self, context: StepContext, batches: Iterable[Batch]) -> None:
        n_bins = OFFICIAL_BINS if self.official else BINS
        device = next(context.model.parameters()).device
        histogram = torch.zeros(context.old_classes, n_bins, dtype=torch.int64, device=device)
        for batch in batches:
            score, predicted = self._judge(context, context.taught(batch.images).logits)
            background = batch.labels == 0
            histogram += functional.score_histogram(score, predicted, background, context.old_classes, n_bins)
        medians = functional.histogram_median(sum_over_ranks(histogram), official=self.official)
        if not self.official:
            # Pixels of flat areas share one entropy: up to the end of the bin, so that all of them are on one side.
            medians = (medians * n_bins).ceil() / n_bins
        self._thresholds = medians.clamp(min=self.config.entropy_floor)

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        taught = context.taught(batch.images)
        terms = {
            "pseudo_ce": self._classification(context, batch, output.logits, taught.logits),
            "pod": self._pod(context, output, taught),
        }
        terms |= self.detector_term(context, batch, output)
        return terms

    def _judge(self, context: StepContext, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W) doubt in [0, 1] and (B, H, W) class of the teacher's prediction."""
        score = functional.prediction_entropy(teacher_logits, class_mean=self.official)
        if self.official:  # normalised a second time, by what the entropy of all classes could be
            score = score / math.log(context.n_classes)
        return score, teacher_logits.argmax(dim=1)

    def _classification(self, context: StepContext, batch: Batch, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        assert self._thresholds is not None, "begin_step comes first"
        score, predicted = self._judge(context, teacher_logits)
        certain = score < self._thresholds.to(score)[predicted]
        # The official code overrules annotated old classes too, which only the sequential mode has.
        replaced = batch.labels < context.old_classes if self.official else batch.labels == 0
        completed = functional.confident_labels(batch.labels, predicted, certain, replaced)
        factors = functional.certain_share(certain, replaced, official=self.official)
        return functional.completed_cross_entropy(
            logits,
            completed,
            factors if self.config.adaptive_factor else torch.ones_like(factors),
            batch.labels,
            denominator="all" if self.official or self.options.compat.all_pixel_mean else "valid",
        )

    def _pod(self, context: StepContext, output: NetworkOutput, taught: NetworkOutput) -> Tensor:
        # Of a network that normalises its logits over the classes, only the replay logits outlive a new class.
        student = functional.collapse_new_classes(output.replay_logits, context.old_classes)
        weights = [self.config.pod_weight] * len(output.features) + [self.config.pod_logits_weight]
        loss = functional.pod_distillation(
            [*output.features, student], [*taught.features, taught.replay_logits], weights
        )
        return math.sqrt(context.n_classes / (context.n_classes - context.old_classes)) * loss
