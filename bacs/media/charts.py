"""Charts: points in the plane, a curve, bars. Drawn at three times their size and reduced, so that lines are smooth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bacs.media.page import INK, PALE, PAPER, TEXT_SIZE, Colour, font, pixels

SIZE = (640, 480)
"""Width and height in pixels."""

_FINER = 3
_TITLE = 20  # height of the middle of the title
_LINE: Colour = (31, 97, 160)
_BAR = 0.7  # width of a bar; their distance is 1
_RADIUS = {"disc": 6.0, "diamond": 8.0}

Place = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the finished chart."""

_BARE: Box = (20, 40, SIZE[0] - 20, SIZE[1] - 20)
_WITH_AXES: Box = (72, 64, SIZE[0] - 28, SIZE[1] - 56)


@dataclass(frozen=True, slots=True)
class Mark:
    """One point of a scatter chart."""

    x: float
    y: float
    name: str
    colour: Colour
    shape: str = "disc"
    """``disc`` or ``diamond``."""


def scatter(title: str, marks: Sequence[Mark]) -> NDArray[np.uint8]:
    """Named points in a frame without scales."""
    chart = _Chart(title, _BARE, _range([mark.x for mark in marks], 0.1), _range([mark.y for mark in marks], 0.1))
    for mark in marks:
        chart.mark(mark)
    chart.name(marks)
    return chart.finished()


def curve(title: str, x_name: str, y_name: str, points: Sequence[Place], dividers: Sequence[int]) -> NDArray[np.uint8]:
    """A line through the points.

    Args:
        title: above the chart.
        x_name: below the horizontal axis.
        y_name: above the vertical axis.
        points: (x, y), x ascending from 0, y not negative.
        dividers: places on the horizontal axis that are marked by a pale line.
    """
    highest = max(y for _, y in points) or 1.0
    chart = _Chart(title, _WITH_AXES, (0.0, points[-1][0]), (0.0, 1.05 * highest))
    chart.axes(x_name, y_name, dividers)
    chart.line(points)
    return chart.finished()


def stacked_bars(
    title: str,
    x_name: str,
    y_name: str,
    bars: Sequence[tuple[int, Sequence[float]]],
    colours: Sequence[Colour],
    last: int,
) -> NDArray[np.uint8]:
    """Shares of a whole, with their percents where there is room.

    Args:
        title: above the chart.
        x_name: below the horizontal axis.
        y_name: above the vertical axis.
        bars: (place 1..last, shares from the bottom up, which add up to 1).
        colours: of the shares.
        last: place of the last bar, if it is drawn.
    """
    chart = _Chart(title, _WITH_AXES, (0.5, last + 0.5), (0.0, 1.0))
    for place, shares in bars:
        ends = [0.0, *accumulate(shares)]
        for (low, high), colour in zip(pairwise(ends), colours, strict=True):
            if high > low:
                chart.block(place, low, high, colour)
    chart.axes(x_name, y_name, ())
    return chart.finished()


