"""Runs of a method that take a second: two steps of five digits, three iterations an epoch, on the CPU."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bacs.config import RunConfig
from bacs.data import SegmentationData
from bacs.events import EpochEnded, StepEnded
from bacs.launch import local_ranks
from bacs.losses.base import Batch
from bacs.run import ContinualRun

SCENES = {"canvas": 32, "digit_size": 14, "train_scenes": 60, "val_scenes": 20, "test_scenes": 24}
TRAINING = {"split": "5-5", "batch_size": 6, "epochs": 2, "iterations_per_epoch": 3, "threads": 1, "device": "cpu"}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "nesterov": True}
"""Adam divides by the size of a gradient, which makes rounding errors large."""

Losses = dict[tuple[str, int], float]
"""Mean terms of the loss, and what else is measured, by name and epoch or step."""


class TinyRuns:
    """Makes them of one method."""

    def __init__(self, cache: Path, loss: Mapping[str, Any]) -> None:
        """Args: cache: folder for the scenes. loss: the section ``loss``, with ``_target_``."""
        self.cache = cache
        self.loss = dict(loss)

    @functools.cached_property
    def data(self) -> SegmentationData:
        dataset = self.config().dataset
        data: SegmentationData = dataset.factory(dataset.settings)
        return data

    def config(self, training: Mapping[str, Any] | None = None, **loss: Any) -> RunConfig:
        """Raises: RequestError: with all that is wrong with the keys of the loss."""
        values = {
            "dataset": {"_target_": "bacs.data.digits.Digits", "cache": str(self.cache), **SCENES},
            "network": {"_target_": "bacs.networks.unet.UNet", "width": 4},
            "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.003},
            "scheduler": {"_target_": "bacs.schedules.Poly"},
            "loss": self.loss | loss,
            "training": TRAINING | dict(training or {}),
        }
        return RunConfig.from_dict(values)

    def run(self, training: Mapping[str, Any] | None = None, **loss: Any) -> ContinualRun:
        return ContinualRun(self.config(training, **loss), self.data)

    def inside(self, step: int) -> ContinualRun:
        """At the beginning of step 0; in later steps after an epoch, so that student and teacher differ."""
        run = self.run({"epochs": 1})
        if step == 0:
            run._begin_step(0)
        else:
            next(event for event in run.events() if isinstance(event, EpochEnded) and event.step == step)
        run.model.train()
        return run

    def after_step_0(self, **loss: Any) -> ContinualRun:
        run = self.run({"epochs": 1}, **loss)
        next(event for event in run.events() if isinstance(event, StepEnded))
        return run

    def losses(self, n_ranks: int, **loss: Any) -> dict[str, Any]:
        """The configuration of a whole run in exact arithmetic, for :func:`losses_of`."""
        values = self.config({"mixed_precision": False, "n_gpus": n_ranks}, **loss).resolved
        return values | {"optimizer": SGD}


def first_batch(run: ContinualRun, step: int) -> Batch:
    """The first images of a step, with a draw from the memory where there is one."""
    view = run.stream.training_view(step)
    batch = next(iter(run.stream.shuffled(view, 1, run.config.training.batch_size, step, 0)))
    return run._with_replay(batch, step, 0, 0)


def labelled(batch: Batch, new: int, remembered: int) -> Batch:
    """The same images, with one label for every pixel."""
    replay = batch.replay
    if replay is not None:
        replay = dataclasses.replace(replay, labels=torch.full_like(replay.labels, remembered))
    return Batch(batch.images, torch.full_like(batch.labels, new), replay)


def losses_of(values: Mapping[str, Any]) -> Losses:
    """Runs a configuration on as many ranks as it asks for."""
    config = RunConfig.from_dict(values)
    with local_ranks(config, None):
        run = ContinualRun(config)
        for _ in run.events():
            pass
        return {(point.metric, point.x): point.value for point in run.points if not point.metric.startswith("time/")}
