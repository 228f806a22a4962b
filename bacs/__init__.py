"""BACS: background-aware continual semantic segmentation. Needs PyTorch only."""

__version__ = "0.1.0"
