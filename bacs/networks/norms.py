"""Normalisation layers: batch norm with its activation, the in-place kind, statistics over all ranks."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bacs.distributed import sum_over_ranks, world_size

NORMS = ("bn", "abn", "iabn", "iabn_sync")
"""``bn``: batch norm + ReLU. ``abn``: batch norm + leaky ReLU. ``iabn``: as abn, scaled by |weight| + 1e-5, in place
where the extension ``inplace_abn`` is installed. ``iabn_sync``: as iabn, with the statistics of all ranks."""

SLOPE = 0.01
"""Negative slope of the leaky ReLU."""

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class NormConfig:
    """How a network normalises and activates."""

    kind: str = "iabn_sync"
    """One of :data:`NORMS`."""
    momentum: float = 0.1
    """Share of the newest batch in the running statistics. (The original's ``bn`` had 0.0003: they hardly moved.)"""

    def __post_init__(self) -> None:
        if self.kind not in NORMS:
            raise ValueError(f"kind ({self.kind!r}) must be one of {NORMS}")

    @classmethod
    def of(cls, norm: NormConfig | str) -> NormConfig:
        return cls(norm) if isinstance(norm, str) else norm

    @property
    def activation(self) -> Literal["relu", "leaky_relu"]:
        return "relu" if self.kind == "bn" else "leaky_relu"

    @property
    def uses_magnitude(self) -> bool:
        """Whether a channel is scaled by |weight| + eps, not by the weight."""
        return self.kind in ("iabn", "iabn_sync")

    def layer(self, channels: int, *, activated: bool = True) -> ActivatedNorm:
        """The layer for maps with ``channels`` channels; not activated, it only normalises."""
        return ActivatedNorm(
            channels,
            activation=self.activation if activated else "identity",
            momentum=self.momentum,
            magnitude=self.uses_magnitude,
            sync=self.kind == "iabn_sync",
        )


class ActivatedNorm(nn.BatchNorm2d):
    """Batch normalisation followed by its activation, with the state-dict keys of :class:`torch.nn.BatchNorm2d`.

    In training mode, a single value per channel (one image whose map is 1x1) is normalised with the running statistics,
    which then stay as they are: its own variance is 0, so the batch's statistics would turn every image into the same
    output.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(
        self, channels: int, *, activation: str, momentum: float = 0.1, magnitude: bool = False, sync: bool = False
    ) -> None:
        """A layer with weight 1 and bias 0.

        Args:
            channels: C of the maps.
            activation: relu, leaky_relu or identity.
            momentum: share of the newest batch in the running statistics.
            magnitude: scale by |weight| + eps, as in-place ABN does to stay invertible (Rota Bulo et al. 2018,
                section 3), and overwrite the input where the extension is installed and suits the tensor.
            sync: in training mode, take the statistics over all ranks. Every rank must then call the layer, otherwise
                the others wait for ever.
        """
        super().__init__(channels, momentum=momentum)
        self.activation = activation
        self.magnitude = magnitude
        self.sync = sync

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). May overwrite ``x``."""
        self._check_input_dim(x)
        over_ranks = self.sync and world_size() > 1
        training = self.training and (over_ranks or x.numel() > x.shape[1])
        if training:
            self.num_batches_tracked.add_(1)
        # Never over ranks: the extension synchronises on GPUs alone, and by other messages than ours, so a rank that
        # does not have it would wait for ever.
        if self.magnitude and not over_ranks and _in_place_suits(x):
            return self._in_place(x, training)
        return activate(self._normalise(x, training, over_ranks), self.activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.activation}, magnitude={self.magnitude}, sync={self.sync}"

    def _normalise(self, x: Tensor, training: bool, over_ranks: bool) -> Tensor:
        weight: Tensor = self.weight
        if self.magnitude:  # where, not abs: the gradient at weight 0 is 1, as in the extension
            weight = torch.where(weight < 0, -weight, weight) + self.eps
        mean, variance = self.running_mean, self.running_var
        if training and over_ranks:
            normalised: Tensor = _SyncedNorm.apply(x, weight, self.bias, mean, variance, self.momentum, self.eps)
            return normalised
        return functional.batch_norm(x, mean, variance, weight, self.bias, training, self.momentum, self.eps)

    def _in_place(self, x: Tensor, training: bool) -> Tensor:
        kernels = extension()
        assert kernels is not None
        settings = (training, self.momentum, self.eps, self.activation, SLOPE)
        result: Tensor = kernels.inplace_abn(x, self.weight, self.bias, self.running_mean, self.running_var, *settings)
        return result


def activate(x: Tensor, activation: str, *, inplace: bool = True) -> Tensor:
    """Applies ``relu``, ``leaky_relu`` or ``identity``."""
    if activation == "relu":
        return functional.relu(x, inplace=inplace)
    if activation == "leaky_relu":
        return functional.leaky_relu(x, SLOPE, inplace=inplace)
    return x


@functools.cache
def extension() -> ModuleType | None:
    """The functions of the optional package ``inplace_abn``; ``None`` where it is missing or does not load."""
    try:
        return importlib.import_module("inplace_abn.functions")
    except (ImportError, OSError):  # OSError: built against another version of PyTorch or CUDA
        return None


def _in_place_suits(x: Tensor) -> bool:
    """Whether the extension may overwrite and computes correctly on this tensor.

    It refuses half precision and tensors without numbers (``meta``), and a leaf that needs a gradient cannot be
    overwritten. Other memory formats than the contiguous one are left to PyTorch.
    """
    if x.is_meta:
        return False
    leaf = x.is_leaf and x.requires_grad and torch.is_grad_enabled()
    return not leaf and x.dtype in (torch.float32, torch.float64) and x.is_contiguous() and extension() is not None


def synced(module: AnyModule) -> AnyModule:
    """Makes every batch norm inside ``module`` take its statistics over all ranks, in place.

    Parameters, buffers and state-dict keys stay the same ones; without a process group nothing changes. Unlike
    :class:`torch.nn.SyncBatchNorm` it works on the CPU.

    Returns:
        ``module``, or its replacement if it is itself a batch norm.
    """
    if isinstance(module, ActivatedNorm):
        module.sync = True
        return module
    if isinstance(module, nn.BatchNorm2d):
        return cast(AnyModule, _as_synced(module))
    for name, child in module.named_children():
        setattr(module, name, synced(child))
    return module


def _as_synced(layer: nn.BatchNorm2d) -> ActivatedNorm:
    if layer.momentum is None or not layer.affine or not layer.track_running_stats:
        raise ValueError(f"{layer} must have a momentum, an affine part and running statistics to be synchronised")
    new = ActivatedNorm(layer.num_features, activation="identity", momentum=layer.momentum, sync=True)
    new.eps = layer.eps
    new.train(layer.training)
    for name, parameter in layer.named_parameters():
        setattr(new, name, parameter)
    for name, buffer in layer.named_buffers():
        setattr(new, name, buffer)
    return new


class _SyncedNorm(torch.autograd.Function):
    """Batch normalisation with the mean and variance of all ranks; one all-reduce forward, one backward.

    The variances are joined by the parallel formula (Chan et al. 1983, eq. 2.1), which does not cancel like
    E[x^2] - E[x]^2. Ranks may hold different numbers of pixels. Weight and bias get the gradient of their own rank,
    which data parallelism then averages.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, momentum: float, eps: float
    ) -> Tensor:
        batch_mean, batch_variance, count = _joint_statistics(x)
        mean.lerp_(batch_mean, momentum)
        variance.lerp_(batch_variance * (count / (count - 1)), momentum)
        inverse = (batch_variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, batch_mean, inverse, count)
        return functional.batch_norm(x, batch_mean, batch_variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        standard = (x - _wide(mean)) * _wide(inverse)
        own = torch.stack([grad.sum((0, 2, 3), dtype=mean.dtype), (grad * standard).sum((0, 2, 3))])
        shift, slope = sum_over_ranks(own) / count
        centred = grad - _wide(shift) - standard * _wide(slope)
        grad_x = (centred * _wide(weight * inverse)).to(x.dtype)
        return grad_x, own[1], own[0], None, None, None, None


def _joint_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of values per channel () over all ranks."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    own_variance, own_mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    table = x.new_zeros(world_size(), 2 * x.shape[1] + 1)
    table[dist.get_rank()] = torch.cat([own_mean, own_variance, own_mean.new_tensor([x.numel() / x.shape[1]])])
    table = sum_over_ranks(table)
    means, variances, counts = table[:, : x.shape[1]], table[:, x.shape[1] : -1], table[:, -1:]
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    return mean, variance, count


def _wide(channels: Tensor) -> Tensor:
    """(C,) -> (C, 1, 1), to broadcast over a map."""
    return channels[:, None, None]
