"""The configuration keys that every network on a ResNet shares, and how its backbone is made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bacs.errors import Fault, RequestError
from bacs.networks.contract import SegmentationNetwork
from bacs.networks.norms import NORMS, NormConfig
from bacs.networks.pretrained import load_official, load_weights
from bacs.networks.resnet import BLOCKS, STAGES, ResNet
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Keys of ``network`` that concern the backbone."""

    depth: int = knob(101, choices=tuple(BLOCKS))
    """ResNet-50 or ResNet-101."""
    output_stride: int = knob(16, choices=tuple(STAGES))
    """Input pixels per pixel of the deepest map. 8 costs about four times the memory of the last stage."""
    atrous_encoder: bool = knob(False)
    """Feature list of five maps, activated, beginning with the stem's. The original's also had ``norm=bn``."""
    norm: str = knob("iabn_sync", choices=NORMS)
    """Normalisation and activation. See bacs/networks/norms.py."""
    norm_momentum: float = knob(0.1, gt=0, le=1)
    """Share of the newest batch in the running statistics."""
    pretrained_backbone: bool = knob(False)
    """Start from ImageNet weights."""
    backbone_weights_path: str | None = knob(None, path=True)
    """File with those weights, torchvision's or an in-place-ABN checkpoint; null: torchvision's, downloaded."""

    def norm_config(self) -> NormConfig:
        return NormConfig(self.norm, self.norm_momentum)


class ResNetSegmentationNetwork(SegmentationNetwork):
    """A network on the backbone that :func:`build_backbone` makes."""

    backbone: ResNet

    @property
    def notes(self) -> list[str]:
        return [self.backbone.pretrained.summary()] if self.backbone.pretrained is not None else []


def check_backbone(config: BackboneConfig) -> list[Fault]:
    """What can be told before anything is built."""
    path = config.backbone_weights_path
    if not config.pretrained_backbone or path is None or Path(path).is_file():
        return []
    remedy = "correct the path, or set it to null to download torchvision's weights"
    return [Fault("network.backbone_weights_path", f"is {path!r}, which is no file", remedy)]


def build_backbone(config: BackboneConfig, n_channels: int) -> ResNet:
    """The backbone with random or pretrained weights.

    Raises:
        RequestError: where pretrained weights are asked for and cannot be had or do not fit.
    """
    faults = check_backbone(config)
    if config.pretrained_backbone and n_channels != 3:
        problem = f"is true, but the images have {n_channels} channel(s) and the weights were trained on 3"
        faults.append(Fault("network.pretrained_backbone", problem, "set network.pretrained_backbone=false"))
    if faults:
        raise RequestError(faults)
    backbone = ResNet(
        config.depth,
        norm=config.norm_config(),
        output_stride=config.output_stride,
        atrous=config.atrous_encoder,
        in_channels=n_channels,
    )
    if config.pretrained_backbone and config.backbone_weights_path is not None:
        load_weights(backbone, Path(config.backbone_weights_path))
    elif config.pretrained_backbone:
        load_official(backbone, config.depth)
    return backbone
