"""ResNet-50 and ResNet-101 (He et al. 2016) with dilated last stages, in the layout of in-place-ABN weights."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import Tensor, nn

from bacs.networks.norms import ActivatedNorm, NormConfig, activate

if TYPE_CHECKING:
    from bacs.networks.pretrained import LoadReport

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Bottleneck blocks of the four stages, by depth."""

STAGES = {8: ((1, 1), (2, 1), (1, 2), (1, 4)), 16: ((1, 1), (2, 1), (2, 1), (1, 2))}
"""(stride, dilation) of the four stages, by output stride: what a stage does not stride, it dilates."""


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, dilated), 1x1 convolutions beside a shortcut; returns the sum before its activation."""

    def __init__(self, n_in: int, n_out: int, norm: NormConfig, stride: int, dilation: int) -> None:
        super().__init__()
        width = n_out // 4
        middle = nn.Conv2d(width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.convs = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(n_in, width, 1, bias=False),
                bn1=norm.layer(width),
                conv2=middle,
                bn2=norm.layer(width),
                conv3=nn.Conv2d(width, n_out, 1, bias=False),
                bn3=norm.layer(n_out, activated=False),
            )
        )
        self.proj_conv: nn.Conv2d | None = None
        self.proj_bn: ActivatedNorm | None = None
        if stride != 1 or n_in != n_out:
            self.proj_conv = nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False)
            self.proj_bn = norm.layer(n_out, activated=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.proj_conv is not None and self.proj_bn is not None:
            shortcut = self.proj_bn(self.proj_conv(x))
        return self.convs(x) + shortcut  # not +=: an in-place norm needs its output for the backward pass


class ResNet(nn.Module):
    """The backbone: a stem ``mod1`` and four stages ``mod2`` to ``mod5`` of bottleneck blocks."""

    out_channels = 2048

    pretrained: LoadReport | None = None
    """What the weights were filled from; ``None``: they started at random."""

    def __init__(
        self, depth: int, *, norm: NormConfig | str, output_stride: int, atrous: bool = False, in_channels: int = 3
    ) -> None:
        """Builds it with random weights.

        Args:
            depth: 50 or 101.
            norm: the normalisation, or its kind alone.
            output_stride: 8 or 16, input pixels per pixel of the last map.
            atrous: the feature list of the "atrous" encoder: the stem's map first, then the stages *after* their
                activation. Weights and dilations are the same.
            in_channels: 3 for colour, 1 for grey images.
        """
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth ({depth}) must be one of {tuple(BLOCKS)}")
        if output_stride not in STAGES:
            raise ValueError(f"output_stride ({output_stride}) must be one of {tuple(STAGES)}")
        norm = NormConfig.of(norm)
        self.norm = norm
        self.atrous = atrous
        self.mod1 = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
                bn1=norm.layer(64),
                pool1=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        stages = []
        channels = [64, 256, 512, 1024, 2048]
        for index, (blocks, (stride, dilation)) in enumerate(zip(BLOCKS[depth], STAGES[output_stride], strict=True)):
            stages.append(_stage(blocks, channels[index], channels[index + 1], norm, stride, dilation))
        self.mod2, self.mod3, self.mod4, self.mod5 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, eq. 10, by fan-out, as usual for residual networks
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, in_channels, H, W) -> the last map after its activation (B, 2048, h, w), and the feature list.

        The list holds the four stages' maps *before* their activation, with 256, 512, 1024 and 2048 channels;
        for ``atrous`` see the constructor.
        """
        x = self.mod1(images)
        sums, maps = [], [x]
        for stage in (self.mod2, self.mod3, self.mod4, self.mod5):
            *blocks, last = stage
            for block in blocks:
                x = activate(block(x), self.norm.activation)
            sums.append(last(x))
            x = activate(sums[-1], self.norm.activation, inplace=False)  # the sum itself is a feature
            maps.append(x)
        return x, maps if self.atrous else sums


def _stage(blocks: int, n_in: int, n_out: int, norm: NormConfig, stride: int, dilation: int) -> nn.Sequential:
    first = Bottleneck(n_in, n_out, norm, stride, dilation)
    rest = [Bottleneck(n_out, n_out, norm, 1, dilation) for _ in range(blocks - 1)]
    return nn.Sequential(OrderedDict((f"block{index}", block) for index, block in enumerate([first, *rest], start=1)))
