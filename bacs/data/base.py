"""What every dataset offers, and the view a continual step has of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacs.data.scenario import label_table, select_images, select_seen
from bacs.data.splits import TaskSplit


@dataclass(frozen=True, slots=True)
class SceneSet:
    """Images with their full masks. The arrays may be memory maps."""

    images: NDArray[np.uint8]
    """(N, H, W) grey or (N, H, W, 3) colour, 0..255."""
    labels: NDArray[np.uint8]
    """(N, H, W) original class ids 1..V, 0 background, 255 ignored."""
    presence: NDArray[np.bool_]
    """(N, V+1) whether an image has a pixel of a class, by original class id."""

    def __post_init__(self) -> None:
        if self.images.shape[:3] != self.labels.shape:
            raise ValueError(f"images {self.images.shape} and labels {self.labels.shape} must agree in (N, H, W)")
        if len(self.presence) != len(self.labels):
            raise ValueError(f"presence ({len(self.presence)}) must have a row per image ({len(self.labels)})")

    def __len__(self) -> int:
        return len(self.labels)


class SegmentationData(Protocol):
    """A dataset: three disjoint sets of images over the same classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The V foreground classes; class id = position + 1."""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour images."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, in units of 0..1."""

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, in units of 0..1."""

    @property
    def train(self) -> SceneSet: ...

    @property
    def val(self) -> SceneSet:
        """Held out from training; choices are made on it."""

    @property
    def test(self) -> SceneSet:
        """Never used to choose anything."""

    @property
    def manifest(self) -> str:
        """Hash of what determines the bytes of the three sets."""


class StepView:
    """The images and labels that one continual step may see; nothing is copied until a batch is asked for.

    Purpose ``train``: the images and labels of the mode. Purpose ``seen``, for validation and test: the
    images with any class of the steps 0..step, all seen classes revealed, later ones background.
    """

    def __init__(
        self, scenes: SceneSet, split: TaskSplit, step: int, *, mode: str, purpose: Literal["train", "seen"]
    ) -> None:
        if purpose not in ("train", "seen"):
            raise ValueError(f"purpose ({purpose!r}) must be one of: train, seen")
        training = purpose == "train"
        self._scenes = scenes
        self.indices: NDArray[np.int64] = (
            select_images(scenes.presence, split, step, mode) if training else select_seen(scenes.presence, split, step)
        )
        """(len,) Index of each visible image in the scene set."""
        self.table: NDArray[np.uint8] = label_table(split, step, mode=mode, evaluation=not training)
        """(256,) Original mask value -> internal label."""
        self._wide_table = self.table.astype(np.int64)  # so that one gather gives the dtype of a loss's target

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Reads images by their position in the view (0..len-1), repeats allowed.

        Returns:
            uint8 images (B, C, H, W), int64 internal labels (B, H, W).
        """
        rows = self.indices[positions]
        images = torch.from_numpy(self._scenes.images[rows])
        labels = torch.from_numpy(self._wide_table[self._scenes.labels[rows]])
        if images.dim() == 3:
            return images.unsqueeze(1), labels
        return images.permute(0, 3, 1, 2).contiguous(), labels

    def presence(self, n_labels: int) -> NDArray[np.bool_]:
        """(len, n_labels) whether an image's labels in this view have a pixel of an internal label."""
        seen = np.zeros((len(self), n_labels), dtype=bool)
        for value, present in enumerate(self._scenes.presence[self.indices].T):
            if self.table[value] < n_labels:
                seen[:, self.table[value]] |= present
        return seen


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scales uint8 images (B, C, H, W) to 0..1, standardises each channel; float32, same device."""
    if not len(mean) == len(std) == images.shape[1]:
        raise ValueError(
            f"mean ({len(mean)}) and std ({len(std)}) must have one number per channel ({images.shape[1]})"
        )
    shift = torch.tensor(mean, dtype=torch.float32, device=images.device)[:, None, None]
    scale = torch.tensor(std, dtype=torch.float32, device=images.device)[:, None, None]
    return (images.to(torch.float32) / 255 - shift) / scale
