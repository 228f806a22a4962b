"""Pixels of an image and its mask: decoded from their files, or mapped from a decoded copy."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from bacs.errors import RequestError

_MASK_MODES = ("L", "P")
_RESTORE = "restore the file from the dataset's archive"


@dataclass(frozen=True, slots=True)
class PixelReader:
    """Reads an image and its mask as one array."""

    copies: Path | None
    """Folder of decoded copies, one ``.npy`` per image, made when an image is first read; ``None``: decode always."""

    def read(self, name: str, image: str, mask: str) -> NDArray[np.uint8]:
        """(H, W, 4) RGB and raw mask value; a read-only memory map where there is a copy.

        Args:
            name: of the image, unique within the dataset.
            image: its file.
            mask: the file of its mask.

        Raises:
            RequestError: where a file is missing, damaged, of another kind, or both differ in size.
        """
        if self.copies is None:
            return decode(image, mask)
        copy = self.copies / f"{name}.npy"
        try:
            return np.load(copy, mmap_mode="r")
        except (OSError, ValueError, EOFError):  # absent, or cut short by a full disk or a power failure
            pixels = decode(image, mask)
            _write(copy, pixels)
            return pixels


def decode(image: str, mask: str) -> NDArray[np.uint8]:
    """(H, W, 4) RGB and raw mask value. As the method, without a copy."""
    colours, values = decode_picture(image), np.asarray(open_mask(mask))
    if colours.shape[:2] != values.shape:
        sizes = f"is {_size(values)} pixels, but its image {image} is {_size(colours)}"
        raise RequestError.of(mask, sizes, "replace the pair by files that belong together")
    pixels = np.empty((*values.shape, 4), dtype=np.uint8)
    for channel in range(3):  # one by one, as all three at once take NumPy four times as long
        pixels[..., channel] = colours[..., channel]
    pixels[..., 3] = values
    return pixels


def decode_picture(path: str) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of any 8-bit JPEG or PNG: grey, palette, CMYK; transparency is dropped, not blended.

    An orientation noted by the camera is not applied, as masks are drawn on the stored pixels.
    """
    try:
        picture = decode_image(path, ImageReadMode.RGB)
    except (RuntimeError, ValueError) as error:
        reason = str(error).rsplit(", ", 1)[-1]  # before it stands a place in torchvision's source
        raise RequestError.of(path, f"cannot be read: {reason}", _RESTORE) from None
    if picture.dtype != torch.uint8:
        raise RequestError.of(path, f"has values of type {picture.dtype}, not of 8 bits", "convert it to 8 bits")
    return picture.permute(1, 2, 0).numpy()


def open_mask(path: str) -> Image.Image:
    """A decoded mask of mode L or P, whose pixels are the mask values: a palette is never looked up.

    Raises:
        RequestError: where the file is missing, damaged, or has colours instead of values.
    """
    try:
        with Image.open(path) as mask:
            mask.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise RequestError.of(path, f"cannot be read: {error}", _RESTORE) from None
    if mask.mode not in _MASK_MODES:
        rule = f"has pixels of mode {mask.mode}, but a mask must hold one 8-bit class id a pixel"
        raise RequestError.of(path, rule, "save it as a grey or palette PNG of class ids")
    return mask


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _write(copy: Path, pixels: NDArray[np.uint8]) -> None:
    """Under a name of its own first, so that no reader sees half a file; the last of several writers wins."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    draft = copy.with_name(f".{copy.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("wb") as file:
            np.save(file, pixels, allow_pickle=False)
        draft.replace(copy)
    finally:
        draft.unlink(missing_ok=True)
