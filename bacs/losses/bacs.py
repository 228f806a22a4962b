"""BACS: background-aware continual semantic segmentation, the whole method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from bacs.detector import Detector
from bacs.losses import functional
from bacs.losses.base import Batch, ReplayConfig, ReplayMethod, StepContext
from bacs.losses.detection import DetectionSettings, detector_of, size_of
from bacs.networks import HEAD_INITS, NetworkOutput
from bacs.replay import ReplayBatch
from bacs.replay_policies import POLICIES
from bacs.schema import knob

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BacsConfig(ReplayConfig):
    """Keys of ``loss=bacs``; names as in the original where it had them.

    Defaults are the values of the original's released configurations, made for steps of thousands of iterations on
    512x512 crops; where it had none, what it does. What the small digit scenes need instead stands in
    ``conf/tuned/digits_bacs.yaml``, which goes with ``dataset=digits loss=bacs``.
    """

    prototype_margin: float = knob(0.0, acts_from=1, ge=-8, le=8)
    """m, in logit units: the detector calls a pixel old foreground when its logit exceeds m (threshold sigmoid(m)).
    Larger: fewer background pixels are excluded from the background term and fewer are distilled."""
    bg_weighted_ce: bool = knob(True, acts_from=1)
    """The weighted and unbiased cross-entropy; false: plain cross-entropy."""
    seen_gamma: float = knob(2.0, acts_from=1, ge=0, le=10)
    """Focal exponent gamma of the background weight (1 - seen)^gamma."""
    seen_ukd: bool = knob(True, acts_from=1)
    """Background pixels enter the unbiased term as "background or any old class"."""
    buffer_policy: str = knob("loss_balanced", acts_from=1, choices=tuple(POLICIES))
    """Which images stay when the memory is full. As in the original early steps keep most slots; its exact score:
    ``compat.loss_blind_eviction``."""
    head_init: str = knob("mib", acts_from=1, choices=HEAD_INITS)
    """How heads of new classes start where ``training.new_head_init`` leaves it to the method."""
    lkd: float = knob(0.25, acts_from=1, ge=0)
    """lambda: weight of the masked feature distillation."""
    lkd_mode: str = knob("ref", acts_from=1, choices=("ref", "l2", "cos"))
    """Distance of the distillation: the original's formula, squared L2, or 1 - cosine."""
    lkd_threshold: float | None = knob(None, acts_from=1, ge=0, lt=1)
    """Seen probability above which a background pixel is distilled; null: sigmoid(prototype_margin)."""
    alpha: float = knob(0.8, acts_from=1, ge=0)
    """Weight of the logit term of replay (DER); it goes with ``logit_reduction=mean_all``."""
    beta: float = knob(0.5, acts_from=1, ge=0)
    """Weight of the label term of replay (DER++), a mean over old foreground alone."""
    dark_plus_plus: bool = knob(True, acts_from=1)
    """Whether the label term is on."""
    ignore_rep_bg: bool = knob(True, acts_from=1)
    """Never supervise background from memory: it may hide classes of other steps."""
    logit_reduction: str = knob("mean_all", acts_from=1, choices=("mean_valid", "mean_all"))
    """The logit term's mean: over all channels (the original; weaker as K grows), or over the old foreground's."""
    logit_distance: str = knob("mse", acts_from=1, choices=("mse", "cos"))
    detector_source: str = knob("student_eval", acts_from=1, choices=("teacher", "student_eval"))
    """Whose features say what is old foreground: the student's in eval mode (the original's: in train mode,
    ``compat.train_mode_detection``), or the frozen teacher's."""
    detector_channels: int | None = knob(None, ge=1, le=8192)
    """Channels of the projected features; null: a quarter of the bottleneck's."""
    detector_dropout: float = knob(0.1, ge=0, lt=1)
    det_weight: float = knob(1.0, ge=0)
    """Weight of the detector's focal loss."""
    det_warmup_epochs: int = knob(0, ge=0, le=100_000)
    """Epochs of each step over which that weight rises linearly from 0."""
    det_lr_factor: float = knob(1.0, gt=0)
    """Factor on the learning rate of the detector's heads. Their inputs, distances of sigmoids, lie in [0, 0.5), so
    their weights must grow large before a probability leaves the middle; short steps need a factor such as 10."""
    seen_focal_alpha: float | None = knob(None, ge=0, le=1)
    """Class balance of the focal loss; null: none."""
    prototypes: str = knob("step", choices=("step", "class"))
    """What a prototype is the mean of: all foreground of a step, or a class; a head then looks for the class of its
    step that a pixel is most like."""
    prototype_decay: float = knob(1.0, gt=0, le=1)
    """Weight of the past in the prototype used during its own step; 1: the plain running mean (the original). What
    later steps use is recomputed at the end of the step."""


