"""Segmentation networks behind one contract."""

from bacs.networks.contract import NetworkOutput, SegmentationNetwork
from bacs.networks.heads import HEAD_INITS, GrowingHead
from bacs.networks.unet import UNet, UNetConfig

__all__ = ["HEAD_INITS", "GrowingHead", "NetworkOutput", "SegmentationNetwork", "UNet", "UNetConfig"]
