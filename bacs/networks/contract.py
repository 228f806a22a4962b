"""What every segmentation network promises to the losses, the detector and the run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

HEAD_INITS = ("mib", "mib_noise", "random")
"""How the heads of new classes may start; see :meth:`bacs.networks.heads.GrowingHead.grow`."""
TOKEN_INITS = ("random", "mean", "background")
"""How the tokens of new classes may start, in networks that have a token a class."""


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """One forward pass. Every tensor belongs to the same images, in the same order."""

    logits: Tensor
    """(B, K, H, W): one channel a class seen so far, at the size of the input."""
    sem_logits: Tensor
    """(B, K, h, w): the logits at the resolution at which the network computes them."""
    replay_logits: Tensor
    """(B, K, h, w): what replay stores and compares: logits that stay comparable when classes are added. ``sem_logits``
    itself, except where a network normalises over the classes."""
    bottleneck: Tensor
    """(B, C, h', w'): the deepest features, the detector's input."""
    features: list[Tensor]
    """Intermediate maps from shallow to deep; the last one is the decoder's output, just before the heads."""

    def split(self, first: int) -> tuple[NetworkOutput, NetworkOutput]:
        """Divides the batch into its first ``first`` images and the rest."""
        return self._rows(slice(0, first)), self._rows(slice(first, None))

    def _rows(self, rows: slice) -> NetworkOutput:
        features = [feature[rows] for feature in self.features]
        return NetworkOutput(
            self.logits[rows], self.sem_logits[rows], self.replay_logits[rows], self.bottleneck[rows], features
        )


class SegmentationNetwork(nn.Module, ABC):
    """A backbone, a decoder and a classifier that grows by the classes of every step."""

    bottleneck_channels: int
    """C of :attr:`NetworkOutput.bottleneck`."""

    growth_inits: ClassVar[tuple[str, ...]] = HEAD_INITS
    """How new classes may start."""

    @abstractmethod
    def forward(self, images: Tensor) -> NetworkOutput:
        """Args: images: (B, 3 or 1, H, W), normalised. Any H and W."""

    @abstractmethod
    def grow(self, n_new: int, init: str) -> None:
        """Appends ``n_new`` classes (with the background, in the first call).

        Args:
            n_new: number of foreground classes of the step; 0 in later steps of a domain-incremental stream, where
                nothing grows.
            init: how the new classes start, one of ``growth_inits``.
        """

    @property
    def notes(self) -> list[str]:
        """What the user should know about how the network was made."""
        return []

    @property
    @abstractmethod
    def n_classes(self) -> int:
        """K: the logits of a forward pass, background included."""
