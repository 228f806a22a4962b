"""The growing classifier: one 1x1 convolution a step, on shared or on separate features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bacs.networks.contract import HEAD_INITS
from bacs.networks.norms import NormConfig


class GrowingHead(nn.Module):
    """Concatenates the logits of one 1x1 convolution per step.

    The first head holds background and the classes of step 0, each later one the classes of its step. With separate
    features every head first sees a 3x3 convolution, norm and activation of its own.
    """

    def __init__(self, in_channels: int, separate_feats: NormConfig | None = None) -> None:
        """A classifier without classes.

        Args:
            in_channels: C of the features.
            separate_feats: the norm of the heads' own features; ``None``: all heads share the features as they come.
        """
        super().__init__()
        self.in_channels = in_channels
        self.separate_feats = separate_feats
        self.heads = nn.ModuleList()
        self.trunks = nn.ModuleList()

    @property
    def n_classes(self) -> int:
        return sum(int(head.weight.shape[0]) for head in self._convolutions())

    def grow(self, n_new: int, init: str = "mib") -> None:
        """Appends a head for ``n_new`` classes; 0 appends nothing, where there is a head already.

        ``mib`` (MiB, Cermelli et al. 2020, section 3.3): w_new = w_bg, b_new = b_bg - log(n_new + 1), and the
        background's own bias becomes b_new too, so that background and new classes share evenly the probability that
        the old background had.

        ``mib_noise`` adds the default random draw to those weights. Under plain ``mib`` all new classes of a step start
        equal, no gradient tells the features apart, and steps of a few hundred iterations end before they separate.

        ``random`` is PyTorch's default initialisation.

        Separate features start, except under ``random``, as a copy of those that the background is seen by.
        """
        first = len(self.heads) == 0
        if n_new < int(first):
            raise ValueError(f"n_new ({n_new}) must be at least {int(first)}")
        if init not in HEAD_INITS:
            raise ValueError(f"init ({init}) must be one of {HEAD_INITS}")
        if n_new == 0:
            return
        if self.separate_feats is not None:
            self._append_trunk(self.separate_feats, copied=not first and init != "random")
        head = nn.Conv2d(self.in_channels, n_new + int(first), kernel_size=1)
        if not first:
            old = self._convolutions()[0]
            head.to(old.weight.device)
            if init != "random":
                drawn = head.weight.detach().clone()
                _share_background(old, head)
                if init == "mib_noise":
                    with torch.no_grad():
                        head.weight.add_(drawn)
        self.heads.append(head)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K, h, w)."""
        heads = self._convolutions()
        if self.separate_feats is not None:
            pairs = zip(self.trunks, heads, strict=True)
            return torch.cat([head(trunk(features)) for trunk, head in pairs], dim=1)
        weight = torch.cat([head.weight for head in heads])
        bias = torch.cat([_bias(head) for head in heads])
        return functional.conv2d(features, weight, bias)

    def _append_trunk(self, norm: NormConfig, copied: bool) -> None:
        channels = self.in_channels
        trunk = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm.layer(channels))
        if len(self.trunks) > 0:
            trunk.to(next(self.trunks.parameters()).device)
        if copied:
            trunk.load_state_dict(self.trunks[0].state_dict())
        self.trunks.append(trunk)

    def _convolutions(self) -> list[nn.Conv2d]:
        return [head for head in self.heads if isinstance(head, nn.Conv2d)]


def _bias(head: nn.Conv2d) -> Tensor:
    if head.bias is None:
        raise AssertionError("heads are made with a bias")
    return head.bias


@torch.no_grad()
def _share_background(old: nn.Conv2d, new: nn.Conv2d) -> None:
    shared = _bias(old)[0] - math.log(new.weight.shape[0] + 1)
    new.weight.copy_(old.weight[:1].expand_as(new.weight))
    _bias(new).fill_(shared)
    _bias(old)[0] = shared
