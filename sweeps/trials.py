"""From a suggestion to a trial: the whole resolved configuration and the key that names it for ever."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bacs.config import RunConfig
from bacs.data import SegmentationData
from bacs.lineage import passive_keys, run_identity
from bacs.precision import set_up_numerics
from bacs.stream import Stream
from search_spaces.space import Params
from sweeps.settings import SweepConfig, configured, nested, split_name

CROSS_ENTROPY = {"_target_": "bacs.losses.crossentropy.CrossEntropy"}


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration on one split with one seed."""

    key: str
    """12 hex digits of a hash over the sweep, the role and whatever in the configuration acts on a result."""
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
    place: Params = {"training.split": split, "training.seed": seed}
    config = configured(sweep.base, {**params, **place, **_machine(sweep)}, sweep.launch.config_path)
    if role != "trial":
        config["loss"] = dict(CROSS_ENTROPY)
        config["training"].pop("overrides_from_step", None)  # of another method
    if role == "joint":
        config = nested(config, {"training.mode": "joint", **_joint_budget(config)})
    checked = RunConfig.from_dict(config)
    name = split_name(split)
    identity = json.dumps([uid, role, number, run_identity(checked)])
    tags = {
        "split": name,
        "mode": checked.training.mode,
        "seed": seed,
        "loss": method_name(checked.loss.target),
        "reused_steps": 0,
    }
    if role == "trial" and sweep.search.points:
        tags["configuration"] = list(sweep.search.points[name])[number]
    key = hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()[:12]
    return Trial(key, number, role, name, seed, params, checked.resolved, tags)


def method_name(target: str) -> str:
    """How tables call a method: shipped ones by their file, which is their ``loss=`` choice, others by their class."""
    *_, module, name = target.split(".")
    return module if target.startswith("bacs.") else name


def placed(sweep: SweepConfig, config: dict[str, Any], *, begun: bool) -> dict[str, Any]:
    """The configuration of a trial that is there already, on the machines and in the folders of now.

    Keys that never change a result follow the sweep's. So do threads, workers and device where the trial has not
    begun. One that has keeps them, and with them its numbers and checkpoints; only another number of workers, which
    needs other machines, makes it begin afresh.
    """
    run = RunConfig.from_dict(at_home(sweep.base, config))
    machine = _machine(sweep)
    if begun and machine["training.n_gpus"] == run.training.n_gpus:
        return run.resolved
    return nested(run.resolved, machine)


def at_home(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of a journal with the values that ``base`` has for keys that never change a result.

    Its dataset and caches may lie elsewhere now, and a configuration can only be checked where they are.

    Args:
        base: the run of the sweep, as it is now.
        config: of a trial.
    """
    changes: Params = {}
    for key in _passive_keys(base):
        group, _, name = key.partition(".")
        now, own = base[group], config.get(group) or {}
        if now.get("_target_") == own.get("_target_") and name in now:
            changes[key] = now[name]
    return nested(config, changes)


_PASSIVE: dict[str, set[str]] = {}
"""What :func:`_passive_keys` found, by the classes of a run."""


def _passive_keys(base: Mapping[str, Any]) -> set[str]:
    """Those of a run's classes; a sweep of thousands of trials asks for each of them."""
    classes = str([(group, section.get("_target_")) for group, section in base.items() if isinstance(section, dict)])
    if classes not in _PASSIVE:
        _PASSIVE[classes] = passive_keys(RunConfig.from_dict(base))
    return _PASSIVE[classes]


def _machine(sweep: SweepConfig) -> Params:
    """What ``resources`` makes of the keys of a run."""
    workers = workers_per_trial(sweep)
    machine: Params = {
        "training.n_gpus": workers,
        "training.threads": max(1, sweep.resources.cpus_per_trial // workers),
    }
    if sweep.resources.gpus_per_trial == 0:
        machine["training.device"] = "cpu"
    return machine


def workers_per_trial(sweep: SweepConfig) -> int:
    """Ranks of a trial: one a GPU; without a GPU what ``training.n_gpus`` asks for."""
    gpus = sweep.resources.gpus_per_trial
    return int(gpus) if gpus >= 1 else int(sweep.base["training"]["n_gpus"])


def _joint_budget(config: dict[str, Any]) -> Params:
    """Epochs that give joint training as many optimisation steps as all steps of the split together."""
    run = RunConfig.from_dict(config)
    if run.training.steps_per_class is not None:  # counts classes, so it is the same already
        return {}
    data = open_data(run)
    numerics = set_up_numerics("cpu", False, None)
    stepwise = Stream(run, data, numerics)
    joint = Stream(RunConfig.from_dict(nested(config, {"training.mode": "joint"})), data, numerics)
    total = sum(sum(lengths) for lengths in stepwise.lengths())
    per_epoch = joint.lengths()[0][0]
    return {"training.epochs": max(1, round(total / per_epoch)), "training.next_epochs": None}


def open_data(run: RunConfig) -> SegmentationData:
    """Opens the dataset; the first time this makes and caches it, so that trials do not."""
    data: SegmentationData = run.dataset.factory(run.dataset.settings)
    return data
