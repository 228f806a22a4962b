"""The staged run: trains all continual steps of one configuration and tells what happens as events.

It never logs, prints or saves by itself; whoever drives it does. At every :class:`EpochEnded` and :class:`StepEnded`
the driver may take a :meth:`ContinualRun.snapshot`; a run that restores it goes on bit by bit as if never interrupted.
Where several ranks train together, every one of them runs the same events with its share of the images.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bacs.building import build_method, build_model, method_at
from bacs.checkpoints import Snapshot
from bacs.compat import absent_iou
from bacs.config import RunConfig
from bacs.data import SegmentationData, StepView
from bacs.distributed import gathered, rank, world_size
from bacs.errors import RequestError
from bacs.evaluation import Evaluator, Scores
from bacs.events import EpochEnded, Event, Point, RunEnded, StepEnded
from bacs.fit import fit_faults, smallest_batch
from bacs.losses.base import Batch, StepContext
from bacs.media import Media
from bacs.metrics import domain_metrics, final_metrics, step_metrics
from bacs.micro_batches import pieces
from bacs.model import Model
from bacs.model_record import ModelRecord
from bacs.networks import TOKEN_INITS, synced
from bacs.ood import OodTest
from bacs.optimisation import StepOptimizer
from bacs.precision import set_up_numerics
from bacs.randomness import seed_everything
from bacs.remembering import Remembering, recall
from bacs.replay import ReplayMemory
from bacs.report import History
from bacs.stopwatch import Stopwatch
from bacs.stream import Stream


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


class ContinualRun:
    """One configuration on one dataset, from step 0 to the last."""

    def __init__(self, config: RunConfig, data: SegmentationData | None = None) -> None:
        """Args: data: the dataset, if it is already open; else it is opened (and, if need be, made) here."""
        training = config.training
        self.config = config
        self.numerics = set_up_numerics(
            training.device,
            training.mixed_precision,
            training.threads,
            allow_tf32=training.allow_tf32,
            local_rank=rank(),
        )
        self.data = data if data is not None else config.dataset.factory(config.dataset.settings)
        self.stream = Stream(config, self.data, self.numerics)
        self.split = self.stream.split
        self.evaluator = Evaluator(self.stream, training.eval_batch_size, absent_iou(config.compat))
        self.media = Media(self.stream, self.evaluator)
        self.ood = OodTest(config.ood, self.stream) if config.ood is not None else None
        self.method = build_method(config.loss, training, config.compat)
        self._lengths = self.stream.lengths()
        if faults := fit_faults(config, self.data, smallest_batch(training, self.stream.counts())):
            raise RequestError(faults)
        seed_everything(training.seed, "network")
        self.model = build_model(config.network, self.method, self.data.channels, config.compat)
        self.teacher: Model | None = None
        capacity, policy = self.method.memory
        self.memory = ReplayMemory(
            capacity, policy, training.seed, batch_size=training.batch_size, compat=config.compat
        )
        self.points: list[Point] = []
        """Every metric so far, in order; survives in snapshots."""
        self._optimizer: StepOptimizer | None = None
        self._place = (0, 0)  # step and finished epochs in it
        self._tested: list[Scores] = []
        self._validated: list[Scores] = []
        self._validated_epoch: Scores | None = None  # of the model as it is, if this process has measured it
        self._clock = Stopwatch()  # of the step under way
        self._late_points: list[Point] = []  # of the step before, told with the next event

    # ------------------------------------------------------------------ the course of a run

    def events(self) -> Iterator[Event]:
        """Trains whatever is not done yet."""
        for step in range(self._place[0], self.split.n_steps):
            yield from self._step(step)
        yield RunEnded(self._final())

    def _step(self, step: int) -> Iterator[Event]:
        if self._place[1] == 0:
            self._begin_step(step)
        epochs = len(self._lengths[step])
        view = self.stream.training_view(step)
        for epoch in range(self._place[1], epochs):
            with self._clock.running():
                points = self._late_points + self._epoch(step, epoch, view)
            self._place, self._late_points = (step, epoch + 1), []
            self.points += points
            yield EpochEnded(step, epoch + 1, epochs, self._epochs_before(step) + epoch + 1, self.epochs_total, points)
        ended = self._end_step(step, view)
        yield from self.media.pictures(step, self.model, self._tested)
        yield ended

    def _begin_step(self, step: int) -> None:
        """Memory of the step before, teacher, new heads, a new optimizer."""
        training = self.config.training
        self._clock = Stopwatch()
        if step > 0 and not self.config.compat.train_mode_collection:
            with self._clock.running():
                self._to_device()
                self._remember(step - 1)
            self._late_points = self._points_at(step - 1, self._memory_metrics())
        self.method = method_at(self.config, step)
        seed_everything(training.seed, "grow", step)
        if step > 0:
            self.teacher = self.model.snapshot() if self.method.uses_teacher else None
            self.memory.grow_logits(self.split.classes_seen(step))
        self.model.grow(self.split.heads[step], self._growth_init())
        if world_size() > 1:
            self.model = synced(self.model)
        self._to_device()
        self._optimizer = StepOptimizer(self.config, self.method, self.model, step, self._lengths[step])
        self.media.begin_step(step, self.model, self._lengths[step])
        if step > 0:
            view, size = self.stream.training_view(step), training.eval_batch_size
            with self.numerics.autocast(), torch.no_grad():
                self.method.begin_step(self._context(step, 0), self.stream.in_order(view, size))

    def _to_device(self) -> None:
        self.model.to(self.numerics.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _remember(self, step: int) -> None:
        """Offers the images of a finished step to the memory, with the model as it was then.

        That is done at the beginning of the next step, so that no outcome of a step depends on the room there is for
        its images. (Under ``compat.train_mode_collection`` it changes the model, so there it belongs to the step.)
        """
        if self.memory.capacity == 0:
            return
        self.model.eval()
        view, size = self.stream.training_view(step), self.config.training.eval_batch_size
        Remembering(self.stream, self.model, view, step, size, self.config.compat).fill(self.memory)

    def _memory_metrics(self) -> dict[str, float]:
        return {"replay/items": float(len(self.memory)), "replay/mb": self.memory.megabytes}

    def _growth_init(self) -> str:
        if self.model.network.growth_inits == TOKEN_INITS:
            return self.config.training.new_token_init
        return self.config.training.new_head_init or self.method.heads_start(self.method.config)

    def _epoch(self, step: int, epoch: int, view: StepView) -> list[Point]:
        training = self.config.training
        seed_everything(training.seed, "epoch", step, epoch, *([rank()] if rank() else []))
        self.model.train()
        self._validated_epoch = None
        context = self._context(step, epoch)
        optimizer = self._optimizer_of_step()
        start, n_iterations = sum(self._lengths[step][:epoch]), self._lengths[step][epoch]
        n_batches = n_iterations * training.accumulate_gradients
        sums: dict[str, Tensor] = {}
        batches = self.stream.shuffled(view, n_batches, self._batch_size(view), step, epoch)
        for i, batch in enumerate(batches):
            iteration, part = divmod(i, training.accumulate_gradients)
            if part == 0:
                optimizer.begin(epoch, iteration)
            for name, value in self._add(context, self._with_replay(batch, step, epoch, i)).items():
                sums[name] = sums[name] + value if name in sums else value
            if part + 1 == training.accumulate_gradients:
                optimizer.finish()
                self.media.trained(start + iteration + 1, self.model)
        means = self._means(sums, n_batches)
        if not math.isfinite(means["train/loss"]):
            raise DivergedError(f"the loss of step {step}, epoch {epoch} is not finite: {means}")
        means["lr"] = optimizer.lr
        means |= self.media.end_epoch()
        if (epoch + 1) % training.val_every == 0 or epoch + 1 == len(self._lengths[step]):
            validated = self.evaluator.measure(self.model, "val", step)
            self.media.measured(step, epoch + 1, validated)
            means["val/miou"] = self._mean_iou(validated)
            self._validated_epoch = validated
        return self._points_at(self._epochs_before(step) + epoch + 1, means)

    def _add(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        """Adds the gradient of a batch, piece by piece; the terms of its loss."""
        sums: dict[str, Tensor] = {}
        for piece, share in pieces(batch, self._n_pieces(batch)):
            terms = self._terms(context, piece)
            self._optimizer_of_step().add(terms, share)
            for name, term in terms.items():
                value = share * term.detach().float()
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _terms(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        with self.numerics.autocast():
            return self.method.terms(context, batch)

    def _end_step(self, step: int, view: StepView) -> StepEnded:
        with self._clock.running():
            extra = self._finish(step, view)
        extra |= self.media.step_metrics(step, self.model)
        extra |= self.ood.measure(self.model, step) if self.ood is not None else {}
        points = self._step_points(step, extra)
        self.points += points
        self._place, self._optimizer = (step + 1, 0), None
        names = dict(zip(self.class_names, self._tested[step].iou, strict=False))
        return StepEnded(step, self.split.n_steps, names, points)

    def _finish(self, step: int, view: StepView) -> dict[str, float]:
        """What belongs to the step itself: the detector's prototype, the scores."""
        self.model.eval()
        context = self._context(step, len(self._lengths[step]))
        size = self.config.training.eval_batch_size
        with self.numerics.autocast(), torch.no_grad():
            self.method.finish_step(context, self.stream.in_order(view, size))
            extra = self.method.diagnose(context, self.stream.in_order(self.stream.seen_view("val", step), size))
        if step + 1 < self.split.n_steps and self.config.compat.train_mode_collection:
            self._remember(step)
            self._validated_epoch = None  # the running statistics have moved
        self._tested.append(self.evaluator.measure(self.model, "test", step))
        self._validated.append(self._validated_epoch or self.evaluator.measure(self.model, "val", step))
        self.media.measured(step, None, self._tested[step])
        return extra

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> Snapshot:
        """The state at the last event. Tensors are those of the run, not copies: save before going on."""
        step, epoch = self._place
        meta = {
            "tested": [dataclasses.asdict(scores) for scores in self._tested],
            "validated": [dataclasses.asdict(scores) for scores in self._validated],
            "points": [list(point) for point in self.points],
            "clock": dataclasses.asdict(self._clock),
            "model": self.record.state(),
            **self.media.state(),
        }
        if epoch == 0:
            tensors: dict[str, Any] = {"model": self.model.state_dict(), "memory": self.memory.state_dict()}
            return Snapshot(step - 1, None, tensors, meta)
        optimizer = self._optimizer_of_step().state_dict()
        return Snapshot(step, epoch, {"model": self.model.state_dict(), "optimizer": optimizer}, meta)

    def restore(self, snapshots: list[Snapshot]) -> None:
        """Goes to where the snapshots were taken: a finished step, an epoch in the first step, or one after the other.

        Must be called before :meth:`events`.
        """
        for snapshot in snapshots:
            if snapshot.epoch is None:
                self._restore_stage(snapshot)
            else:
                self._begin_step(snapshot.step)
                self.model.load_state_dict(snapshot.tensors["model"])
                self._optimizer_of_step().load_state_dict(snapshot.tensors["optimizer"])
                self._place, self._late_points = (snapshot.step, snapshot.epoch), []
            self._restore_meta(snapshot.meta)

    def _restore_stage(self, snapshot: Snapshot) -> None:
        for step in range(snapshot.step + 1):
            self.model.grow(self.split.heads[step], "random")
        self.model.load_state_dict(snapshot.tensors["model"])
        self.memory.load_state_dict(snapshot.tensors["memory"])
        self._place = (snapshot.step + 1, 0)

    def _restore_meta(self, meta: dict[str, Any]) -> None:
        self._tested = [Scores(**scores) for scores in meta["tested"]]
        self._validated = [Scores(**scores) for scores in meta["validated"]]
        self.points = [Point(*point) for point in meta["points"]]
        self._clock = Stopwatch(**meta["clock"])
        self.media.restore(meta)

    # ------------------------------------------------------------------ measuring

    def history(self) -> History:
        """What has been measured in the steps that are finished."""
        ended = self.steps_done == self.split.n_steps
        final = self._final() if ended else {}
        return History(
            self.config,
            self.split,
            self.class_names,
            self._tested,
            self.points,
            final,
            self.media.frames,
            self.stream.notes,
        )

    def _final(self) -> dict[str, float]:
        """After the last step."""
        final = final_metrics([self._metrics(self._tested, step) for step in range(self.split.n_steps)])
        final["final/val_miou"] = self._metrics(self._validated, self.split.n_steps - 1)["miou/all"]
        return {name: value for name, value in final.items() if not math.isnan(value)}

    def _means(self, sums: dict[str, Tensor], n_batches: int) -> dict[str, float]:
        """Terms of the loss over the epoch: the mean over the batches and over the ranks."""
        everyone = gathered({name: float(value) / n_batches for name, value in sums.items()})
        names = list(dict.fromkeys(name for means in everyone for name in means))
        means = {f"train/{name}": sum(part.get(name, 0.0) for part in everyone) / len(everyone) for name in names}
        means["train/loss"] = sum(means.values())
        return means

    @staticmethod
    def _mean_iou(scores: Scores) -> float:
        return float(torch.tensor(scores.iou, dtype=torch.float64).nanmean())

    def _step_points(self, step: int, extra: dict[str, float]) -> list[Point]:
        values = self._metrics(self._tested, step)
        validation = self._metrics(self._validated, step)
        for name in ("all", "base", "novel"):
            if f"miou/{name}" in validation:
                values[f"val/miou_{name}"] = validation[f"miou/{name}"]
        for label, iou in enumerate(self._tested[step].iou):
            values[f"class_iou/{self.stream.class_name(label)}"] = iou
        if step + 1 == self.split.n_steps or self.config.compat.train_mode_collection:
            extra = extra | self._memory_metrics()
        values |= extra | {
            "time/step_seconds": self._clock.seconds,
            "time/step_cpu_seconds": self._clock.cpu_seconds,
        }
        return self._points_at(step, values)

    @staticmethod
    def _points_at(x: int, values: dict[str, float]) -> list[Point]:
        now = time.time()
        return [Point(name, x, value, now) for name, value in values.items() if not math.isnan(value)]

    def _metrics(self, history: list[Scores], step: int) -> dict[str, float]:
        ious = [torch.tensor(scores.iou, dtype=torch.float64) for scores in history]
        if self.stream.by_domain:
            by_domain = [[torch.tensor(iou, dtype=torch.float64) for iou in scores.by_domain] for scores in history]
            return domain_metrics(by_domain, ious[step], step)
        return step_metrics(ious[: step + 1], self.split.heads, step, self.stream.base_classes)

    # ------------------------------------------------------------------ parts

    @property
    def notes(self) -> list[str]:
        """What the user should know before the run begins."""
        of_data = getattr(self.data, "notes", [])
        return [*self.config.notes, *self.model.network.notes, *self.stream.notes, *of_data]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of each internal label of the whole run."""
        return tuple(self.stream.class_name(label) for label in range(len(self.split.label_ids)))

    @property
    def epochs_total(self) -> int:
        return self._epochs_before(self.split.n_steps)

    @property
    def record(self) -> ModelRecord:
        """What checkpoints say about the model."""
        return ModelRecord.of(self.config, self.data, self.split)

    @property
    def steps_done(self) -> int:
        return self._place[0]

    @property
    def epochs_done(self) -> int:
        return self._epochs_before(self._place[0]) + self._place[1]

    def _epochs_before(self, step: int) -> int:
        return sum(len(lengths) for lengths in self._lengths[:step])

    def _optimizer_of_step(self) -> StepOptimizer:
        if self._optimizer is None:
            raise AssertionError("a step has begun")
        return self._optimizer

    def _batch_size(self, view: StepView) -> int:
        """Never more images than there are, and the same number on every rank."""
        size = min(self.config.training.batch_size, len(view))
        return max(1, size // world_size()) * world_size()

    def _with_replay(self, batch: Batch, step: int, epoch: int, iteration: int) -> Batch:
        if step == 0 or len(self.memory) == 0:
            return batch
        count = self.method.replay_batch_size(self.config.training.batch_size)
        replay = recall(self.memory, self.stream, count, (step, epoch, iteration), self.config.compat)
        return Batch(batch.images, batch.labels, replay)

    def _n_pieces(self, batch: Batch) -> int:
        """Never more than there are images, new or replayed, and the same number on every rank."""
        wanted = min(self.config.training.micro_batches, len(batch.images))
        if batch.replay is None:
            return wanted
        replayed = self.method.replay_batch_size(self.config.training.batch_size)
        return max(1, min(wanted, replayed // world_size()))

    def _context(self, step: int, epoch: int) -> StepContext:
        return StepContext(
            step=step,
            epoch=epoch,
            epochs=len(self._lengths[step]),
            model=self.model,
            teacher=self.teacher,
            n_classes=self.split.classes_seen(step),
            old_classes=self.split.old_classes(step),
            step_of_class=self.split.step_of_class()[: self.split.classes_seen(step)],
            old_labels_shown=self.stream.mode == "sequential",
        )
