"""The lab's own network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from bacs.networks import GrowingHead, NetworkOutput, SegmentationNetwork
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Keys of ``network=tiny``."""

    width: int = knob(8, ge=2)
    """Channels."""


class Tiny(SegmentationNetwork):
    """Two convolutions, the second on half the resolution."""

    Config = TinyConfig

    def __init__(self, config: TinyConfig, n_channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(n_channels, config.width, 3, padding=1), nn.BatchNorm2d(config.width))
        self.second = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.bottleneck_channels = config.width
        self.head = GrowingHead(config.width)

    @property
    def n_classes(self) -> int:
        return self.head.n_classes

    def grow(self, n_new: int, init: str) -> None:
        self.head.grow(n_new, init)

    def forward(self, images: Tensor) -> NetworkOutput:
        shallow = functional.relu(self.first(images))
        deep = functional.relu(self.second(functional.avg_pool2d(shallow, 2)))
        decoded = shallow + functional.interpolate(deep, size=shallow.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.head(decoded)
        return NetworkOutput(logits, logits, logits, bottleneck=deep, features=[shallow, decoded])
