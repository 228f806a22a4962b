"""Segmentation networks behind one contract."""

from bacs.networks.backbone import BackboneConfig
from bacs.networks.contract import HEAD_INITS, TOKEN_INITS, NetworkOutput, SegmentationNetwork
from bacs.networks.deeplab_v3 import DeepLabV3, DeepLabV3Config
from bacs.networks.heads import GrowingHead
from bacs.networks.norms import NormConfig, synced
from bacs.networks.resnet import ResNet
from bacs.networks.transeg import TranSeg, TranSegConfig
from bacs.networks.unet import UNet, UNetConfig

__all__ = [
    "HEAD_INITS",
    "TOKEN_INITS",
    "BackboneConfig",
    "DeepLabV3",
    "DeepLabV3Config",
    "GrowingHead",
    "NetworkOutput",
    "NormConfig",
    "ResNet",
    "SegmentationNetwork",
    "TranSeg",
    "TranSegConfig",
    "UNet",
    "UNetConfig",
    "synced",
]
