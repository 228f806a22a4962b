"""What a method (``loss=...``) is to the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bacs.compat import CompatConfig
from bacs.losses.detection import Detection, DetectionSettings
from bacs.model import MethodState, Model
from bacs.networks import NetworkOutput, SegmentationNetwork
from bacs.replay import ReplayBatch
from bacs.replay_policies import POLICIES
from bacs.schema import knob


@dataclass(frozen=True, slots=True)
class Batch:
    """One optimisation step's data, on the device."""

    images: Tensor
    """(B, C, H, W) normalised images of the current step."""
    labels: Tensor
    """(B, H, W) internal labels; 0 background, 255 ignored."""
    replay: ReplayBatch | None = None
    """A draw from the memory with normalised images; ``None`` in step 0 and for methods without memory."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """Where the run stands and with which models. The teacher is ``None`` in step 0."""

    step: int
    epoch: int
    epochs: int
    model: Model
    teacher: Model | None
    n_classes: int
    """K: logits, background included."""
    old_classes: int
    """O: logits of the teacher, background included; 0 in step 0."""
    step_of_class: np.ndarray
    """(K,) the step of each internal label, -1 for background."""
    old_labels_shown: bool
    """Whether labels of earlier steps are annotated too (mode ``sequential``)."""

    @property
    def has_background(self) -> bool:
        """Whether label 0 is background; in streams of domains it is a class like any other."""
        return bool(self.step_of_class[0] < 0)

    @torch.no_grad()
    def taught(self, images: Tensor) -> NetworkOutput:
        """What the teacher makes of images; there is one from step 1 on, for methods that use it."""
        if self.teacher is None:
            raise AssertionError("the run gives methods that use a teacher one from step 1 on")
        return self.teacher(images)


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """What other groups of the configuration ask of a method."""

    bg_detector: bool | None = None
    """``training.bg_detector``."""
    compat: CompatConfig = field(default_factory=CompatConfig)


class Method(ABC):
    """Composes the functional losses; holds settings and what `begin_step` derives, never weights or history."""

    Config: ClassVar[type]
    uses_teacher: ClassVar[bool] = False
    """Whether steps >= 1 need the frozen model of the step before."""

    head_init: ClassVar[str] = "random"
    """How heads of new classes start where :meth:`heads_start` is not overridden."""

    plain_step_0: ClassVar[bool] = True
    """Whether step 0 is plain cross-entropy and the detector's term. Then `bacs.losses.crossentropy` trains it, nothing
    of the method's own is called there, and all such methods share it. A method with terms or a state of its own in
    step 0 sets it to false; its ``terms`` are then called in every step."""

    needs_background: ClassVar[bool] = False
    """Whether its terms treat label 0 as background; if so it cannot run on streams of domains, which have none."""

    def __init__(self, config: Any, options: MethodOptions | None = None) -> None:
        self.config = config
        self.options = options or MethodOptions()
        wanted = self.has_detector(config, self.options.bg_detector)
        self.detection = Detection(self.detection_settings(), self.options.compat) if wanted else None
        """Trains the detector beside the network; ``None`` where there is none."""

    @classmethod
    def heads_start(cls, config: Any) -> str:
        """How heads of new classes start unless ``training.new_head_init`` says otherwise."""
        return cls.head_init

    @classmethod
    def has_detector(cls, config: Any, asked: bool | None) -> bool:
        """Whether a detector is trained, given ``training.bg_detector``."""
        return bool(asked)

    def detection_settings(self) -> DetectionSettings:
        return DetectionSettings()

    def build_state(self, network: SegmentationNetwork) -> MethodState | None:
        """Statistics of the method's own that live across steps; ``context.model.state`` while it runs."""
        return None

    def begin_step(self, context: StepContext, batches: Iterable[Batch]) -> None:
        """Called before the first epoch of a step >= 1, without gradients, with this rank's images in order.

        Called again when a run resumes in mid-step, with the model and the teacher as they were then.
        """

    @abstractmethod
    def terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name; their sum is what is minimised. Called in steps >= 1, and in step 0
        where ``plain_step_0`` is false."""

    def detector_term(self, context: StepContext, batch: Batch, output: NetworkOutput) -> dict[str, Tensor]:
        """What the detector adds to the loss of a method that does not ask it; nothing where there is none."""
        return {} if self.detection is None else self.detection.term(context, batch, output, doubted=None)

    def parameter_groups(self, model: Model) -> list[tuple[list[nn.Parameter], float]]:
        """(parameters, factor on the learning rate) of everything that is trained; frozen parameters are left out."""
        if self.detection is not None:
            return self.detection.parameter_groups(model)
        return [(list(model.parameters()), 1.0)]

    @property
    def memory(self) -> tuple[int, str]:
        """(capacity in images, policy) of the replay memory; capacity 0: none."""
        return 0, "reservoir"

    def replay_batch_size(self, batch_size: int) -> int:
        """Images drawn from the memory per optimisation step, over all ranks."""
        return batch_size

    def finish_step(self, context: StepContext, batches: Iterable[Batch]) -> None:
        """Called once after the last epoch of a step, in eval mode, with this rank's share of its images in order."""
        if self.detection is not None:
            self.detection.finish_step(context, batches)

    def diagnose(self, context: StepContext, batches: Iterable[Batch]) -> dict[str, float]:
        """Extra metrics of a finished step on the validation images with the labels of all classes seen."""
        return {} if self.detection is None else self.detection.diagnose(context, batches)


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Keys of every method with a memory."""

    buffer_size: int = knob(300, acts_from=1, ge=0, le=10**7)
    """M: images in the replay memory over all steps; 0: no replay."""
    buffer_policy: str = knob("class_balanced", acts_from=1, choices=tuple(POLICIES))
    """Which images stay when the memory is full."""
    replay_batch_size: int | None = knob(None, acts_from=1, ge=1, le=16_384)
    """Images of each draw from memory per optimisation step; null: as many as new ones."""


class ReplayMethod(Method):
    """A method that draws images from memory in steps >= 1."""

    config: ReplayConfig

    @property
    @abstractmethod
    def draws(self) -> int:
        """Draws from memory per optimisation step; 0: its settings need no memory."""

    @property
    def memory(self) -> tuple[int, str]:
        return (self.config.buffer_size if self.draws else 0), self.config.buffer_policy

    def replay_batch_size(self, batch_size: int) -> int:
        return self.draws * (self.config.replay_batch_size or batch_size)
