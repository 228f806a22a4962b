"""Learning-rate schedules within a continual step, as functions of the iteration: there is nothing to resume."""

from __future__ import annotations

from dataclasses import dataclass

from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class PolyConfig:
    """Keys of ``scheduler=poly``."""

    power: float = knob(0.9, gt=0)
    warmup: float = knob(0.0, ge=0, lt=1)
    """Share of the step's iterations over which the factor first rises linearly from 0."""


class Poly:
    """factor(i) = (1 - i/T)^power, i the iteration within the step, T their number; DeepLab (Chen et al. 2017)."""

    Config = PolyConfig

    def __init__(self, config: PolyConfig) -> None:
        self.config = config

    def factor(self, iteration: int, total: int) -> float:
        rising = self.config.warmup * total
        if iteration < rising:
            return (iteration + 1) / (rising + 1)
        return (1 - iteration / total) ** self.config.power


@dataclass(frozen=True, kw_only=True)
class ConstantConfig:
    """``scheduler=constant`` has no keys."""


class Constant:
    """factor(i) = 1."""

    Config = ConstantConfig

    def __init__(self, config: ConstantConfig) -> None:
        self.config = config

    def factor(self, iteration: int, total: int) -> float:
        return 1.0
