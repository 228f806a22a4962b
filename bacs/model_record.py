"""What a checkpoint says about its model, so that it can be used without the run and without the dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bacs.building import build_method, build_model
from bacs.compat import CompatConfig
from bacs.components import parse_component
from bacs.config import RunConfig
from bacs.data import DomainSplit, SegmentationData, TaskSplit
from bacs.errors import RequestError
from bacs.model import Model
from bacs.plugins import name_faults
from bacs.schema import parse_all
from bacs.training_config import TrainingConfig, parse_training


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """How a model was built, what its labels mean, and what its images must look like."""

    config: dict[str, Any]
    """The resolved configuration of the run."""
    split: TaskSplit
    class_names: tuple[str, ...]
    """The foreground classes of the dataset, by class id."""
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """As mean, per channel in units of 0..1."""
    window: tuple[int, int]
    """(h, w) of the images that it was trained on."""

    @classmethod
    def of(cls, config: RunConfig, data: SegmentationData, split: TaskSplit) -> ModelRecord:
        return cls(config.resolved, split, data.class_names, data.channels, data.mean, data.std, data.window)

    def state(self) -> dict[str, Any]:
        """What JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ModelRecord:
        """Args: state: as JSON gives it back, with lists in the place of tuples."""
        rest: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in state.items()}
        fields = dict(rest.pop("split"))
        fields["steps"] = tuple(tuple(step) for step in fields["steps"])
        return cls(**rest, split=DomainSplit(**fields) if "n_classes" in fields else TaskSplit(**fields))

    def training(self) -> TrainingConfig:
        training, faults = parse_training(self.config["training"])
        if faults or training is None:
            raise RequestError(faults)
        return training

    def build(self, step: int) -> Model:
        """The model as it was after ``step``, with random weights.

        Raises:
            RequestError: where the configuration names classes or keys that this version does not know or allow, or
                needs packages that the user has not named.
        """
        if unnamed := name_faults(self.config.get("plugins") or []):
            raise RequestError(unnamed)
        section = self.config["network"]
        fresh = {"pretrained_backbone": False} if "pretrained_backbone" in section else {}
        network, faults = parse_component("network", section | fresh)
        loss, found = parse_component("loss", self.config["loss"])
        compat, more = parse_all(CompatConfig, self.config["compat"], "compat")
        if faults + found + more or network is None or loss is None:
            raise RequestError(faults + found + more)
        model = build_model(network, build_method(loss, self.training(), compat), self.channels, compat)
        for heads in self.split.heads[: step + 1]:
            model.grow(heads, "random")
        return model
