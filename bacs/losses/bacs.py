"""BACS: background-aware continual semantic segmentation, the whole method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from bacs.detector import Detector
from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.metrics import auroc_ap
from bacs.model import Model
from bacs.networks import NetworkOutput, SegmentationNetwork
from bacs.prototypes import foreground_sum
from bacs.replay import ReplayBatch
from bacs.replay_policies import POLICIES
from bacs.schema import knob

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BacsConfig:
    """Keys of ``loss=bacs``; names as in the original where it had them."""

    prototype_margin: float = knob(0.0, acts_from=1, ge=-8, le=8)
    """m, in logit units: the detector calls a pixel old foreground when its logit exceeds m (threshold sigmoid(m)).
    Larger: fewer background pixels are excluded from the background term and fewer are distilled."""
    bg_weighted_ce: bool = knob(True, acts_from=1)
    """The weighted and unbiased cross-entropy; false: plain cross-entropy."""
    seen_gamma: float = knob(2.0, acts_from=1, ge=0, le=10)
    """Focal exponent gamma of the background weight (1 - seen)^gamma."""
    seen_ukd: bool = knob(True, acts_from=1)
    """Background pixels enter the unbiased term as "background or any old class"."""
    lkd: float = knob(0.05, acts_from=1, ge=0)
    """lambda: weight of the masked feature distillation. The original's 0.25 is for steps of thousands of iterations;
    on the digits it leaves too little freedom to tell new classes apart."""
    lkd_mode: str = knob("ref", acts_from=1, choices=("ref", "l2", "cos"))
    """Distance of the distillation: the original's formula, squared L2, or 1 - cosine."""
    lkd_threshold: float | None = knob(None, acts_from=1, ge=0, lt=1)
    """Seen probability above which a background pixel is distilled; null: sigmoid(prototype_margin)."""
    buffer_size: int = knob(300, acts_from=1, ge=0)
    """M: images in the replay memory over all steps; 0: no replay."""
    buffer_policy: str = knob("class_balanced", acts_from=1, choices=tuple(POLICIES))
    replay_batch_size: int | None = knob(None, acts_from=1, ge=1)
    """Replayed images per optimisation step; null: as many as new ones."""
    alpha: float = knob(0.05, acts_from=1, ge=0)
    """Weight of the logit term of replay (DER). The original's 0.8 goes with ``logit_reduction=mean_all``."""
    beta: float = knob(0.1, acts_from=1, ge=0)
    """Weight of the label term of replay (DER++). Its mean is over old foreground alone, about a tenth of the pixels,
    so 0.1 weighs an old foreground pixel of memory like a pixel of the current step. The original: 0.5."""
    dark_plus_plus: bool = knob(True, acts_from=1)
    """Whether the label term is on."""
    ignore_rep_bg: bool = knob(True, acts_from=1)
    """Never supervise background from memory: it may hide classes of other steps."""
    logit_reduction: str = knob("mean_valid", acts_from=1, choices=("mean_valid", "mean_all"))
    """The logit term's mean: over the old foreground channels, or over all (the original; weaker as K grows)."""
    logit_distance: str = knob("mse", acts_from=1, choices=("mse", "cos"))
    detector_source: str = knob("teacher", acts_from=1, choices=("teacher", "student_eval"))
    """Whose features say what is old foreground: the frozen teacher's, or the student's in eval mode."""
    detector_channels: int | None = knob(None, ge=1)
    """Channels of the projected features; null: a quarter of the bottleneck's."""
    detector_dropout: float = knob(0.1, ge=0, lt=1)
    det_weight: float = knob(1.0, ge=0)
    """Weight of the detector's focal loss."""
    det_warmup_epochs: int = knob(0, ge=0)
    """Epochs of each step over which that weight rises linearly from 0."""
    det_lr_factor: float = knob(10.0, gt=0)
    """Factor on the learning rate of the detector's heads. Their inputs, distances of sigmoids, lie in [0, 0.5), so
    their weights must grow large before a probability leaves the middle; at factor 1 short steps end before that."""
    seen_focal_alpha: float | None = knob(None, ge=0, le=1)
    """Class balance of the focal loss; null: none."""
    prototype_decay: float = knob(0.99, gt=0, le=1)
    """Weight of the past in the prototype used during its own step; 1: the plain running mean. What later steps use
    is recomputed at the end of the step."""


