"""The data of a run, step by step: what is trained on, validated on and tested on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bacs.config import RunConfig
from bacs.data import (
    DomainSplit,
    Scenes,
    SceneSet,
    SegmentationData,
    StepView,
    TaskSplit,
    normalise,
    parse_domains,
    parse_split,
)
from bacs.distributed import rank, world_size
from bacs.errors import RequestError
from bacs.loading import Pick, Readable, read_batches, worker_count
from bacs.losses.base import Batch
from bacs.precision import Numerics
from bacs.randomness import derive_seed, epoch_order, generator
from bacs.training_config import DEBUG_IMAGES, SWEEP_SHARE, TrainingConfig

_NAMES_SHOWN = 10


class Stream:
    """Views of a dataset under a task split. Images are normalised and put on the device batch by batch.

    Where several ranks train together, each gets its share of every training batch, and its share of the batches that
    are read in order.
    """

    def __init__(self, config: RunConfig, data: SegmentationData, numerics: Numerics) -> None:
        training = config.training
        self.data = data
        self.numerics = numerics
        self.training = training
        asked = _split(training, data)
        joint = training.mode == "joint"
        self.base_classes = asked.heads[0]
        """Foreground classes that count as base in the metrics: those of the split's first step, in joint mode too."""
        self.split = asked.joint() if joint else asked
        self.mode = "overlap" if joint else training.mode
        self._absent_counts = config.compat.absent_classes_score_zero
        in_memory = isinstance(data.train, SceneSet)
        self._workers = worker_count(training.num_workers, in_memory, numerics.threads)
        self._check_not_empty()

    @property
    def by_domain(self) -> bool:
        return isinstance(self.split, DomainSplit)

    def lengths(self) -> list[list[int]]:
        """Optimisation steps of each epoch, for each continual step."""
        return [self.training.lengths(step, count, self.split.heads[step]) for step, count in enumerate(self.counts())]

    def counts(self) -> list[int]:
        """Training images of each continual step."""
        return [len(self.training_view(step)) for step in range(self.split.n_steps)]

    @property
    def notes(self) -> list[str]:
        """One on the classes of which nothing can be learned, chosen by or measured; none where every set has all."""
        found: list[str] = []
        for subset, word in (("test", "test"), ("val", "held-out"), ("train", "training")):
            scenes: Scenes = getattr(self.data, subset)
            absent = np.flatnonzero(~scenes.presence.any(axis=0))
            names = [self._name_of_id(int(class_id)) for class_id in absent if self.by_domain or class_id]
            if len(scenes) == 0:
                found.append(f"no {word} image at all")
            elif names:
                found.append(
                    f"no {word} pixel of {', '.join(names[:_NAMES_SHOWN])}{', ...' * (len(names) > _NAMES_SHOWN)}"
                )
        fate = "counts as 0 in every mean" if self._absent_counts else "is left out of every mean"
        return [f"{'; '.join(found)}: the IoU of a class without a pixel {fate}"] if found else []

    def _name_of_id(self, class_id: int) -> str:
        return self.data.class_names[class_id if self.by_domain else class_id - 1]

    def training_view(self, step: int) -> StepView:
        view = StepView(self.data.train, self.split, step, mode=self.mode, purpose="train")
        if not self.training.sweep:
            return view
        count = max(1, round(SWEEP_SHARE * len(view)))
        rng = generator(self.training.seed, "sweep", step)
        return view.only(np.sort(rng.choice(len(view), size=count, replace=False)))

    def seen_view(self, subset: str, step: int) -> StepView:
        """``val`` or ``test`` images that show a class of steps 0..step, with the labels of all those classes.

        In a stream of domains: the images of the domains of ``step``.
        """
        view = StepView(getattr(self.data, subset), self.split, step, mode=self.mode, purpose="seen")
        return view.only(np.arange(min(DEBUG_IMAGES, len(view)))) if self.training.debug else view

    def class_name(self, label: int) -> str:
        """The name of an internal label."""
        return self.split.label_name(label, self.data.class_names)

    def shuffled(self, view: StepView, n_batches: int, batch_size: int, step: int, epoch: int) -> Iterator[Batch]:
        """This rank's share of the batches of one epoch.

        Order and crops are functions of (seed, step, epoch, place in the epoch), whatever the number of ranks.
        """
        place = (self.training.seed, step, epoch)
        order = epoch_order(len(view), n_batches * batch_size, *place)
        draws = np.array([derive_seed("augment", *place, i) for i in range(len(order))], dtype=np.int64)
        picks: list[Pick] = []
        for start in range(0, len(order), batch_size):
            mine = slice(start + rank(), start + batch_size, world_size())
            picks.append((order[mine], draws[mine]))
        yield from self._batches(view, picks)

    def in_order(self, view: Readable, batch_size: int) -> Iterator[Batch]:
        """Every image once, in its deterministic view, shared out over the ranks."""
        starts = range(0, len(view), batch_size)[rank() :: world_size()]
        yield from self._batches(view, [(np.arange(s, min(s + batch_size, len(view))), None) for s in starts])

    def whole(self, view: StepView) -> Iterator[Batch]:
        """Every image once at its original size, one at a time, shared out over the ranks."""
        for position in range(rank(), len(view), world_size()):
            image, labels = view.whole(position)
            yield Batch(self.to_device(image), labels.to(self.numerics.device))

    def batch(self, view: StepView, positions: np.ndarray) -> Batch:
        """The given images, in their deterministic view, whatever the rank."""
        images, labels = view.batch(positions)
        return Batch(self.to_device(images), labels.to(self.numerics.device))

    def to_device(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> normalised float32 on the device, channels last."""
        ready = normalise(images.to(self.numerics.device, non_blocking=True), self.data.mean, self.data.std)
        return ready.to(memory_format=torch.channels_last)

    def _batches(self, view: Readable, picks: list[Pick]) -> Iterator[Batch]:
        on_gpu = self.numerics.device.type == "cuda"
        for images, labels in read_batches(view, picks, self._workers, on_gpu):
            yield Batch(self.to_device(images), labels.to(self.numerics.device, non_blocking=True))

    def _check_not_empty(self) -> None:
        for step in range(self.split.n_steps):
            if len(self.training_view(step)) == 0:
                raise RequestError.of(
                    "training.split",
                    f"is {self.split.name}, but no training image falls into step {step} in mode {self.mode}",
                    "choose another split or mode, or more training images",
                )


def _split(training: TrainingConfig, data: SegmentationData) -> TaskSplit:
    shuffle, seed = training.shuffle_classes, training.seed
    if data.domains:
        return parse_domains(training.split, data.domains, len(data.class_names), shuffle=shuffle, seed=seed)
    return parse_split(training.split, data.class_names, shuffle=shuffle, seed=seed)
