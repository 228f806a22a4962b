"""What a checkpoint says about its model, so that it can be used without the run and without the dataset."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bacs.building import build_method, build_model
from bacs.compat import CompatConfig
from bacs.components import parse_component
from bacs.config import RunConfig
from bacs.data import DomainSplit, SegmentationData, TaskSplit
from bacs.data.scenario import IGNORE
from bacs.errors import Fault, RequestError
from bacs.model import Model
from bacs.plugins import name_faults
from bacs.schema import parse_all
from bacs.training_config import TrainingConfig, parse_training

_Strict = ConfigDict(extra="forbid", strict=True)
_ClassId = Annotated[int, Field(ge=1, lt=IGNORE)]
_Side = Annotated[int, Field(ge=1, le=100_000)]
_Mean = Annotated[float, Field(allow_inf_nan=False)]
_Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Loose = Field(strict=False)
"""Of tuples, which come as lists; their items are strict all the same."""


class _Split(BaseModel):
    model_config = _Strict
    steps: Annotated[tuple[Annotated[tuple[_ClassId, ...], Field(strict=False, min_length=1)], ...], _Loose]
    name: str
    n_classes: Annotated[int, Field(ge=1, lt=IGNORE)] | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        ids = [class_id for step in self.steps for class_id in step]
        if not ids or len(set(ids)) < len(ids):
            raise ValueError("steps must name something, and each class or domain once")
        return self


class _Record(BaseModel):
    model_config = _Strict
    config: dict[str, Any]
    split: _Split
    class_names: Annotated[tuple[str, ...], _Loose]
    channels: Literal[1, 3]
    mean: Annotated[tuple[_Mean, ...], _Loose]
    std: Annotated[tuple[_Spread, ...], _Loose]
    window: Annotated[tuple[_Side, _Side], _Loose]

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std must have a number for each of the {self.channels} channels")
        known, split = len(self.class_names), self.split
        if split.n_classes is not None and split.n_classes != known:
            raise ValueError(f"split.n_classes is {split.n_classes}, but there are {known} class_names")
        if split.n_classes is None and max(max(step) for step in split.steps) > known:
            raise ValueError(f"split.steps name classes beyond the {known} class_names")
        return self


def _fault(where: str, place: tuple[int | str, ...], rule: str) -> Fault:
    field = ".".join(map(str, (where, *place)))
    return Fault(field, f"is no record of a model: {rule}", "give a checkpoint that this program has written")


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
    def from_state(cls, state: Any, where: str = "model") -> ModelRecord:
        """Args:
            state: as JSON gives it back, with lists in the place of tuples.
            where: what an error calls the record.

        Raises:
            RequestError: with every field that is missing, unknown or of another kind; whoever has written it.
        """
        try:
            record = _Record.model_validate(state)
        except ValidationError as error:
            raise RequestError([_fault(where, one["loc"], one["msg"]) for one in error.errors()]) from None
        split = record.split
        domains = () if split.n_classes is None else (split.n_classes,)
        kind = TaskSplit if split.n_classes is None else DomainSplit
        return cls(
            record.config,
            kind(split.steps, split.name, *domains),
            record.class_names,
            record.channels,
            record.mean,
            record.std,
            record.window,
        )

    def training(self) -> TrainingConfig:
        training, faults = parse_training(self._section("training"))
        if faults or training is None:
            raise RequestError(faults)
        return training

    def build(self, step: int) -> Model:
        """The model as it was after ``step``, with random weights.

        Raises:
            RequestError: where the configuration names classes or keys that this version does not know or allow, or
                needs packages that the user has not named.
        """
        if not 0 <= step < self.split.n_steps:
            problem = f"is {step}, but the model has the steps 0..{self.split.n_steps - 1}"
            raise RequestError.of("step", problem, "give a checkpoint that this program has written")
        plugins = self.config.get("plugins") or []
        if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
            raise RequestError([_fault("model.config", ("plugins",), "it must be a list of names")])
        if unnamed := name_faults(plugins):
            raise RequestError(unnamed)
        section = self._section("network")
        fresh = {"pretrained_backbone": False} if "pretrained_backbone" in section else {}
        network, faults = parse_component("network", section | fresh)
        loss, found = parse_component("loss", self._section("loss"))
        compat, more = parse_all(CompatConfig, self._section("compat"), "compat")
        if faults + found + more or network is None or loss is None:
            raise RequestError(faults + found + more)
        model = build_model(network, build_method(loss, self.training(), compat), self.channels, compat)
        for heads in self.split.heads[: step + 1]:
            model.grow(heads, "random")
        return model

    def _section(self, group: str) -> dict[str, Any]:
        section = self.config.get(group)
        if not isinstance(section, dict):
            raise RequestError([_fault("model.config", (group,), "it must be a group of keys")])
        return section
