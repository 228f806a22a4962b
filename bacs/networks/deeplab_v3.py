"""DeepLabV3 (Chen et al. 2017): a dilated ResNet, parallel dilated convolutions and an image-level branch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bacs.errors import Fault
from bacs.networks.backbone import BackboneConfig, ResNetSegmentationNetwork, build_backbone, check_backbone
from bacs.networks.contract import NetworkOutput
from bacs.networks.heads import GrowingHead
from bacs.networks.norms import SLOPE, NormConfig
from bacs.networks.resnet import ResNet
from bacs.schema import knob

# Chen et al. 2017, section 3.3: rates (6, 12, 18) at output stride 16, doubled at 8. The original code has
# (12, 24, 32) for output stride 8 and never selects it; 36 is the paper's rate.
RATES = {16: (6, 12, 18), 8: (12, 24, 36)}

WIDTH = 256
"""Channels of the decoder's output."""


@dataclass(frozen=True, kw_only=True)
class DeepLabV3Config(BackboneConfig):
    """Keys of ``network=deep_lab``."""

    separate_feats: bool = knob(False)
    """Each step's head gets a 3x3 convolution of its own on the decoder's output."""


class DeepLabV3Head(nn.Module):
    """Atrous spatial pyramid pooling, the image-level branch added after the projection (not concatenated)."""

    def __init__(self, in_channels: int, rates: tuple[int, ...], norm: NormConfig) -> None:
        super().__init__()
        dilated = [nn.Conv2d(in_channels, WIDTH, 3, padding=rate, dilation=rate, bias=False) for rate in rates]
        self.branches = nn.ModuleList([nn.Conv2d(in_channels, WIDTH, 1, bias=False), *dilated])
        self.branch_norm = norm.layer(WIDTH * len(self.branches))
        self.projection = nn.Conv2d(WIDTH * len(self.branches), WIDTH, 1, bias=False)
        self.image_conv = nn.Conv2d(in_channels, WIDTH, 1, bias=False)
        # It sees a 1x1 map, so a batch of one image has no variance in training: ActivatedNorm then normalises with its
        # running statistics.
        self.image_norm = norm.layer(WIDTH)
        self.image_projection = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
        self.norm = norm.layer(WIDTH)
        gain = nn.init.calculate_gain(norm.activation, SLOPE)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, 256, h, w)."""
        pyramid = self.branch_norm(torch.cat([branch(x) for branch in self.branches], dim=1))
        image = self.image_norm(self.image_conv(x.mean(dim=(2, 3), keepdim=True)))
        return self.norm(self.projection(pyramid) + self.image_projection(image))


class DeepLabV3(ResNetSegmentationNetwork):
    """ResNet backbone, DeepLabV3 head, growing classifier; logits at the output stride, raised bilinearly."""

    Config = DeepLabV3Config

    def __init__(self, config: DeepLabV3Config, n_channels: int) -> None:
        super().__init__()
        self.backbone = build_backbone(config, n_channels)
        self.bottleneck_channels = ResNet.out_channels
        norm = config.norm_config()
        self.decoder = DeepLabV3Head(ResNet.out_channels, RATES[config.output_stride], norm)
        self.head = GrowingHead(WIDTH, norm if config.separate_feats else None)

    @staticmethod
    def check(config: DeepLabV3Config) -> list[Fault]:
        """Faults of the configuration that can be told before anything is built."""
        return check_backbone(config)

    @property
    def n_classes(self) -> int:
        return self.head.n_classes

    def grow(self, n_new: int, init: str) -> None:
        self.head.grow(n_new, init)

    def forward(self, images: Tensor) -> NetworkOutput:
        deep, features = self.backbone(images)
        decoded = self.decoder(deep)
        low = self.head(decoded)
        logits = functional.interpolate(low, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return NetworkOutput(
            logits=logits, sem_logits=low, replay_logits=low, bottleneck=deep, features=[*features, decoded]
        )
