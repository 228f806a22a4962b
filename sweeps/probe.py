"""A short probe: a few iterations of every step of a method, in this process, to learn what its steps cost."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bacs.config import RunConfig
from bacs.data import Scenes, SceneSet, SegmentationData
from bacs.events import StepEnded
from bacs.precision import Numerics
from bacs.run import ContinualRun
from bacs.stream import Stream
from sweeps.costs import Cost, Sample, median_cost
from sweeps.settings import nested
from sweeps.stage_keys import planned_numerics
from sweeps.workloads import WEIGHT_KEYS, Work, Workloads

ITERATIONS = (2, 10)
"""Two lengths, so that the time of an iteration and that of what ends a step can be told apart."""
QUICK_SECONDS, MOST_ROUNDS = 20.0, 5
"""A probe that was quick is repeated, against the noise of a shared machine, until it has lasted for so long."""
FEWEST_MEASURED = 64
"""Images to validate and to test on, if there are as many: one large batch, as most of a real evaluation has."""


def probe(run: RunConfig, data: SegmentationData) -> list[Sample]:
    """The steps of a configuration, on some of its images; medians where it was repeated.

    It takes what a trial takes, the GPU included; with several ranks a trial, one stands for all. Nothing is saved.

    Args:
        run: of a trial.
        data: its dataset.
    """
    _train(run, data, 1)  # warms up
    taken: dict[Work, list[Cost]] = defaultdict(list)
    begun = time.monotonic()
    for _ in range(MOST_ROUNDS):
        for iterations in ITERATIONS:
            for sample in _train(run, data, iterations):
                taken[sample.work].append(sample.cost)
        if time.monotonic() - begun > QUICK_SECONDS:
            break
    return [Sample(work, median_cost(costs)) for work, costs in taken.items()]


def _train(run: RunConfig, data: SegmentationData, iterations: int) -> list[Sample]:
    """The steps of a configuration, so many iterations of each."""
    short = RunConfig.from_dict(_cut_down(run, iterations))
    trial = ContinualRun(short, fewer_images(short, data))
    works = Workloads(trial.data, trial.numerics).of(short)
    samples = []
    for event in trial.events():
        if isinstance(event, StepEnded):
            values = {point[0]: point[2] for point in event.points}
            cost = Cost(values["time/step_seconds"], values["time/step_cpu_seconds"])
            samples.append(Sample(works[event.step], _undisturbed(cost, short, trial.numerics)))
    return samples


def _undisturbed(cost: Cost, run: RunConfig, numerics: Numerics) -> Cost:
    """One thread on an idle machine takes as long on the wall as on the processor; a busy moment shall not count."""
    one_thread = numerics.device.type == "cpu" and numerics.threads == 1 and run.training.num_workers in ("auto", 0)
    return Cost(cost.cpu_seconds, cost.cpu_seconds) if one_thread else cost


def _cut_down(run: RunConfig, iterations: int) -> dict[str, Any]:
    training = run.training
    changes: dict[str, Any] = {
        "training.iterations_per_epoch": iterations,
        "training.epochs": 1,
        "training.next_epochs": None,
        "training.steps_per_class": None,
        "training.n_gpus": 1,
        "training.batch_size": training.batch_size // training.n_gpus,
        "training.ckpt_dir": None,
    }
    changes |= {f"training.{name}": False for name in ("log_prototypes", "log_drift", "log_animation")}
    changes |= {"training.log_images": 0}
    starts = {"pretrained_backbone": False, "backbone_weights_path": None}
    network = run.resolved["network"]
    changes |= {f"network.{name}": starts[name] for name in WEIGHT_KEYS if name in network}
    return nested({group: part for group, part in run.resolved.items() if group != "ood"}, changes)


def fewer_images(run: RunConfig, data: SegmentationData) -> SegmentationData:
    """The same dataset with a batch of training images a step, and as large a share of the others."""
    stream = Stream(run, data, planned_numerics(run))
    views = [stream.training_view(step) for step in range(stream.split.n_steps)]
    share = min(1.0, max(run.training.batch_size / min(map(len, views)), FEWEST_MEASURED / max(1, len(data.test))))
    rows = np.unique(np.concatenate([_spread(view.indices, share) for view in views]))
    fewer = copy.copy(data)
    for name, chosen in (
        ("train", rows),
        ("val", _spread(np.arange(len(data.val)), share)),
        ("test", _spread(np.arange(len(data.test)), share)),
    ):
        setattr(fewer, name, _taken(getattr(data, name), chosen))
    return fewer


def _spread(rows: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """A share of the rows, evenly over all of them."""
    count = min(len(rows), max(1, int(np.ceil(share * len(rows)))))
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def _taken(scenes: Scenes | SceneSet, rows: NDArray[np.int64]) -> SceneSet | FewerScenes:
    if isinstance(scenes, SceneSet):
        group = None if scenes.group is None else scenes.group[rows]
        return SceneSet(scenes.images[rows], scenes.labels[rows], scenes.presence[rows], group)
    return FewerScenes(scenes, rows)


class FewerScenes:
    """Some images of a dataset in files; see :class:`bacs.data.Scenes`."""

    def __init__(self, scenes: Scenes, rows: NDArray[np.int64]) -> None:
        self._scenes = scenes
        self._rows = rows
        self.presence = scenes.presence[rows]
        self.group = None if scenes.group is None else scenes.group[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, rows: NDArray[np.int64], draws: NDArray[np.int64] | None) -> tuple[Tensor, Tensor]:
        return self._scenes.read(self._rows[rows], draws)

    def read_whole(self, row: int) -> tuple[Tensor, Tensor]:
        return self._scenes.read_whole(int(self._rows[row]))
