from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacs.data import presence_of
from bacs.errors import Fault
from bacs.schema import knob


class Squares:
    """Scenes of one subset: noise with a square of class 1 or 2; training shifts them by the draw."""

    group = None

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.images = rng.integers(0, 255, (count, 3, 8, 8), dtype=np.uint8)
        self.labels = np.zeros((count, 8, 8), np.uint8)
        self.labels[:, 2:5, 2:5] = rng.integers(1, 3, count)[:, None, None]
        self.presence = presence_of(self.labels, 2)

    def __len__(self) -> int:
        return len(self.images)

    def shift(self, draw: int) -> int:
        return int(np.random.default_rng(draw).integers(8))

    def read(self, rows: NDArray[np.int64], draws: NDArray[np.int64] | None) -> tuple[Tensor, Tensor]:
        shifts = [0 if draws is None else self.shift(int(draw)) for draw in (rows if draws is None else draws)]
        picked = zip(rows, shifts, strict=True)
        parts = [(np.roll(self.images[r], s, -1), np.roll(self.labels[r], s, -1)) for r, s in picked]
        images, labels = zip(*parts, strict=True)
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))

    def read_whole(self, row: int) -> tuple[Tensor, Tensor]:
        return self.read(np.array([row]), None)


class OneAfterTheOther(Squares):
    """Goes on with one generator, whatever the draw."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(count, seed)
        self.rng = np.random.default_rng(seed)

    def shift(self, draw: int) -> int:
        return int(self.rng.integers(8))


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    count: int = knob(6, ge=1)
    seed: int = knob(0, ge=0)


class Noise:
    Config = NoiseConfig
    class_names = ("small", "large")
    domains: tuple[str, ...] = ()
    evaluation = "crop_val"
    window = (8, 8)
    channels = 3
    mean = std = (0.5, 0.5, 0.5)
    scenes = Squares

    @staticmethod
    def check(config: NoiseConfig) -> list[Fault]:
        return []

    @staticmethod
    def classes(config: NoiseConfig) -> tuple[str, ...]:
        return Noise.class_names

    def __init__(self, config: NoiseConfig) -> None:
        self.train, self.val, self.test = (self.scenes(config.count, config.seed + i) for i in range(3))
        self.manifest = f"{config.count}-{config.seed}"


class WrongPresence(Noise):
    def __init__(self, config: NoiseConfig) -> None:
        super().__init__(config)
        self.train.presence[:, 2] = True


class ReadsOneAfterTheOther(Noise):
    scenes = OneAfterTheOther


class ForgetsTheSeed(Noise):
    def __init__(self, config: NoiseConfig) -> None:
        super().__init__(config)
        self.manifest = f"{config.count}"
