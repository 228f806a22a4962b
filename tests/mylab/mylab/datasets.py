"""The lab's own dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bacs.data import SceneSet, presence_of
from bacs.errors import Fault
from bacs.randomness import generator
from bacs.schema import knob
from bacs.source import digest_of


@dataclass(frozen=True, kw_only=True)
class StripesConfig:
    """Keys of ``dataset=stripes``."""

    side: int = knob(16, ge=8)
    """Of an image, in pixels."""
    images: int = knob(48, ge=12)
    """To train on; a third as many to choose on, and to test on."""


class Stripes:
    """Grey images with a stripe of each of two of four brightnesses, which are the classes."""

    Config = StripesConfig
    class_names = ("dim", "dusky", "light", "bright")
    domains: tuple[str, ...] = ()
    evaluation = "crop_val"
    channels = 1
    mean = (0.0,)
    std = (1.0,)

    @staticmethod
    def check(config: StripesConfig) -> list[Fault]:
        return []

    @staticmethod
    def classes(config: StripesConfig) -> tuple[str, ...]:
        return Stripes.class_names

    def __init__(self, config: StripesConfig) -> None:
        self.window = (config.side, config.side)
        self.manifest = f"stripes-{config.side}-{config.images}-{digest_of('mylab.datasets', stops=('bacs',))}"
        counts = {"train": config.images, "val": config.images // 3, "test": config.images // 3}
        self.train, self.val, self.test = (self._scenes(subset, n, config.side) for subset, n in counts.items())

    def _scenes(self, subset: str, count: int, side: int) -> SceneSet:
        rng = generator(0, "stripes", subset)
        labels = np.zeros((count, side, side), dtype=np.uint8)
        for mask in labels:
            for label in rng.choice(4, size=2, replace=False) + 1:
                start = rng.integers(0, side - 3)
                mask[start : start + 3] = label
        noise = rng.integers(0, 20, size=labels.shape)
        return SceneSet((labels * 55 + noise).astype(np.uint8), labels, presence_of(labels, 4))
