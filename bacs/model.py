"""The network of a run together with its detector, if its method has one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

from torch import Tensor, nn

from bacs.detector import Detector
from bacs.networks import NetworkOutput, SegmentationNetwork


class MethodState(nn.Module, ABC):
    """What a method keeps across steps beside network and detector, such as a prototype a class; saved with them."""

    @abstractmethod
    def grow(self, n_new: int) -> None:
        """Makes room for the classes of the next step, with the background in the first call."""


class Model(nn.Module):
    """What is trained, copied as teacher and saved: the network and the detector grow together."""

    def __init__(
        self, network: SegmentationNetwork, detector: Detector | None, state: MethodState | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.detector = detector
        self.state = state
        self.n_steps = 0

    def forward(self, images: Tensor) -> NetworkOutput:
        return self.network(images)

    def grow(self, n_new: int, init: str) -> None:
        """Prepares for the classes of the next step."""
        self.network.grow(n_new, init)
        if self.state is not None:
            self.state.grow(n_new)
        if self.detector is not None:
            self.detector.append_head(n_new)
            if self.n_steps > 0:
                self.detector.freeze_projector()
        self.n_steps += 1

    def snapshot(self) -> Model:
        """An independent, frozen copy in eval mode: the teacher of the next step."""
        teacher = copy.deepcopy(self)
        teacher.requires_grad_(False)
        return teacher.eval()
