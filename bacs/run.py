"""The staged run: trains all continual steps of one configuration and tells what happens as events.

It never logs, prints or saves by itself; whoever drives it does. At every :class:`EpochEnded` and :class:`StepEnded`
the driver may take a :meth:`ContinualRun.snapshot`; a run that restores it goes on bit by bit as if never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bacs.checkpoints import Snapshot
from bacs.config import RunConfig
from bacs.data import SegmentationData, StepView
from bacs.events import EpochEnded, Event, Point, RunEnded, StepEnded
from bacs.losses import functional
from bacs.losses.base import Batch, Method, StepContext
from bacs.metrics import ConfusionMatrix, final_metrics, step_metrics
from bacs.model import Model
from bacs.precision import set_up_numerics
from bacs.randomness import generator, seed_everything
from bacs.replay import Collected, Offer, ReplayBatch, ReplayMemory
from bacs.stream import Stream


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


class ContinualRun:
    """One configuration on one dataset, from step 0 to the last."""

    def __init__(self, config: RunConfig, data: SegmentationData | None = None) -> None:
        """Args: data: the dataset, if it is already open; else it is opened (and, if need be, made) here."""
        training = config.training
        self.config = config
        self.numerics = set_up_numerics(training.device, training.mixed_precision, training.threads)
        self.data = data if data is not None else config.dataset.factory(config.dataset.settings)
        self.stream = Stream(config, self.data, self.numerics)
        self.split = self.stream.split
        self.method: Method = config.loss.factory(config.loss.settings)
        self.schedule = config.scheduler.factory(config.scheduler.settings)
        self.model = self._new_model()
        self.teacher: Model | None = None
        self.memory = _new_memory(self.method, training.seed)
        self.points: list[Point] = []
        """Every metric so far, in order; survives in snapshots."""
        self._optimizer: torch.optim.Optimizer | None = None
        self._place = (0, 0)  # step and finished epochs in it
        self._iou_history: list[list[float]] = []
        self._validation_iou: list[list[float]] = []
        self._seconds = 0.0  # of the step under way

    # ------------------------------------------------------------------ the course of a run

    def events(self) -> Iterator[Event]:
        """Trains whatever is not done yet."""
        for step in range(self._place[0], self.split.n_steps):
            yield from self._step(step)
        yield RunEnded(final_metrics(self._history("miou")) | {"final/val_miou": self._validation_all()})

    def _step(self, step: int) -> Iterator[Event]:
        if self._place[1] == 0:
            self._begin_step(step)
        epochs = self.config.training.epochs_of(step)
        view = self.stream.training_view(step)
        for epoch in range(self._place[1], epochs):
            started = time.perf_counter()
            points = self._epoch(step, epoch, epochs, view)
            self._place = (step, epoch + 1)
            self._seconds += time.perf_counter() - started
            self.points += points
            yield EpochEnded(step, epoch + 1, epochs, self._epochs_before(step) + epoch + 1, self.epochs_total, points)
        yield self._end_step(step, epochs, view)

    def _begin_step(self, step: int) -> None:
        """Teacher, new heads, memory with room for the new logits, a new optimizer."""
        training = self.config.training
        seed_everything(training.seed, "grow", step)
        if step > 0:
            self.teacher = self.model.snapshot() if self.method.uses_teacher else None
            self.memory.grow_logits(self.split.classes_seen(step))
        self.model.grow(self.split.heads[step], training.new_head_init or self.method.head_init)
        self.model.to(self.numerics.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = self._new_optimizer()
        self._seconds = 0.0

    def _epoch(self, step: int, epoch: int, epochs: int, view: StepView) -> list[Point]:
        training = self.config.training
        seed_everything(training.seed, "epoch", step, epoch)
        self.model.train()
        context = self._context(step, epoch, epochs)
        batch_size = min(training.batch_size, len(view))
        n_batches = self.config.iterations_per_epoch(len(view))
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(self.stream.shuffled(view, n_batches, batch_size, step, epoch)):
            self._set_lr(step, epoch * n_batches + i, epochs * n_batches)
            terms = self._iterate(context, self._with_replay(batch, step, epoch, i))
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value
        means = {f"train/{name}": float(value) / n_batches for name, value in sums.items()}
        means["train/loss"] = sum(means.values())
        if not math.isfinite(means["train/loss"]):
            raise DivergedError(f"the loss of step {step}, epoch {epoch} is not finite: {means}")
        means["lr"] = self._optimizer_of_step().param_groups[0]["lr"]
        if (epoch + 1) % training.val_every == 0 or epoch + 1 == epochs:
            means["val/miou"] = self._mean_iou(self._evaluate("val", step))
        x, now = self._epochs_before(step) + epoch + 1, time.time()
        return [Point(name, x, value, now) for name, value in means.items()]

    def _iterate(self, context: StepContext, batch: Batch) -> dict[str, Tensor]:
        optimizer = self._optimizer_of_step()
        optimizer.zero_grad(set_to_none=True)
        with self.numerics.autocast():
            terms = self.method.terms(context, batch)
        torch.stack(list(terms.values())).sum().backward()
        self._clip()
        optimizer.step()
        return {name: value.detach().float() for name, value in terms.items()}

    def _end_step(self, step: int, epochs: int, view: StepView) -> StepEnded:
        started = time.perf_counter()
        self.model.eval()
        context = self._context(step, epochs, epochs)
        size = self.config.training.eval_batch_size
        with self.numerics.autocast(), torch.no_grad():
            self.method.finish_step(context, self.stream.in_order(view, size))
            extra = self.method.diagnose(context, self.stream.in_order(self.stream.seen_view("val", step), size))
        last = step + 1 == self.split.n_steps
        if not last:
            self._remember(step, view)
        self._iou_history.append(self._evaluate("test", step).iou().tolist())
        self._validation_iou.append(self._evaluate("val", step).iou().tolist())
        self._seconds += time.perf_counter() - started
        points = self._step_points(step, extra)
        self.points += points
        self._place, self._optimizer = (step + 1, 0), None
        names = {self.stream.class_name(i): value for i, value in enumerate(self._iou_history[-1])}
        return StepEnded(step, self.split.n_steps, names, points)

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> Snapshot:
        """The state at the last event. Tensors are those of the run, not copies: save before going on."""
        step, epoch = self._place
        meta = {
            "iou_history": self._iou_history,
            "validation_iou": self._validation_iou,
            "points": [list(point) for point in self.points],
            "seconds": self._seconds,
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
                self._place = (snapshot.step, snapshot.epoch)
            self._restore_meta(snapshot.meta)

    def _restore_stage(self, snapshot: Snapshot) -> None:
        for step in range(snapshot.step + 1):
            self.model.grow(self.split.heads[step], "random")
        self.model.load_state_dict(snapshot.tensors["model"])
        self.memory.load_state_dict(snapshot.tensors["memory"])
        self._place = (snapshot.step + 1, 0)

    def _restore_meta(self, meta: dict[str, Any]) -> None:
        self._iou_history = [list(row) for row in meta["iou_history"]]
        self._validation_iou = [list(row) for row in meta["validation_iou"]]
        self.points = [Point(*point) for point in meta["points"]]
        self._seconds = meta["seconds"]

    # ------------------------------------------------------------------ replay

    def _with_replay(self, batch: Batch, step: int, epoch: int, iteration: int) -> Batch:
        if step == 0 or len(self.memory) == 0:
            return batch
        rng = generator(self.config.training.seed, "replay-draw", step, epoch, iteration)
        drawn = self.memory.sample(self.method.replay_batch_size(self.config.training.batch_size), rng)
        device = self.numerics.device
        replay = ReplayBatch(
            self.stream.to_device(drawn.images),
            drawn.labels.to(device),
            drawn.logits.to(device),
            drawn.n_logits.to(device),
        )
        return Batch(batch.images, batch.labels, replay)

    def _remember(self, step: int, view: StepView) -> None:
        """Offers the images of the finished step to the memory, as the finished model sees them in eval mode."""
        if self.memory.capacity == 0:
            return
        n_classes = self.split.classes_seen(step)

        def collect(positions: np.ndarray) -> Collected:
            images, kept = view.batch(positions)
            return Collected(images, kept.to(torch.uint8), self._logits_of(images))

        def importance() -> np.ndarray:
            return self._importance(view)

        self.memory.update(Offer(step, view.indices, view.presence(n_classes), n_classes, collect, importance))

    @torch.no_grad()
    def _logits_of(self, images: Tensor) -> Tensor:
        """(N, K, h, w) float16 logits at the network's own resolution."""
        parts = []
        for chunk in images.split(self.config.training.eval_batch_size):
            with self.numerics.autocast():
                parts.append(self.model(self.stream.to_device(chunk)).replay_logits.to(torch.float16).cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def _importance(self, view: StepView) -> np.ndarray:
        """(N,) minus the mean cross-entropy over all pixels, background counted as 0."""
        scores = []
        for batch in self.stream.in_order(view, self.config.training.eval_batch_size):
            with self.numerics.autocast():
                logits = self.model(batch.images).logits
            loss = functional.cross_entropy(logits, batch.labels, reduction="none")
            scores.append(-(loss * (batch.labels > 0)).mean(dim=(1, 2)).cpu())
        return torch.cat(scores).numpy()

    # ------------------------------------------------------------------ measuring

    @torch.no_grad()
    def _evaluate(self, subset: str, step: int) -> ConfusionMatrix:
        self.model.eval()
        matrix = ConfusionMatrix(self.split.classes_seen(step))
        view = self.stream.seen_view(subset, step)
        for batch in self.stream.in_order(view, self.config.training.eval_batch_size):
            with self.numerics.autocast():
                logits = self.model(batch.images).logits
            matrix.update(logits.argmax(dim=1), batch.labels)
        return matrix

    @staticmethod
    def _mean_iou(matrix: ConfusionMatrix) -> float:
        return float(matrix.iou().nanmean())

    def _step_points(self, step: int, extra: dict[str, float]) -> list[Point]:
        values = self._history("miou")[step]
        validation = self._history("val")[step]
        for name in ("all", "base", "novel"):
            if f"miou/{name}" in validation:
                values[f"val/miou_{name}"] = validation[f"miou/{name}"]
        for label, iou in enumerate(self._iou_history[step]):
            values[f"class_iou/{self.stream.class_name(label)}"] = iou
        values |= extra | {
            "replay/items": float(len(self.memory)),
            "replay/mb": self.memory.megabytes,
            "time/step_seconds": self._seconds,
        }
        now = time.time()
        return [Point(name, step, value, now) for name, value in values.items() if not math.isnan(value)]

    def _history(self, which: str) -> list[dict[str, float]]:
        rows = self._iou_history if which == "miou" else self._validation_iou
        ious = [torch.tensor(row, dtype=torch.float64) for row in rows]
        heads, base = self.split.heads, self.stream.base_classes
        return [step_metrics(ious[: step + 1], heads, step, base) for step in range(len(ious))]

    def _validation_all(self) -> float:
        return self._history("val")[-1]["miou/all"]

    # ------------------------------------------------------------------ parts

    @property
    def epochs_total(self) -> int:
        return self._epochs_before(self.split.n_steps)

    @property
    def steps_done(self) -> int:
        return self._place[0]

    @property
    def epochs_done(self) -> int:
        return self._epochs_before(self._place[0]) + self._place[1]

    def _epochs_before(self, step: int) -> int:
        return sum(self.config.training.epochs_of(s) for s in range(step))

    def _new_model(self) -> Model:
        seed_everything(self.config.training.seed, "network")
        network = self.config.network.factory(self.config.network.settings, n_channels=self.data.channels)
        return Model(network, self.method.build_detector(network))

    def _new_optimizer(self) -> torch.optim.Optimizer:
        component = self.config.optimizer
        groups = [
            {"params": [p for p in parameters if p.requires_grad], "lr_factor": factor}
            for parameters, factor in self.method.parameter_groups(self.model)
        ]
        return component.factory([group for group in groups if group["params"]], **component.settings)

    def _optimizer_of_step(self) -> torch.optim.Optimizer:
        if self._optimizer is None:
            raise AssertionError("a step has begun")
        return self._optimizer

    def _set_lr(self, step: int, iteration: int, total: int) -> None:
        base = self.config.training.lr_next if step > 0 else None
        lr = (base or self.config.optimizer.settings["lr"]) * self.schedule.factor(iteration, total)
        for group in self._optimizer_of_step().param_groups:
            group["lr"] = lr * group["lr_factor"]

    def _clip(self) -> None:
        training = self.config.training
        if training.gradient_clip_val is None:
            return
        clip = nn.utils.clip_grad_norm_ if training.gradient_clip_algorithm == "norm" else nn.utils.clip_grad_value_
        clip(self.model.parameters(), training.gradient_clip_val)

    def _context(self, step: int, epoch: int, epochs: int) -> StepContext:
        return StepContext(
            step=step,
            epoch=epoch,
            epochs=epochs,
            model=self.model,
            teacher=self.teacher,
            n_classes=self.split.classes_seen(step),
            old_classes=self.split.old_classes(step),
            step_of_class=self.split.step_of_class()[: self.split.classes_seen(step)],
            old_labels_shown=self.stream.mode == "sequential",
        )


def _new_memory(method: Method, seed: int) -> ReplayMemory:
    capacity, policy = method.memory
    return ReplayMemory(capacity, policy, seed)
