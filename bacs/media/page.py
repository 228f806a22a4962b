"""What all pictures are drawn with: paper, ink, text and legends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (38, 38, 38)
PALE: Colour = (206, 206, 206)
MARGIN = 12
"""Pixels between parts of a picture, and around them."""
TEXT_SIZE = 14
ROW = 24
"""Height of a line of text with its surroundings, in pixels."""

_SWATCH = 14


@cache
def font(size: int = TEXT_SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The typeface that comes with Pillow."""
    return ImageFont.load_default(size)


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    return np.array(image, dtype=np.uint8)


def swatch(colours: NDArray[np.uint8]) -> Image.Image:
    """A bordered box that shows one colour (3,), or several (N, 3) as a strip from left to right."""
    strip = np.atleast_2d(colours)
    inside = np.repeat(strip[None], _SWATCH - 2, axis=0)
    if len(strip) == 1:
        inside = np.repeat(inside, _SWATCH - 2, axis=1)
    box = Image.new("RGB", (inside.shape[1] + 2, _SWATCH), INK)
    box.paste(Image.fromarray(np.ascontiguousarray(inside)), (1, 1))
    return box


def legend(entries: Sequence[tuple[Image.Image, str]], width: int) -> Image.Image:
    """Swatches with their names, in as many rows as ``width`` pixels ask for."""
    gap = _SWATCH // 2
    places: list[tuple[int, int]] = []
    left, top = 0, 0
    for box, text in entries:
        needed = box.width + gap + round(font().getlength(text))
        if left and left + needed > width:
            left, top = 0, top + ROW
        places.append((left, top))
        left += needed + 2 * gap
    strip = blank(width, top + ROW)
    draw = ImageDraw.Draw(strip)
    for (box, text), (x, y) in zip(entries, places, strict=True):
        strip.paste(box, (x, y + (ROW - _SWATCH) // 2))
        draw.text((x + box.width + gap, y + ROW // 2), text, INK, font(), anchor="lm")
    return strip