class _Chart:
    """A framed plot; marks and lines are given in the units of the data, everything else in pixels."""

    def __init__(self, title: str, frame: Box, x_range: Place, y_range: Place) -> None:
        self._image = Image.new("RGB", (SIZE[0] * _FINER, SIZE[1] * _FINER), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._frame, self._x, self._y = frame, x_range, y_range
        self._text((SIZE[0] / 2, _TITLE), title, "mm", size=TEXT_SIZE + 2)
        self._draw.rectangle(_finer_box(frame), outline=PALE, width=_FINER)

    def finished(self) -> NDArray[np.uint8]:
        return pixels(self._image.reduce(_FINER))

    def mark(self, mark: Mark) -> None:
        x, y = self._place((mark.x, mark.y))
        radius = _RADIUS[mark.shape]
        if mark.shape == "disc":
            self._disc((x, y), radius, mark.colour)
        else:
            corners = [(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)]
            self._draw.polygon(_finer(corners), fill=mark.colour, outline=INK, width=_FINER)

    def name(self, marks: Sequence[Mark]) -> None:
        """Writes the names beside the marks, on the first side that is free, else on the right."""
        taken = [_around(*self._place((mark.x, mark.y)), _RADIUS[mark.shape]) for mark in marks]
        for mark in marks:
            x, y = self._place((mark.x, mark.y))
            sides = _sides(x, y, _RADIUS[mark.shape] + 4, font().getlength(mark.name))
            free = [side for side in sides if _inside(side[2], self._frame) and not _touches(side[2], taken)]
            place, anchor, box = (free or sides)[0]
            taken.append(box)
            self._text(place, mark.name, anchor)

    def line(self, points: Sequence[Place]) -> None:
        places = [self._place(point) for point in points]
        self._draw.line(_finer(places), fill=_LINE, width=2 * _FINER, joint="curve")
        for place in places if len(places) <= 60 else []:
            self._disc(place, 3.0, _LINE)

    def block(self, x: float, low: float, high: float, colour: Colour) -> None:
        """A part of a bar around ``x``, with its height in percent."""
        left, bottom = self._place((x - _BAR / 2, low))
        right, top = self._place((x + _BAR / 2, high))
        self._draw.rectangle(_finer_box((left, top, right, bottom)), fill=colour)
        text = f"{100 * (high - low):.0f} %"
        if bottom - top > TEXT_SIZE and right - left > font().getlength(text) + 4:
            self._text(((left + right) / 2, (top + bottom) / 2), text, "mm", fill=PAPER)

    def axes(self, x_name: str, y_name: str, dividers: Sequence[int]) -> None:
        left, top, right, bottom = self._frame
        for divider in dividers:
            x, _ = self._place((divider, 0))
            self._draw.line(_finer([(x, top), (x, bottom)]), fill=PALE, width=_FINER)
        for value in ticks(*self._x, whole=True):
            x, _ = self._place((value, 0))
            self._draw.line(_finer([(x, bottom), (x, bottom + 5)]), fill=INK, width=_FINER)
            self._text((x, bottom + 8), f"{value:g}", "ma")
        for value in ticks(*self._y):
            _, y = self._place((0, value))
            self._draw.line(_finer([(left - 5, y), (left, y)]), fill=INK, width=_FINER)
            self._text((left - 9, y), f"{value:g}", "rm")
        self._draw.line(_finer([(left, top), (left, bottom), (right, bottom)]), fill=INK, width=_FINER)
        self._text(((left + right) / 2, SIZE[1] - 16), x_name, "mm")
        self._text((left, top - 6), y_name, "ls")

    def _text(self, place: Place, text: str, anchor: str, size: int = TEXT_SIZE, fill: Colour = INK) -> None:
        (finer,) = _finer([place])
        self._draw.text(finer, text, fill, font(size * _FINER), anchor=anchor)

    def _disc(self, place: Place, radius: float, colour: Colour) -> None:
        self._draw.ellipse(_finer_box(_around(*place, radius)), fill=colour, outline=INK, width=_FINER)

    def _place(self, point: Place) -> Place:
        """From units of the data to pixels."""
        across, up = ((v - low) / (high - low) for v, (low, high) in zip(point, (self._x, self._y), strict=True))
        left, top, right, bottom = self._frame
        return left + across * (right - left), bottom + up * (top - bottom)


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers from ``low`` to ``high``: five to eleven, or fewer integers. Args: whole: integers only."""
    wanted = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(wanted))
    step = max(factor * power for factor in (1, 2, 5) if factor * power <= wanted)
    step = max(1.0, step) if whole else step
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float], room: float) -> Place:
    """(lowest, highest) with ``room`` of their distance on either side; never empty."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    border = room * (high - low) or 1.0
    return low - border, high + border


def _around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, x + radius, y + radius


def _sides(x: float, y: float, gap: float, length: float) -> list[tuple[Place, str, Box]]:
    """(place, anchor, box) of a text of that length on the right, the left, above and below."""
    half, high = TEXT_SIZE / 2, float(TEXT_SIZE)
    return [
        ((x + gap, y), "lm", (x + gap, y - half, x + gap + length, y + half)),
        ((x - gap, y), "rm", (x - gap - length, y - half, x - gap, y + half)),
        ((x, y - gap), "ms", (x - length / 2, y - gap - high, x + length / 2, y - gap)),
        ((x, y + gap), "mt", (x - length / 2, y + gap, x + length / 2, y + gap + high)),
    ]


def _inside(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _touches(box: Box, others: Sequence[Box]) -> bool:
    return any(
        box[0] < right and left < box[2] and box[1] < bottom and top < box[3] for left, top, right, bottom in others
    )


def _finer(places: Sequence[Place]) -> list[Place]:
    return [(x * _FINER, y * _FINER) for x, y in places]


def _finer_box(box: Box) -> Box:
    left, top, right, bottom = (side * _FINER for side in box)
    return left, top, right, bottom
