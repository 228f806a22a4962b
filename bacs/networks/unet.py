"""U-Net (Ronneberger et al. 2015) with batch normalisation, behind the network contract."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from bacs.networks.contract import NetworkOutput, SegmentationNetwork
from bacs.networks.heads import GrowingHead
from bacs.networks.norms import ActivatedNorm
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Keys of ``network=unet``."""

    width: int = knob(16, ge=1, le=1024)
    """Channels of the first level; each deeper level has twice as many. The original's U-Net: 64."""
    num_layers: int = knob(3, ge=2, le=7)
    """Levels, so the deepest features have stride 2^(num_layers - 1). The original's U-Net: 5."""
    n_channels: int | None = knob(None, choices=(None, 1, 3))
    """Channels of the images; null: those of the dataset. Another number than those is refused."""
    bilinear: bool = knob(False)
    """Up-sample bilinearly instead of by a learned transposed convolution."""


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each followed by batch normalisation and ReLU. A single image may be as small as 1x1."""

    def __init__(self, n_in: int, n_out: int, n_mid: int | None = None) -> None:
        n_mid = n_mid or n_out
        norm = partial(ActivatedNorm, activation="identity")
        super().__init__(
            nn.Conv2d(n_in, n_mid, 3, padding=1),
            norm(n_mid),
            nn.ReLU(inplace=True),
            nn.Conv2d(n_mid, n_out, 3, padding=1),
            norm(n_out),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Doubles the resolution, joins the skip connection of that level, convolves."""

    def __init__(self, n_in: int, n_out: int, bilinear: bool) -> None:
        super().__init__()
        self.up = None if bilinear else nn.ConvTranspose2d(n_in, n_in // 2, kernel_size=2, stride=2)
        self.conv = DoubleConv(n_in, n_out, n_in // 2 if bilinear else None)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        size = skip.shape[-2:]
        raised = deep if self.up is None else self.up(deep)
        if raised.shape[-2:] != size:  # bilinear, or an odd size that lost a row in the pooling
            raised = functional.interpolate(raised, size=size, mode="bilinear", align_corners=False)
        return self.conv(torch.cat([skip, raised], dim=1))


class UNet(SegmentationNetwork):
    """Encoder-decoder with skip connections; logits at the input's resolution."""

    Config = UNetConfig

    def __init__(self, config: UNetConfig, n_channels: int) -> None:
        super().__init__()
        factor = 2 if config.bilinear else 1
        widths = [config.width * 2**level for level in range(config.num_layers)]
        encoder = [*widths[:-1], widths[-1] // factor]
        self.stem = DoubleConv(n_channels, encoder[0])
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in pairwise(encoder))
        self.up = nn.ModuleList(
            Up(wide, narrow // factor, config.bilinear)
            for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.bottleneck_channels = encoder[-1]
        self.head = GrowingHead(widths[0] // factor)

    @property
    def n_classes(self) -> int:
        return self.head.n_classes

    def grow(self, n_new: int, init: str) -> None:
        self.head.grow(n_new, init)

    def forward(self, images: Tensor) -> NetworkOutput:
        halvings = len(self.down)
        if min(images.shape[-2:]) < 2**halvings:
            rule = f"halves an image {halvings} times, so its sides must have at least {2**halvings} pixels"
            raise ValueError(f"network.num_layers={halvings + 1} {rule}")
        levels = [self.stem(images)]
        for block in self.down:
            levels.append(block(functional.max_pool2d(levels[-1], 2)))
        features = [*levels]
        decoded = levels[-1]
        for block, skip in zip(self.up, levels[-2::-1], strict=True):
            decoded = block(decoded, skip)
            features.append(decoded)
        logits = self.head(decoded)
        return NetworkOutput(
            logits=logits, sem_logits=logits, replay_logits=logits, bottleneck=levels[-1], features=features
        )