class Bacs(ReplayMethod):
    """Step 0: cross-entropy and the detector's loss. Steps >= 1: the sum of

    - ``bacs_ce``: bg-vs-fg cross-entropy, down-weighted where the teacher sees old foreground, + unbiased CE;
    - ``detector``: focal loss of the head of the current step;
    - ``distillation``: lambda x masked feature distillation against the teacher;
    - ``replay_logits``, ``replay_labels``: alpha x DER + beta x DER++ on one forward pass over a draw from memory.
    """

    Config = BacsConfig
    uses_teacher = True
    needs_background = True
    config: BacsConfig

    @classmethod
    def heads_start(cls, config: BacsConfig) -> str:
        return config.head_init

    @classmethod
    def has_detector(cls, config: BacsConfig, asked: bool | None) -> bool:
        return asked is not False or config.bg_weighted_ce

    def detection_settings(self) -> DetectionSettings:
        c = self.config
        return DetectionSettings(
            channels=c.detector_channels,
            dropout=c.detector_dropout,
            weight=c.det_weight,
            warmup_epochs=c.det_warmup_epochs,
            lr_factor=c.det_lr_factor,
            focal_alpha=c.seen_focal_alpha,
            prototypes=c.prototypes,
            prototype_decay=c.prototype_decay,
        )

    @property
    def draws(self) -> int:
        c = self.config
        return int(c.alpha > 0 or (c.beta > 0 and c.dark_plus_plus))

    @property
    def threshold(self) -> float:
        """tau: the seen probability that the prototype margin stands for."""
        return functional.margin_to_threshold(self.config.prototype_margin)

    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        output = context.model(batch.images)
        projected = None if self.detection is None else self.detection.observe(context, batch, output)
        taught = self._taught(context, batch)
        votes = None if projected is None else self._votes(context, batch, taught, projected)
        seen = None if votes is None else votes.amax(dim=1)
        terms = {"bacs_ce": self._classification(context, batch, output, seen)}
        terms |= self._detection(context, batch, projected, votes)
        if self.config.lkd > 0:
            terms["distillation"] = self.config.lkd * self._distillation(batch, output, taught, seen)
        if batch.replay is not None:
            terms |= self._replay(context, batch.replay)
        return terms

    @torch.no_grad()
    def _taught(self, context: StepContext, batch: Batch) -> NetworkOutput:
        return _required(context.teacher)(batch.images)

    @torch.no_grad()
    def _votes(self, context: StepContext, batch: Batch, taught: NetworkOutput, projected: Tensor) -> Tensor:
        """(B, R, H, W) probability that a pixel is foreground, of the heads of each earlier step.

        With ``compat.current_head_votes`` that of the current step comes last; only the student has it.
        """
        judge, features = self._judge(context, batch, taught, projected)
        heads = context.step
        if self.options.compat.current_head_votes:
            judge, heads = detector_of(context.model), heads + 1
        return judge.seen(features, heads, size_of(batch.labels))

    def _judge(
        self, context: StepContext, batch: Batch, taught: NetworkOutput, projected: Tensor
    ) -> tuple[Detector, Tensor]:
        """The detector that says what was seen before, and the projected features that it looks at."""
        student = context.model
        if self.options.compat.train_mode_detection:
            return detector_of(student), projected
        if self.config.detector_source == "student_eval":
            student.eval()
            features = detector_of(student).project(student(batch.images).bottleneck)
            student.train()
            return detector_of(student), features
        teacher = detector_of(_required(context.teacher))
        return teacher, teacher.project(taught.bottleneck)

    def _detection(
        self, context: StepContext, batch: Batch, projected: Tensor | None, votes: Tensor | None
    ) -> dict[str, Tensor]:
        """The detector's loss, without the background that heads of earlier steps call foreground."""
        if self.detection is None or projected is None:
            return {}
        doubted = None if votes is None else votes[:, : context.step].amax(dim=1) > self.threshold
        return self.detection.loss(context, batch, projected, doubted)

    def _classification(self, context: StepContext, batch: Batch, output: NetworkOutput, seen: Tensor | None) -> Tensor:
        if not self.config.bg_weighted_ce or seen is None:
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
            denominator="all" if self.options.compat.all_pixel_mean else "valid",
        )

    def _distillation(self, batch: Batch, output: NetworkOutput, taught: NetworkOutput, seen: Tensor | None) -> Tensor:
        """On background that the detector calls old foreground; on all background where there is no detector."""
        old = batch.labels == 0
        if seen is not None:
            threshold = self.config.lkd_threshold
            old = old & (seen > (self.threshold if threshold is None else threshold))
        student, teacher = output.features[-1], taught.features[-1]
        mask = functional.resize_mask(old, size_of(student))
        return functional.masked_distillation(student, teacher, mask, self.config.lkd_mode)

    def _replay(self, context: StepContext, replay: ReplayBatch) -> dict[str, Tensor]:
        c = self.config
        output = context.model(replay.images)
        labelled = output if replay.label_images is None else context.model(replay.label_images)
        terms = {}
        if c.alpha > 0:
            terms["replay_logits"] = c.alpha * functional.dark_replay(
                output.replay_logits,
                replay.logits,
                replay.n_logits,
                ignore_background=c.ignore_rep_bg,
                reduction=c.logit_reduction,
                distance=c.logit_distance,
                one_per_count=self.options.compat.single_transplant,
            )
        if c.beta > 0 and c.dark_plus_plus:
            weights = functional.replay_class_weights(context.n_classes, context.old_classes, c.ignore_rep_bg)
            labels = functional.cross_entropy(labelled.logits, replay.labels, class_weights=weights.to(output.logits))
            terms["replay_labels"] = c.beta * labels
        return terms


def _required(part: T | None) -> T:
    if part is None:
        raise AssertionError("the run gives BACS a teacher from step 1 on")
    return part
