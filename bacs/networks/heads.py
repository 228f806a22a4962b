"""The growing classifier: one 1x1 convolution a step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_INITS = ("mib", "mib_noise", "random")


class GrowingHead(nn.Module):
    """Concatenates the logits of one 1x1 convolution per step.

    The first head holds background and the classes of step 0, each later one the classes of its step.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.heads = nn.ModuleList()

    @property
    def n_classes(self) -> int:
        return sum(int(head.weight.shape[0]) for head in self._convolutions())

    def grow(self, n_new: int, init: str = "mib") -> None:
        """Appends a head for ``n_new`` classes.

        ``mib`` (MiB, Cermelli et al. 2020, section 3.3): w_new = w_bg, b_new = b_bg - log(n_new + 1), and the
        background's own bias becomes b_new too, so that background and new classes share evenly the probability that
        the old background had.

        ``mib_noise`` adds the default random draw to those weights. Under plain ``mib`` all new classes of a step start
        equal, no gradient tells the features apart, and steps of a few hundred iterations end before they separate.

        ``random`` is PyTorch's default initialisation.
        """
        if n_new < 1:
            raise ValueError(f"n_new ({n_new}) must be at least 1")
        if init not in HEAD_INITS:
            raise ValueError(f"init ({init}) must be one of {HEAD_INITS}")
        first = len(self.heads) == 0
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
        """(B, C, h, w) -> (B, K, h, w), one convolution for all heads."""
        heads = self._convolutions()
        weight = torch.cat([head.weight for head in heads])
        bias = torch.cat([_bias(head) for head in heads])
        return functional.conv2d(features, weight, bias)

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
