"""How much disk the outcome of a step takes, before there is one."""

from __future__ import annotations

import torch

from bacs.building import build_method, build_model
from bacs.config import RunConfig
from bacs.data import SegmentationData
from bacs.networks import TOKEN_INITS
from sweeps.settings import nested
from sweeps.workloads import WEIGHT_KEYS

RECORD_BYTES = 20_000
"""What stands beside the tensors: metrics and results, which grow with the number of steps."""


def outcome_bytes(run: RunConfig, data: SegmentationData) -> float:
    """Of a whole step: the weights and a full replay memory. The network is laid out, but takes no memory here."""
    return model_bytes(run, data) + memory_bytes(run, data) + RECORD_BYTES


def model_bytes(run: RunConfig, data: SegmentationData) -> int:
    network = run.resolved["network"]
    bare = {f"network.{name}": value for name, value in zip(WEIGHT_KEYS, (False, None), strict=True) if name in network}
    plain = RunConfig.from_dict(nested(run.resolved, bare))
    with torch.device("meta"):
        model = build_model(
            plain.network, build_method(plain.loss, plain.training, plain.compat), data.channels, plain.compat
        )
        model.grow(len(data.class_names), "mean" if plain.network.factory.growth_inits == TOKEN_INITS else "random")
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def memory_bytes(run: RunConfig, data: SegmentationData) -> float:
    """Images and labels of one byte a value, and logits of two bytes at the network's own resolution."""
    capacity, _ = build_method(run.loss, run.training, run.compat).memory
    pixels = data.window[0] * data.window[1]
    stride = getattr(run.network.settings, "output_stride", 1)
    logits = 2 * (1 + len(data.class_names)) * pixels / stride**2
    return min(capacity, len(data.train)) * (pixels * (data.channels + 1) + logits)
