"""How much a continual step has to do, in numbers by which the times of steps of one kind can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bacs.building import build_method
from bacs.config import RunConfig
from bacs.data import SegmentationData
from bacs.precision import Numerics
from bacs.stream import Stream
from bacs.training_config import TrainingConfig

IMAGE_KEYS = ("canvas", "crop_size", "evaluation")
"""Keys of a dataset that say how large the images are that the network sees."""
WEIGHT_KEYS = ("pretrained_backbone", "backbone_weights_path")
"""Keys of a network that say how it starts, not what it computes."""

FEATURES = ("trained", "trained_later", "replayed", "evaluated", "shown")
"""Images a process trains on in step 0, in a later step (which has a teacher), out of memory; is measured on; and those
of the step, which are looked at once more at its end."""


@dataclass(frozen=True, slots=True)
class Work:
    """One continual step of one configuration, as far as its time is concerned. Equal work takes equal time."""

    kind: str
    """JSON of what must be the same for times to be comparable: dataset, image size, network, method, device."""
    place: str
    """JSON of the split, the mode, the step and the batch size."""
    amounts: tuple[float, ...]
    """Images by :data:`FEATURES`, of one process."""


def kind_of(config: Mapping[str, Any]) -> str:
    """The kind of work of a resolved configuration."""
    dataset, network, training = config["dataset"], config["network"], config["training"]
    on_cpu = training["device"] == "cpu"
    facts = {
        "dataset": [dataset["_target_"], *(dataset.get(key) for key in IMAGE_KEYS)],
        "network": {key: value for key, value in network.items() if key not in WEIGHT_KEYS},
        "loss": config["loss"]["_target_"],
        "device": "cpu" if on_cpu else "cuda",
        "threads": training["threads"] if on_cpu else None,
        "mixed_precision": training["mixed_precision"],
    }
    return json.dumps(facts, sort_keys=True)


class Workloads:
    """The work of the steps of configurations on one dataset; images are counted once a split."""

    def __init__(self, data: SegmentationData, numerics: Numerics) -> None:
        self.data = data
        self._numerics = numerics
        self._counted: dict[str, list[tuple[int, int, int, int]]] = {}

    def of(self, run: RunConfig) -> list[Work]:
        """By step."""
        training, world = run.training, run.training.n_gpus
        method = build_method(run.loss, training, run.compat)
        kind = kind_of(run.resolved)
        works = []
        for step, (images, n_new, val, test) in enumerate(self._counts(run)):
            lengths = training.lengths(step, images, n_new)
            batches = sum(lengths) * training.accumulate_gradients
            trained = batches * min(training.batch_size, images)
            replays = step > 0 and method.memory[0] > 0
            replayed = batches * method.replay_batch_size(training.batch_size) if replays else 0
            evaluated = _validations(training, len(lengths)) * val + test
            amounts = (trained * (step == 0), trained * (step > 0), replayed, evaluated, images)
            place = json.dumps([training.split, training.mode, step, training.batch_size])
            works.append(Work(kind, place, tuple(amount / world for amount in amounts)))
        return works

    def _counts(self, run: RunConfig) -> list[tuple[int, int, int, int]]:
        """For each step: its images, its new classes, the images that are validated on and tested on after it."""
        training = run.training
        asked = [training.split, training.mode, training.shuffle_classes, training.seed, training.sweep, training.debug]
        name = json.dumps(asked)
        if name not in self._counted:
            stream = Stream(run, self.data, self._numerics)
            self._counted[name] = [
                (
                    len(stream.training_view(step)),
                    stream.split.heads[step],
                    _measured(stream, "val", step),
                    _measured(stream, "test", step),
                )
                for step in range(stream.split.n_steps)
            ]
        return self._counted[name]


def _measured(stream: Stream, subset: str, step: int) -> int:
    """Images that an evaluation after a step looks at; in a stream of domains those of all domains so far."""
    steps = range(step + 1) if stream.by_domain else [step]
    return sum(len(stream.seen_view(subset, earlier)) for earlier in steps)


def _validations(training: TrainingConfig, epochs: int) -> int:
    """How often a step is validated: after every ``val_every`` epochs and at its end."""
    return -(-epochs // training.val_every)
