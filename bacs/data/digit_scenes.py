"""Composes scenes of handwritten digits.

Shapes: k digits of a scene, M digit images of a pool, S tile size, H = W canvas size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bacs.data.digit_config import DigitsConfig
from bacs.data.digit_source import SUBSETS, DigitPool

MAX_TRIES = 1001
"""Candidate places per digit."""
FULL_INK = 255


@dataclass(frozen=True, slots=True)
class Layout:
    """Which digit images a scene shows and where."""

    picks: NDArray[np.int64]
    """(k,) Rows of the pool."""
    corners: NDArray[np.int64]
    """(k, 2) Top-left pixel (row, column) of each tile."""


def make_scenes(
    pool: DigitPool, config: DigitsConfig, subset: str, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The first ``count`` scenes of a subset.

    Returns:
        Images (count, H, W) of ink 0..255; labels (count, H, W): digit + 1, background 0.
    """
    images = np.empty((count, config.canvas, config.canvas), np.uint8)
    labels = np.empty_like(images)
    for index in range(count):
        layout = draw_layout(len(pool), config, subset, index)
        images[index], labels[index] = compose(pool, layout, config)
    return images, labels


def draw_layout(pool_size: int, config: DigitsConfig, subset: str, index: int) -> Layout:
    """Draws scene ``index`` of a subset; depends on (seed, subset, index) and on no other scene.

    A digit goes to the first of ``MAX_TRIES`` random places where its tile overlaps no earlier one too much.
    Where there is none the scene stays with the digits placed so far.
    """
    rng = np.random.default_rng((config.seed, SUBSETS.index(subset), index))
    picks: list[int] = []
    corners = np.empty((0, 2), np.int64)
    for _ in range(rng.integers(config.min_digits, config.max_digits, endpoint=True)):
        pick = int(rng.integers(pool_size))
        places = rng.integers(0, config.canvas - config.digit_size, size=(MAX_TRIES, 2), endpoint=True)
        overlaps = tile_iou(places[:, None], corners[None], config.digit_size)
        free = np.flatnonzero((overlaps <= config.max_overlap_iou).all(axis=1))
        if not len(free):
            break
        picks.append(pick)
        corners = np.concatenate([corners, places[free[:1]]])
    return Layout(np.array(picks, np.int64), corners)


def tile_iou(a: NDArray[np.int64], b: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Intersection over union of square tiles of ``size`` pixels by their corners (..., 2)."""
    sides = np.maximum(size - np.abs(a - b), 0)
    intersection = sides[..., 0] * sides[..., 1]
    return np.asarray(intersection / (2 * size**2 - intersection), np.float64)


def compose(pool: DigitPool, layout: Layout, config: DigitsConfig) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Paints a layout.

    Ink adds up and saturates, on the canvas and in the map of each digit class. A pixel belongs to the class
    with the strongest ink, to the smaller digit in a tie, and to the background where that ink is not above
    the threshold.

    Returns:
        Image (H, W) and label (H, W).
    """
    present = np.unique(pool.digits[layout.picks])
    ink = np.zeros((len(present), config.canvas, config.canvas), np.uint16)  # wide enough for sums of digits
    for pick, (row, column) in zip(layout.picks, layout.corners, strict=True):
        layer = ink[np.searchsorted(present, pool.digits[pick])]
        layer[row : row + config.digit_size, column : column + config.digit_size] += pool.images[pick]
    image = np.minimum(ink.sum(axis=0), FULL_INK).astype(np.uint8)
    saturated = np.minimum(ink, FULL_INK)
    foreground = saturated.max(axis=0) > config.ink_threshold
    label = np.where(foreground, present[saturated.argmax(axis=0)] + 1, 0)
    return image, label.astype(np.uint8)
