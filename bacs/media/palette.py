"""Colours: one per class, and a ramp for probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bacs.data import DomainSplit, TaskSplit

_RAMP = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=np.float64)
"""Dark to light by equal steps, so that it reads the same in grey: after the map "magma"."""


def colour_map() -> NDArray[np.uint8]:
    """(256, 3) the colour of each class id; 0 is black, 255 a light cream.

    Bits 0, 3, 6, ... of the id become the high bits of red, bits 1, 4, 7, ... of green, the others of blue, so that
    neighbouring ids differ most. Source: the development kit of the VOC 2012 challenge.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return colours


def mask_palette(split: TaskSplit) -> NDArray[np.uint8]:
    """(256, 3) the colour of each class id of the dataset.

    In a stream of domains, which has no background, id i has the colour of i + 1.
    """
    colours = colour_map()
    if isinstance(split, DomainSplit):
        colours[: split.n_classes] = colours[1 : split.n_classes + 1].copy()
    return colours


def label_colours(split: TaskSplit) -> NDArray[np.uint8]:
    """(256, 3) the colour of each internal label: that of its class id, so a class has one colour in all splits."""
    palette = mask_palette(split)
    of_labels = palette.copy()
    of_labels[: len(split.label_ids)] = palette[list(split.label_ids)]
    return of_labels


def ramp(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(...,) in [0, 1] -> (..., 3): dark for 0, light for 1."""
    places = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(values, places, channel) for channel in _RAMP.T], axis=-1).round().astype(np.uint8)
