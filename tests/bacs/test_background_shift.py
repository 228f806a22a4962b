"""Where the pixels of old classes went."""

from __future__ import annotations

import numpy as np
import pytest

from bacs.data import parse_split
from bacs.evaluation import Scores
from bacs.events import Picture
from bacs.media.shift import FATES, fates, shift_chart
from bacs.run import ContinualRun


def counted(truth: np.ndarray, guess: np.ndarray, n_old: int) -> list[float]:
    """Pixel by pixel: kept, background, another old class, a class of the step."""
    found = [0, 0, 0, 0]
    for label, said in zip(truth, guess, strict=True):
        if 0 < label < n_old:
            found[0 if said == label else 1 if said == 0 else 2 if said < n_old else 3] += 1
    return [count / sum(found) for count in found]


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_of_an_old_class_has_one_fate(seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    matrix = np.zeros((7, 7), dtype=np.int64)
    np.add.at(matrix, (truth, guess), 1)
    for n_old in (2, 4, 6):
        shares = fates(matrix.tolist(), n_old)
        assert shares.tolist() == pytest.approx(counted(truth, guess, n_old))
        assert shares.sum() == pytest.approx(1)


def test_without_a_pixel_of_an_old_class_there_is_nothing_to_say():
    assert np.isnan(fates([[5, 1, 0], [0, 0, 0], [2, 1, 4]], 2)).all()


def heights(picture: np.ndarray, column: int) -> dict[str, int]:
    """Pixels of each fate in a column of the chart, legend left out."""
    return {name: int((picture[:424, column] == colour).all(axis=1).sum()) for name, colour in FATES.items()}


def test_bars_are_as_high_as_the_shares():
    split = parse_split("2-1", tuple("abcd"))
    rng = np.random.default_rng(0)
    tested = [Scores([], rng.integers(1, 40, (size, size)).tolist()) for size in (3, 4, 5)]
    tested[1].matrix[1:] = [[0] * 4] * 3  # no pixel of an old class after step 1
    picture = shift_chart(tested, split)
    left, width, height = 72, 540, 360  # of the plot: two places, so a bar is 0.35 of its width
    assert not any(heights(picture, left + width // 4).values())
    found = heights(picture, left + width * 3 // 4 - 60)
    expected = fates(tested[2].matrix, 4)
    assert [count / height for count in found.values()] == pytest.approx(expected.tolist(), abs=0.012)


def test_a_run_draws_it_after_every_step_but_the_first(tiny_config, tiny_digits):
    run = ContinualRun(tiny_config("training.split=4-3", "training.epochs=1", "training.log_images=1"), tiny_digits)
    drawn = {e.step: e.image for e in run.events() if isinstance(e, Picture) and e.name == "background-shift"}
    assert list(drawn) == [1, 2]
    tested = run.history().tested
    assert np.array_equal(drawn[2], shift_chart(tested, run.split))
    assert not np.array_equal(drawn[1], drawn[2])
