"""The panel of one image: what it shows, what is true, what is predicted, how much of it the detector has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bacs.data import IGNORE
from bacs.media.page import INK, MARGIN, ROW, blank, font, legend, pixels, swatch
from bacs.media.palette import ramp

SMALL, LARGE = 240, 512
"""Longer side of a tile in pixels: smaller images are magnified to at most SMALL, larger ones reduced to LARGE."""


def draw_panel(
    image: NDArray[np.uint8],
    truth: NDArray[np.int64],
    prediction: NDArray[np.int64],
    seen: NDArray[np.float64] | None,
    colours: NDArray[np.uint8],
    names: Sequence[str],
) -> NDArray[np.uint8]:
    """The tiles side by side, with their titles above and the names of the classes in them below.

    Args:
        image: (H, W, C), one channel or three.
        truth: (H, W) internal labels, 255 ignored.
        prediction: (H, W) internal labels.
        seen: (H, W) in [0, 1]; ``None`` where there is no detector.
        colours: (256, 3) of each label.
        names: of each label.

    Returns:
        (H', W', 3).
    """
    tiles = [("image", np.broadcast_to(image, (*truth.shape, 3))), ("truth", colours[truth])]
    tiles.append(("prediction", colours[prediction]))
    entries = [(swatch(colours[label]), names[label]) for label in _present(truth, prediction)]
    if (truth == IGNORE).any():
        entries.append((swatch(colours[IGNORE]), "not counted"))
    if seen is not None:
        tiles.append(("seen probability", ramp(seen)))
        entries.append((swatch(ramp(np.linspace(0, 1, 80))), "seen probability, 0 to 1"))
    return pixels(_composed(tiles, entries))


def tile_box(index: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a tile in the panel of an image of ``size`` (H, W), in pixels."""
    height, width = size
    longer = max(size)
    if longer <= LARGE:
        factor = max(1, SMALL // longer)
        width, height = width * factor, height * factor
    else:
        width, height = max(1, width * LARGE // longer), max(1, height * LARGE // longer)
    return MARGIN + index * (width + MARGIN), ROW, width, height


def _present(truth: NDArray[np.int64], prediction: NDArray[np.int64]) -> list[int]:
    found = np.union1d(truth, prediction)
    return [int(label) for label in found[found != IGNORE]]


def _composed(tiles: list[tuple[str, NDArray[np.uint8]]], entries: list[tuple[Image.Image, str]]) -> Image.Image:
    size = (tiles[0][1].shape[0], tiles[0][1].shape[1])
    left, _, width, height = tile_box(len(tiles), size)
    strip = legend(entries, left - 2 * MARGIN)
    panel = blank(left, ROW + height + MARGIN // 2 + strip.height)
    draw = ImageDraw.Draw(panel)
    for index, (title, content) in enumerate(tiles):
        x, y, *_ = tile_box(index, size)
        # Classes must not blend where a large image is reduced; the photograph may.
        smooth = index == 0 and width < size[1]
        how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
        panel.paste(Image.fromarray(np.ascontiguousarray(content)).resize((width, height), how), (x, y))
        draw.text((x + width // 2, ROW // 2), title, INK, font(), anchor="mm")
    panel.paste(strip, (MARGIN, ROW + height + MARGIN // 2))
    return panel
