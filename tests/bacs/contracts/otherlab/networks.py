from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from bacs.networks import GrowingHead, NetworkOutput, SegmentationNetwork
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    width: int = knob(4, ge=1)


class Plain(SegmentationNetwork):
    Config = PlainConfig

    def __init__(self, config: PlainConfig, n_channels: int) -> None:
        super().__init__()
        self.bottleneck_channels = config.width
        self.body = nn.Sequential(nn.Conv2d(n_channels, config.width, 3, stride=2, padding=1), nn.ReLU())
        self.head = GrowingHead(config.width)

    @property
    def n_classes(self) -> int:
        return self.head.n_classes

    def grow(self, n_new: int, init: str) -> None:
        self.head.grow(n_new, init)

    def raised(self, low: Tensor, images: Tensor) -> Tensor:
        return functional.interpolate(low, size=images.shape[-2:], mode="bilinear")

    def forward(self, images: Tensor) -> NetworkOutput:
        deep = self.body(images)
        low = self.head(deep)
        return NetworkOutput(self.raised(low, images), low, low, deep, [deep])


class GrowsOnce(Plain):
    def grow(self, n_new: int, init: str) -> None:
        if self.n_classes == 0:
            super().grow(n_new, init)


class HalfSize(Plain):
    def raised(self, low: Tensor, images: Tensor) -> Tensor:
        return low


class NormalisesOverClasses(Plain):
    def raised(self, low: Tensor, images: Tensor) -> Tensor:
        return super().raised(low, images)

    def forward(self, images: Tensor) -> NetworkOutput:
        deep = self.body(images)
        low = self.head(deep).log_softmax(dim=1)
        return NetworkOutput(self.raised(low, images), low, low, deep, [deep])
