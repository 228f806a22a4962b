"""What every dataset offers, and the view a continual step has of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bacs.data.scenario import label_table, select_domains, select_images, select_seen
from bacs.data.splits import DomainSplit, TaskSplit


class Scenes(Protocol):
    """The images of one subset with their full masks. Objects are cheap to pickle: workers of a loader get a copy."""

    presence: NDArray[np.bool_]
    """(N, V+1) whether an image has a pixel of a class, by original class id, in its full mask."""
    group: NDArray[np.int64] | None
    """(N,) 0-based domain (city) of each image; ``None`` where the dataset has no domains."""

    def __len__(self) -> int: ...

    def read(self, rows: NDArray[np.int64], draws: NDArray[np.int64] | None) -> tuple[Tensor, Tensor]:
        """Images and masks of one size.

        Args:
            rows: (B,) positions in this subset, repeats allowed.
            draws: (B,) a seed per image of its random crop and flip; equal row and draw give equal bytes in every
                process. ``None``: the deterministic view. Sets without augmentation do not look at it.

        Returns:
            uint8 (B, C, H, W) and uint8 (B, H, W): original class ids, 0 background, 255 ignored.
        """

    def read_whole(self, row: int) -> tuple[Tensor, Tensor]:
        """One image and its mask at their original size: (1, C, H, W), (1, H, W)."""


@dataclass(frozen=True, slots=True)
class SceneSet:
    """Images of one size, in memory or memory-mapped; see :class:`Scenes`."""

    images: NDArray[np.uint8]
    """(N, H, W) grey or (N, H, W, 3) colour, 0..255."""
    labels: NDArray[np.uint8]
    """(N, H, W) original class ids 1..V, 0 background, 255 ignored."""
    presence: NDArray[np.bool_]
    group: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.images.shape[:3] != self.labels.shape:
            raise ValueError(f"images {self.images.shape} and labels {self.labels.shape} must agree in (N, H, W)")
        if len(self.presence) != len(self.labels):
            raise ValueError(f"presence ({len(self.presence)}) must have a row per image ({len(self.labels)})")

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: NDArray[np.int64], draws: NDArray[np.int64] | None) -> tuple[Tensor, Tensor]:
        images, labels = torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])
        if images.dim() == 3:
            return images.unsqueeze(1), labels
        return images.permute(0, 3, 1, 2).contiguous(), labels

    def read_whole(self, row: int) -> tuple[Tensor, Tensor]:
        return self.read(np.array([row]), None)


class SegmentationData(Protocol):
    """A dataset: three disjoint sets of images over the same classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The V foreground classes; class id = position + 1."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains (cities) that a domain-incremental split divides; empty: steps bring classes."""

    @property
    def evaluation(self) -> str:
        """``crop_val``: the deterministic view of an image counts as the image; ``full``: its original pixels."""

    @property
    def window(self) -> tuple[int, int]:
        """(h, w) of the images that training sees; with ``full`` the size of the sliding window."""

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
    def train(self) -> Scenes: ...

    @property
    def val(self) -> Scenes:
        """Held out from training; choices are made on it. May be empty: then nothing can be chosen."""

    @property
    def test(self) -> Scenes:
        """Never used to choose anything."""

    @property
    def manifest(self) -> str:
        """Hash of what determines the bytes of the three sets."""


class StepView:
    """The images and labels that one continual step may see; nothing is copied until a batch is asked for.

    Purpose ``train``: the images and labels of the mode. Purpose ``seen``, for validation and test: the
    images with any class of the steps 0..step, all seen classes revealed, later ones background. In a domain split
    both are the images of the step's own domains.
    """

    def __init__(
        self, scenes: Scenes, split: TaskSplit, step: int, *, mode: str, purpose: Literal["train", "seen"]
    ) -> None:
        if purpose not in ("train", "seen"):
            raise ValueError(f"purpose ({purpose!r}) must be one of: train, seen")
        self._scenes = scenes
        self.indices: NDArray[np.int64] = _select(scenes, split, step, mode, purpose)
        """(len,) Index of each visible image in the scene set."""
        self.table: NDArray[np.uint8] = label_table(split, step, mode=mode, evaluation=purpose == "seen")
        """(256,) Original mask value -> internal label."""
        self._wide_table = self.table.astype(np.int64)  # so that one gather gives the dtype of a loss's target

    def __len__(self) -> int:
        return len(self.indices)

    def only(self, positions: NDArray[np.int64]) -> StepView:
        """The same view of fewer images."""
        smaller = copy.copy(self)
        smaller.indices = self.indices[positions]
        return smaller

    def batch(self, positions: NDArray[np.int64], draws: NDArray[np.int64] | None = None) -> tuple[Tensor, Tensor]:
        """Reads images by their position in the view (0..len-1), repeats allowed; see :meth:`Scenes.read`.

        Returns:
            uint8 images (B, C, H, W), int64 internal labels (B, H, W).
        """
        images, labels = self._scenes.read(self.indices[positions], draws)
        return images, torch.from_numpy(self._wide_table[labels.numpy()])

    def whole(self, position: int) -> tuple[Tensor, Tensor]:
        """One image at its original size: uint8 (1, C, H, W), int64 (1, H, W)."""
        image, labels = self._scenes.read_whole(int(self.indices[position]))
        return image, torch.from_numpy(self._wide_table[labels.numpy()])

    def presence(self, n_labels: int) -> NDArray[np.bool_]:
        """(len, n_labels) whether an image's labels in this view have a pixel of an internal label."""
        seen = np.zeros((len(self), n_labels), dtype=bool)
        for value, present in enumerate(self._scenes.presence[self.indices].T):
            if self.table[value] < n_labels:
                seen[:, self.table[value]] |= present
        return seen


def _select(scenes: Scenes, split: TaskSplit, step: int, mode: str, purpose: str) -> NDArray[np.int64]:
    if isinstance(split, DomainSplit):
        if scenes.group is None:
            raise ValueError("a domain split needs scenes with domains")
        return select_domains(scenes.group, split, step)
    if purpose == "train":
        return select_images(scenes.presence, split, step, mode)
    return select_seen(scenes.presence, split, step)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scales uint8 images (B, C, H, W) to 0..1, standardises each channel; float32, same device."""
    if not len(mean) == len(std) == images.shape[1]:
        raise ValueError(
            f"mean ({len(mean)}) and std ({len(std)}) must have one number per channel ({images.shape[1]})"
        )
    shift = torch.tensor(mean, dtype=torch.float32, device=images.device)[:, None, None]
    scale = torch.tensor(std, dtype=torch.float32, device=images.device)[:, None, None]
    return (images.to(torch.float32) / 255 - shift) / scale
