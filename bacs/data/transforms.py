"""Crops, scales and flips of an image together with its mask; every random one is a function of a seed.

Pixels travel as one array (H, W, 4) of RGB and mask value, so that what is cut from the image is cut from the mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

AREA = (0.5, 2.0)
"""Area of a random crop as a share of the image's, in the original. Crops above 1 fit no image; drawing one costs an
attempt, and after ten the crop is central: 14 % of draws on images of VOC's shape, 75 % on Cityscapes'."""
ASPECT = (3 / 4, 4 / 3)
"""Width / height of a random crop."""
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_view(
    pixels: NDArray[np.uint8], crop_size: int | tuple[int, int], draw: int, area: tuple[float, float] = AREA
) -> tuple[Tensor, Tensor]:
    """The training view: a random resized crop, flipped half of the time.

    Args:
        pixels: (H, W, 4) RGB and mask value; of a memory map only the crop is read.
        crop_size: side, or height and width of the view, in pixels.
        draw: seed; equal pixels and draws give equal views.
        area: bounds of the crop's area, as a share of the image's.

    Returns:
        uint8 image (3, h, w) and uint8 mask values (h, w).
    """
    rng = np.random.default_rng(draw)
    window = draw_window(rng, pixels.shape[0], pixels.shape[1], area)
    flip = rng.random() < 0.5
    below, right = window.top + window.height, window.left + window.width
    size = [crop_size, crop_size] if isinstance(crop_size, int) else list(crop_size)
    image, mask = _scaled(_tensor(pixels[window.top : below, window.left : right]), size)
    return (functional.horizontal_flip(image), functional.horizontal_flip(mask)) if flip else (image, mask)


def fixed_view(pixels: NDArray[np.uint8], crop_size: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The view for evaluation: the shorter side scaled to ``crop_size`` and the centre cut out, or, for a pair, the
    whole image scaled to exactly (h, w). As :func:`random_view` otherwise."""
    if isinstance(crop_size, tuple):
        return _scaled(_tensor(pixels), list(crop_size))
    image, mask = (functional.center_crop(part, [crop_size]) for part in _scaled(_tensor(pixels), [crop_size]))
    return image.contiguous(), mask.contiguous()


def whole(pixels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Image (3, H, W) and mask values (H, W) as they are."""
    channels = _tensor(pixels)
    return channels[:3].contiguous(), channels[3].contiguous()


def draw_window(rng: np.random.Generator, height: int, width: int, area: tuple[float, float] = AREA) -> Window:
    """A window of random area and aspect that fits the image; after ten that do not, the largest central one."""
    for _ in range(_ATTEMPTS):
        pixels = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Window(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    h, w = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    return Window((height - h) // 2, (width - w) // 2, h, w)


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(4, h, w), a copy: memory maps are read-only."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def _scaled(channels: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Image (3, h, w) and mask (h, w) of a new size.

    Nearest-exact takes the mask value at the centre of each new pixel, where the image is interpolated too. Scaling
    all four channels and dropping one is three times as fast as cutting three out of four first.
    """
    image = functional.resize(channels, size, InterpolationMode.BILINEAR, antialias=True)[:3]
    mask = functional.resize(channels[3:], size, InterpolationMode.NEAREST_EXACT)[0]
    return image.contiguous(), mask.contiguous()