class Bacs(Method):
    """Step 0: cross-entropy + detector loss. Steps >= 1: the sum of

    - ``bacs_ce``: bg-vs-fg cross-entropy, down-weighted where the teacher sees old foreground, + unbiased CE;
    - ``detector``: focal loss of the head of the current step;
    - ``distillation``: lambda x masked feature distillation against the teacher;
    - ``replay_logits``, ``replay_labels``: alpha x DER + beta x DER++ on one forward pass over a draw from memory.
    """

    Config = BacsConfig
    uses_teacher = True
    head_init = "mib_noise"
    config: BacsConfig

    def build_detector(self, network: SegmentationNetwork) -> Detector:
        c = self.config
        return Detector(network.bottleneck_channels, c.detector_channels, c.detector_dropout, c.prototype_decay)

    def parameter_groups(self, model: Model) -> list[tuple[list[nn.Parameter], float]]:
        heads = list(_required(model.detector).heads.parameters())
        chosen = {id(parameter) for parameter in heads}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
        return [(rest, 1.0), (heads, self.config.det_lr_factor)]

    @property
    def memory(self) -> tuple[int, str]:
        c = self.config
        used = c.alpha > 0 or (c.beta > 0 and c.dark_plus_plus)
        return (c.buffer_size if used else 0), c.buffer_policy

    def replay_batch_size(self, batch_size: int) -> int:
        return self.config.replay_batch_size or batch_size

    @property
    def threshold(self) -> float:
        """tau: the seen probability that the prototype margin stands for."""
        return functional.margin_to_threshold(self.config.prototype_margin)

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        if context.step == 0:
            output = context.model(batch.images)
            terms = {"cross_entropy": functional.cross_entropy(output.logits, batch.labels)}
            return terms | self._detector_term(context, batch, output, seen=None)
        output = context.model(batch.images)
        seen, taught = self._seen(context, batch)
        terms = {"bacs_ce": self._classification(context, batch, output, seen)}
        terms |= self._detector_term(context, batch, output, seen)
        if self.config.lkd > 0:
            terms["distillation"] = self.config.lkd * self._distillation(batch, output, taught, seen)
        if batch.replay is not None:
            terms |= self._replay(context, batch.replay)
        return terms

    @torch.no_grad()
    def _seen(self, context: StepContext, batch: Batch) -> tuple[Tensor, NetworkOutput]:
        """Probability (B, H, W) that a pixel is foreground of an earlier step, and the teacher's output."""
        teacher = _required(context.teacher)
        taught = teacher(batch.images)
        source, output = teacher, taught
        if self.config.detector_source == "student_eval":
            source = context.model
            source.eval()
            output = source(batch.images)
            source.train()
        detector = _required(source.detector)
        maps = detector.seen(detector.project(output.bottleneck), context.step, _size(batch.labels))
        return maps.amax(dim=1), taught

    def _classification(self, context: StepContext, batch: Batch, output: NetworkOutput, seen: Tensor) -> Tensor:
        if not self.config.bg_weighted_ce:
            return functional.cross_entropy(output.logits, batch.labels)
        return functional.bacs_cross_entropy(
            output.logits,
            batch.labels,
            seen,
            context.old_classes,
            gamma=self.config.seen_gamma,
            threshold=self.threshold,
            ukd=self.config.seen_ukd,
            keep_old_labels=context.old_labels_shown,
        )

    def _detector_term(
        self, context: StepContext, batch: Batch, output: NetworkOutput, seen: Tensor | None
    ) -> dict[str, Tensor]:
        """Focal loss of the current head: foreground of this step against the rest.

        From step 1 on only the head learns, and background pixels that earlier heads call foreground are left out:
        neither label is reliable there.
        """
        detector = _required(context.model.detector)
        bottleneck = output.bottleneck if context.step == 0 else output.bottleneck.detach()
        projected = detector.project(bottleneck)
        detector.prototypes.update(projected, batch.labels, context.step_of_class, context.step)
        background = batch.labels == 0
        if not detector.prototypes.ready(context.step) or not bool(background.any()):
            return {}
        target = (batch.labels >= max(context.old_classes, 1)) & (batch.labels != functional.IGNORE)
        counted = background | target
        if seen is not None:
            counted &= ~(background & (seen > self.threshold))
        logits = detector.logits(projected, context.step, _size(batch.labels))
        loss = functional.focal_loss(logits, target, mask=counted, alpha=self.config.seen_focal_alpha)
        return {"detector": self._detector_weight(context.epoch) * loss}

    def _detector_weight(self, epoch: int) -> float:
        warmup = self.config.det_warmup_epochs
        return self.config.det_weight * (min(1.0, (epoch + 1) / (warmup + 1)) if warmup else 1.0)

    def _distillation(self, batch: Batch, output: NetworkOutput, taught: NetworkOutput, seen: Tensor) -> Tensor:
        threshold = self.config.lkd_threshold
        old = (batch.labels == 0) & (seen > (self.threshold if threshold is None else threshold))
        student, teacher = output.features[-1], taught.features[-1]
        mask = functional.resize_mask(old, _size(student))
        return functional.masked_distillation(student, teacher, mask, self.config.lkd_mode)

    def _replay(self, context: StepContext, replay: ReplayBatch) -> dict[str, Tensor]:
        c = self.config
        output = context.model(replay.images)
        terms = {}
        if c.alpha > 0:
            terms["replay_logits"] = c.alpha * functional.dark_replay(
                output.replay_logits,
                replay.logits,
                replay.n_logits,
                ignore_background=c.ignore_rep_bg,
                reduction=c.logit_reduction,
                distance=c.logit_distance,
            )
        if c.beta > 0 and c.dark_plus_plus:
            weights = functional.replay_class_weights(context.n_classes, context.old_classes, c.ignore_rep_bg)
            labels = functional.cross_entropy(output.logits, replay.labels, class_weights=weights.to(output.logits))
            terms["replay_labels"] = c.beta * labels
        return terms

    @torch.no_grad()
    def finish_step(self, context: StepContext, batches: Iterable[Batch]) -> None:
        """Recomputes the prototype of the step with the final weights, in eval mode, over all its images."""
        detector = _required(context.model.detector)
        total, count = None, None
        for batch in batches:
            projected = detector.project(context.model(batch.images).bottleneck)
            part, n = foreground_sum(projected, batch.labels, context.step_of_class, context.step)
            total, count = (part, n) if total is None or count is None else (total + part, count + n)
        if total is not None and count is not None:
            detector.prototypes.replace(context.step, total, count)

    @torch.no_grad()
    def diagnose(self, context: StepContext, batches: Iterable[Batch]) -> dict[str, float]:
        """How well the finished detector, the next step's judge, tells all seen foreground from background."""
        detector = _required(context.model.detector)
        scores, positives = [], []
        for batch in batches:
            projected = detector.project(context.model(batch.images).bottleneck)
            seen = detector.seen(projected, context.step + 1, _size(batch.labels)).amax(dim=1)
            valid = batch.labels != functional.IGNORE
            scores.append(seen[valid].cpu())
            positives.append((batch.labels[valid] > 0).cpu())
        auroc, precision = auroc_ap(torch.cat(scores), torch.cat(positives))
        return {"detector/auroc": auroc, "detector/ap": precision}


def _size(tensor: Tensor) -> tuple[int, int]:
    return int(tensor.shape[-2]), int(tensor.shape[-1])


def _required(part: T | None) -> T:
    if part is None:
        raise AssertionError("the run gives BACS a detector, and a teacher from step 1 on")
    return part
