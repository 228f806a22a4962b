"""From a suggestion to a trial: the whole resolved configuration and the key that names it for ever."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from bacs.config import RunConfig
from bacs.data import SegmentationData
from bacs.precision import set_up_numerics
from bacs.stream import Stream
from search_spaces.space import Params
from sweeps.settings import SweepConfig, nested

CROSS_ENTROPY = {"_target_": "bacs.losses.crossentropy.CrossEntropy"}


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration on one split with one seed."""

    key: str
    """12 hex digits of a hash over the sweep, the resolved configuration and the role."""
    number: int
    """Of the suggestion in its split; references have numbers of their own."""
    role: str
    """``trial``, ``joint`` or ``finetune``."""
    split: str
    seed: int
    params: Params
    config: dict[str, Any]
    tags: dict[str, Any]


def make_trial(sweep: SweepConfig, uid: str, *, role: str, number: int, split: Any, seed: int, params: Params) -> Trial:
    """The trial that stands for a suggestion (``params``) or, with no params, for a reference."""
    place: Params = {
        "training.split": split,
        "training.seed": seed,
        "training.threads": sweep.resources.cpus_per_trial,
    }
    if sweep.resources.gpus_per_trial == 0:
        place["training.device"] = "cpu"
    config = nested(sweep.base, {**params, **place})
    if role != "trial":
        config["loss"] = dict(CROSS_ENTROPY)
    if role == "joint":
        config = nested(config, {"training.mode": "joint", **_joint_budget(config)})
    checked = RunConfig.from_dict(config)
    name = split_name(split)
    identity = json.dumps([uid, role, number, checked.resolved], sort_keys=True)
    tags = {
        "split": name,
        "mode": checked.training.mode,
        "seed": seed,
        "loss": checked.loss.target.rpartition(".")[2].lower(),
        "reused_steps": 0,
    }
    key = hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()[:12]
    return Trial(key, number, role, name, seed, params, checked.resolved, tags)


def split_name(split: Any) -> str:
    """The text of a split as users wrote it; lists without blanks."""
    return split if isinstance(split, str) else json.dumps(split, separators=(",", ":"))


def _joint_budget(config: dict[str, Any]) -> Params:
    """Epochs that give joint training as many optimisation steps as all steps of the split together."""
    run = RunConfig.from_dict(config)
    data = open_data(run)
    numerics = set_up_numerics("cpu", False, None)
    stepwise = Stream(run, data, numerics)
    joint = Stream(RunConfig.from_dict(nested(config, {"training.mode": "joint"})), data, numerics)
    total = sum(run.training.epochs_of(t) * _iterations(run, stepwise, t) for t in range(stepwise.split.n_steps))
    return {"training.epochs": max(1, round(total / _iterations(run, joint, 0))), "training.next_epochs": None}


def _iterations(run: RunConfig, stream: Stream, step: int) -> int:
    return run.iterations_per_epoch(len(stream.training_view(step)))


def open_data(run: RunConfig) -> SegmentationData:
    """Opens the dataset; the first time this makes and caches it, so that trials do not."""
    data: SegmentationData = run.dataset.factory(run.dataset.settings)
    return data
