"""Learning-rate schedules within a continual step, as functions of the position: there is nothing to resume.

A schedule gives the factor on the base learning rate (``optimizer.lr``, or ``training.lr_next`` in steps >= 1) at
position i of T. ``training.scheduler_interval`` and ``training.scheduler_frequency`` say what a position is: one
optimisation step, one epoch, or ``frequency`` of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bacs.errors import Fault
from bacs.schema import knob


class Schedule(Protocol):
    """What ``scheduler=...`` names."""

    def factor(self, position: int, total: int) -> float:
        """The factor at ``position`` (0-based) of ``total`` positions in the continual step."""


@dataclass(frozen=True, kw_only=True)
class ConstantConfig:
    """``scheduler=constant`` has no keys."""


class Constant:
    """factor(i) = 1."""

    Config = ConstantConfig

    def __init__(self, config: ConstantConfig) -> None:
        self.config = config

    def factor(self, position: int, total: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class PolyConfig:
    """Keys of ``scheduler=poly``."""

    power: float = knob(0.9, gt=0)


class Poly:
    """factor(i) = (1 - i/T)^power; DeepLab (Chen et al. 2017)."""

    Config = PolyConfig

    def __init__(self, config: PolyConfig) -> None:
        self.config = config

    def factor(self, position: int, total: int) -> float:
        return (1 - position / total) ** self.config.power


@dataclass(frozen=True, kw_only=True)
class WarmupPolyConfig:
    """Keys of ``scheduler=warmup_poly``."""

    power: float = knob(0.9, gt=0)
    warmup: float = knob(0.1, gt=0, lt=1)
    """Share of the step's positions over which the factor rises."""
    warmup_start: float = knob(1e-3, ge=0, le=1)
    """Factor at position 0."""
    floor: float = knob(0.0, ge=0, le=1)
    """The factor never falls below this after the warm-up."""


class WarmupPoly:
    """Linear from ``warmup_start`` to 1 over the first ``warmup * T`` positions, then poly over what is left."""

    Config = WarmupPolyConfig

    def __init__(self, config: WarmupPolyConfig) -> None:
        self.config = config

    def factor(self, position: int, total: int) -> float:
        c = self.config
        rising = c.warmup * total
        if position < rising:
            return c.warmup_start + (1 - c.warmup_start) * position / rising
        return max(c.floor, (1 - (position - rising) / (total - rising)) ** c.power)


@dataclass(frozen=True, kw_only=True)
class ExponentialConfig:
    """Keys of ``scheduler=exponential``. With ``training.scheduler_interval=step`` 0.9 falls below 1e-4 after 90 steps:
    use ``epoch``, or a ``scheduler_frequency``.
    """

    gamma: float = knob(0.9, gt=0, le=1)


class Exponential:
    """factor(i) = gamma^i."""

    Config = ExponentialConfig

    def __init__(self, config: ExponentialConfig) -> None:
        self.config = config

    def factor(self, position: int, total: int) -> float:
        return self.config.gamma**position


@dataclass(frozen=True, kw_only=True)
class CyclicConfig:
    """Keys of ``scheduler=cyclic``; only the ratio of the two rates counts, so that ``lr_next`` keeps its meaning."""

    base_lr: float = knob(1e-3, gt=0)
    """The trough, where ``max_lr`` stands for the learning rate of the continual step."""
    max_lr: float = knob(1e-2, gt=0)
    step_size_up: int = knob(2000, ge=1, le=10**9)
    """Positions from trough to crest."""
    step_size_down: int = knob(2000, ge=1, le=10**9)
    """Positions from crest to trough."""


class Cyclic:
    """Triangles between base_lr / max_lr and 1, beginning in the trough; Smith 2017, section 3.1."""

    Config = CyclicConfig

    def __init__(self, config: CyclicConfig) -> None:
        self.config = config

    @staticmethod
    def check(config: CyclicConfig) -> list[Fault]:
        """The rule that spans two keys."""
        if config.base_lr <= config.max_lr:
            return []
        problem = f"is {config.base_lr:g}, but must not exceed scheduler.max_lr ({config.max_lr:g})"
        return [Fault("scheduler.base_lr", problem, "exchange the two")]

    def factor(self, position: int, total: int) -> float:
        c = self.config
        place = position % (c.step_size_up + c.step_size_down)
        falling = place - c.step_size_up
        height = 1 - falling / c.step_size_down if falling > 0 else place / c.step_size_up
        trough = c.base_lr / c.max_lr
        return trough + (1 - trough) * height
