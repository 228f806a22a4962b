"""The confusion matrix over training, as an animated picture."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bacs.media.page import INK, MARGIN, PALE, ROW, TEXT_SIZE, font
from bacs.media.palette import ramp

LIMIT_BYTES = 400_000
"""An animation that would be larger shows every second frame, every fourth, ..."""
KEPT = 100
"""Most validations of a continual step that are kept to be shown; where there are more, they are equally far apart."""
EPOCH_MS, STEP_MS = 300, 1500
"""How long a frame stays, in milliseconds."""
SIDE = 420
"""Pixels that the matrix may take, where its cells have room for it."""

LEVELS = 101
"""Shares are shown in whole percents: 0..100."""
UNKNOWN = LEVELS
"""In the place of a share: the class of the row has no pixel, or one of both is not learnt yet."""
_GREYS = 32  # of the text, after these
_SMALLEST, _LARGEST = 3, 32
_WIDTH = 360  # room for the title
_SCALE = "1 of the pixels of a row; grey: none"


@dataclass(frozen=True, slots=True)
class Frame:
    """One measurement: of the validation images after an epoch, or of the test images after a step."""

    step: int
    epoch: int | None
    """Finished epochs of the step; ``None``: the step is finished."""
    levels: NDArray[np.uint8]
    """(K, K) percent of the pixels of a class (row) that are predicted as a class (column), or ``UNKNOWN``."""

    @classmethod
    def of(cls, step: int, epoch: int | None, matrix: Sequence[Sequence[int]]) -> Frame | None:
        """``None`` where no pixel was measured. Args: matrix: (K, K) pixels, rows = ground truth."""
        counts = np.array(matrix, dtype=np.float64)
        truth = counts.sum(axis=1, keepdims=True)
        if not truth.any():
            return None
        percent = (100 * counts / np.maximum(truth, 1)).round()
        return cls(step, epoch, np.where(truth > 0, percent, UNKNOWN).astype(np.uint8))

    def state(self) -> list[Any]:
        """What JSON can hold, and little of it: a run may have hundreds of frames."""
        packed = base64.b64encode(zlib.compress(self.levels.tobytes())).decode()
        return [self.step, self.epoch, len(self.levels), packed]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> Frame:
        step, epoch, size, packed = state
        levels = np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype=np.uint8)
        return cls(step, epoch, levels.reshape(size, size))

    @property
    def title(self) -> str:
        if self.epoch is None:
            return f"after step {self.step}: test images"
        return f"step {self.step}, epoch {self.epoch}: validation images"


class Board:
    """Where the parts of a frame lie. All frames of a run have the size of the last one."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.cell = max(_SMALLEST, min(_LARGEST, SIDE // len(names)))
        """Side of a cell in pixels."""
        self.named = self.cell >= TEXT_SIZE
        gutter = round(max(font().getlength(name) for name in names)) + 6 if self.named else 0
        self.left, self.top = ROW + gutter, 2 * ROW + gutter
        self.side = self.cell * len(names)
        scale = LEVELS + 4 + round(font().getlength(_SCALE))
        self.size = (max(self.left + max(self.side, scale) + MARGIN, _WIDTH), self.top + self.side + ROW + MARGIN // 2)

    def place(self, truth: int, prediction: int) -> tuple[int, int]:
        """(x, y) of the middle of a cell."""
        return self.left + self.cell * prediction + self.cell // 2, self.top + self.cell * truth + self.cell // 2

    def empty(self) -> NDArray[np.uint8]:
        """(H, W) palette indices of what is the same in all frames: names, axes, the scale."""
        page = Image.new("L", self.size, 255)
        draw = ImageDraw.Draw(page)
        middle = self.left + self.side // 2, self.top + self.side // 2
        draw.text((middle[0], ROW + ROW // 2), "predicted", INK[0], font(), anchor="mm")
        _upright(page, "ground truth", (ROW // 2, middle[1]), "mm")
        for label, name in enumerate(self.names) if self.named else ():
            x, y = self.place(label, label)
            draw.text((self.left - 4, y), name, INK[0], font(), anchor="rm")
            _upright(page, name, (x, self.top - 4), "lm")
        bottom = self.top + self.side + ROW // 2
        draw.text((self.left - 4, bottom), "0", INK[0], font(), anchor="rm")
        draw.text((self.left + LEVELS + 4, bottom), _SCALE, INK[0], font(), anchor="lm")
        pixels = _greys(page)
        pixels[bottom - 5 : bottom + 6, self.left : self.left + LEVELS] = np.arange(LEVELS)
        return pixels

    def draw(self, empty: NDArray[np.uint8], frame: Frame) -> Image.Image:
        pixels = empty.copy()
        title = Image.new("L", (self.size[0], ROW), 255)
        ImageDraw.Draw(title).text((self.size[0] // 2, ROW // 2), frame.title, INK[0], font(), anchor="mm")
        pixels[:ROW] = _greys(title)
        levels = np.full((len(self.names), len(self.names)), UNKNOWN, dtype=np.uint8)
        levels[: len(frame.levels), : len(frame.levels)] = frame.levels
        cells = levels.repeat(self.cell, axis=0).repeat(self.cell, axis=1)
        pixels[self.top : self.top + self.side, self.left : self.left + self.side] = cells
        image = Image.fromarray(pixels)
        image.putpalette(_palette())
        return image


def animate(frames: Sequence[Frame], names: Sequence[str]) -> bytes:
    """A GIF that repeats, of at most ``LIMIT_BYTES``. Args: names: of all classes, in the order of the labels."""
    board = Board(names)
    empty = board.empty()
    images = [board.draw(empty, frame) for frame in frames]
    times = [EPOCH_MS if frame.epoch is not None else STEP_MS for frame in frames]
    encoded = _encoded(images, times)
    while len(encoded) > LIMIT_BYTES and len(images) > 1:
        images, times = images[::-2][::-1], times[::-2][::-1]  # the last frame stays
        encoded = _encoded(images, times)
    return encoded


def _encoded(images: Sequence[Image.Image], times: Sequence[int]) -> bytes:
    file = io.BytesIO()
    first, *rest = images
    first.save(file, "GIF", save_all=True, append_images=rest, duration=list(times), loop=0, optimize=False)
    return file.getvalue()


def _upright(page: Image.Image, text: str, place: tuple[int, int], anchor: str) -> None:
    """Writes from the bottom to the top. Args: anchor: ``lm`` begins at the place, ``mm`` has its middle there."""
    strip = Image.new("L", (round(font().getlength(text)), TEXT_SIZE + 4), 255)
    ImageDraw.Draw(strip).text((0, strip.height // 2), text, INK[0], font(), anchor="lm")
    strip = strip.rotate(90, expand=True)
    x, y = place
    page.paste(strip, (x - strip.width // 2, y - (strip.height // 2 if anchor == "mm" else strip.height)))


def _greys(page: Image.Image) -> NDArray[np.uint8]:
    """Palette indices of a grey page."""
    shades = np.asarray(page, dtype=np.uint16) * (_GREYS - 1) // 255
    return (UNKNOWN + 1 + shades).astype(np.uint8)


def _palette() -> list[int]:
    """Red, green and blue of each index: the levels, ``UNKNOWN``, the greys."""
    greys = np.linspace(0, 255, _GREYS).round()[:, None].repeat(3, axis=1)
    colours = [ramp(np.linspace(0, 1, LEVELS)), np.array([PALE]), greys]
    return [int(value) for value in np.concatenate(colours).ravel()]
