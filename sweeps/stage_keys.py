"""The stage keys that trials will have, without starting one: nothing is trained, no GPU is touched."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bacs.config import RunConfig
from bacs.lineage import stage_key
from bacs.precision import Numerics, has_fast_bfloat16
from search_spaces.space import METHOD_KEY, Params
from sweeps.planned_trials import PlannedTrial
from sweeps.settings import SweepConfig, configured
from sweeps.stage_tree import Chain


@dataclass(frozen=True, slots=True)
class PlannedNumerics(Numerics):
    """The numeric setting of a trial that has not been started."""

    world: int = 1

    @property
    def model(self) -> str:
        """That of this machine's first GPU, as the driver tells it; a GPU itself is not asked."""
        return _gpu_model() if self.device.type == "cuda" else Numerics.model.__get__(self)

    def describe(self) -> dict[str, str | int]:
        return {**Numerics.describe(self), "world": self.world}


@functools.cache
def _gpu_model() -> str:
    """Empty where this machine has none that NVIDIA's kernel module knows."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("Model:"):
                    return line.partition(":")[2].strip()
    return ""


def planned_numerics(run: RunConfig) -> PlannedNumerics:
    """What a trial's process will find. A GPU is not asked: it is taken to multiply in bfloat16, as all since 2020 do.

    Args:
        run: of a trial, so that ``device`` is ``cpu`` unless trials hold GPUs.
    """
    training = run.training
    device = torch.device("cpu" if training.device == "cpu" else "cuda")
    mixed = training.mixed_precision and (device.type == "cuda" or has_fast_bfloat16("cpu"))
    return PlannedNumerics(device, mixed, training.threads or 1, training.n_gpus)


def stage_keys(run: RunConfig, steps: int, manifest: str) -> tuple[str, ...]:
    """Of each step of a trial. Args: manifest: of its dataset."""
    numerics = planned_numerics(run)
    return tuple(stage_key(run, step, manifest, numerics) for step in range(steps))


def chain_of(planned: PlannedTrial, keys: tuple[str, ...], first_unknown: int) -> Chain:
    """The stages of a planned trial.

    Args:
        planned: the trial.
        keys: of its configuration, or of the default's in its place.
        first_unknown: the step from which a configuration that is not known yet may differ from every other.
    """
    if not planned.is_known:
        trial = planned.trial
        place = f"{trial.split} {trial.seed} {trial.number}"
        keys = tuple(key if step < first_unknown else f"{place} {step}" for step, key in enumerate(keys))
    return Chain(keys, len(keys) if planned.is_over else min(planned.steps_done, len(keys)))


def first_swept_step(sweep: SweepConfig, run: RunConfig, steps: int, manifest: str) -> int:
    """The first step whose outcome any swept key can change; ``steps`` if none does.

    Every dimension is set to each of its extremes in turn, and the stage keys are compared.

    Args:
        sweep: whose space is asked.
        run: a trial of the split, with the base configuration.
        steps: of the split.
        manifest: of the run's dataset.
    """
    if any(dimension.key.startswith("dataset.") for dimension in sweep.space.dimensions):
        return 0

    def keys_of(params: Params) -> tuple[str, ...]:
        point = configured(run.resolved, params, sweep.launch.config_path)
        return stage_keys(RunConfig.from_dict(point), steps, manifest)

    first, home = steps, None
    for start in _starts(sweep):
        if home is None or sweep.space.equal_trials:  # then the method of a suggestion is known
            home = keys_of(start)
        for params in (start, *_varied(sweep, start)):
            keys = keys_of(params)
            first = min(first, sum(ours == theirs for ours, theirs in zip(home, keys, strict=True)))
    return first


def _starts(sweep: SweepConfig) -> list[Params]:
    return [{METHOD_KEY: method} for method in sweep.space.methods] or [{}]


def _varied(sweep: SweepConfig, start: Params) -> Iterator[Params]:
    for dimension in sweep.space.dimensions_of(start):
        if dimension.key != METHOD_KEY:
            yield from ({**start, dimension.key: value} for value in dict.fromkeys(dimension.extremes()))
