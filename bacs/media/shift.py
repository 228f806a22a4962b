"""Background shift made visible: where the pixels of classes of earlier steps went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bacs.data import TaskSplit
from bacs.evaluation import Scores
from bacs.media.charts import stacked_bars
from bacs.media.page import MARGIN, Colour, blank, legend, pixels, swatch

FATES: dict[str, Colour] = {
    "kept": (31, 97, 160),
    "background": (120, 120, 120),
    "another old class": (200, 120, 0),
    "a class of the step": (192, 57, 43),
}
"""What can become of a pixel of an old class, with its colour."""


def fates(matrix: Sequence[Sequence[int]], n_old: int) -> NDArray[np.float64]:
    """Shares of the pixels of old foreground classes, in the order of ``FATES``; NaN if there are none.

    Args:
        matrix: (K, K) pixels, rows = ground truth, columns = prediction.
        n_old: labels that the step found, background included.
    """
    old = np.array(matrix, dtype=np.float64)[1:n_old]
    kept = np.diagonal(old, offset=1).sum()
    counts = np.array([kept, old[:, 0].sum(), old[:, 1:n_old].sum() - kept, old[:, n_old:].sum()])
    return counts / old.sum() if old.sum() > 0 else np.full(len(FATES), np.nan)


def shift_chart(tested: Sequence[Scores], split: TaskSplit) -> NDArray[np.uint8]:
    """A bar for each step after the first. Args: tested: on the test images after each of steps 0..t, t >= 1."""
    bars = {step: fates(tested[step].matrix, split.old_classes(step)) for step in range(1, len(tested))}
    drawn = [(step, shares.tolist()) for step, shares in bars.items() if not np.isnan(shares).any()]
    title = "where test pixels of classes of earlier steps went"
    chart = Image.fromarray(stacked_bars(title, "after step", "share", drawn, list(FATES.values()), len(tested) - 1))
    entries = [(swatch(np.array(colour, dtype=np.uint8)), name) for name, colour in FATES.items()]
    names = legend(entries, chart.width - 2 * MARGIN)
    page = blank(chart.width, chart.height + names.height + MARGIN)
    page.paste(chart, (0, 0))
    page.paste(names, (MARGIN, chart.height))
    return pixels(page)
