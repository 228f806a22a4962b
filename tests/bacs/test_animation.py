"""The animation shows the measured confusion matrices, whatever their number and size."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from bacs.events import EpochEnded, StepEnded
from bacs.media import Frame, animate, animation
from bacs.media.animation import LEVELS, LIMIT_BYTES, UNKNOWN, Board
from bacs.media.page import PALE, ROW, font
from bacs.media.palette import ramp
from bacs.run import ContinualRun


def pictures_of(gif: bytes) -> list[np.ndarray]:
    """(H, W, 3) of each frame."""
    image = Image.open(io.BytesIO(gif))
    found = []
    for index in range(image.n_frames):
        image.seek(index)
        found.append(np.array(image.convert("RGB")))
    return found


def test_a_frame_holds_percents_of_the_ground_truth():
    frame = Frame.of(1, 4, [[3, 1, 0], [0, 0, 0], [1, 1, 4]])
    assert frame is not None
    assert frame.levels.tolist() == [[75, 25, 0], [UNKNOWN] * 3, [17, 17, 67]]
    assert frame.title == "step 1, epoch 4: validation images"
    assert Frame.of(1, None, [[1]]).title == "after step 1: test images"
    assert Frame.of(0, 1, [[0, 0], [0, 0]]) is None
    again = Frame.from_state(json.loads(json.dumps(frame.state())))
    assert (again.step, again.epoch) == (1, 4)
    assert np.array_equal(again.levels, frame.levels)


@pytest.mark.parametrize("n_classes", [1, 5, 21, 151])
def test_every_cell_has_the_colour_of_its_share(n_classes):
    rng = np.random.default_rng(0)
    names = [f"class {label}" for label in range(n_classes)]
    matrices = [rng.integers(0, 50, (size, size)) for size in (max(1, n_classes // 2), n_classes)]
    matrices[1][0] = 0
    matrices[1][-1, -1] = 9
    frames = [Frame.of(0, None if last else 2, matrix.tolist()) for last, matrix in enumerate(matrices)]
    board = Board(names)
    found = pictures_of(animate([frame for frame in frames if frame is not None], names))
    assert len(found) == 2
    for picture, matrix in zip(found, matrices, strict=True):
        assert picture.shape[:2] == board.size[::-1]
        for truth in range(n_classes):
            for guess in range(n_classes):
                x, y = board.place(truth, guess)
                known = truth < len(matrix) and guess < len(matrix) and matrix[truth].sum() > 0
                share = np.round(100 * matrix[truth, guess] / matrix[truth].sum()) / 100 if known else None
                colour = ramp(np.array(share)) if known else np.array(PALE)
                assert np.array_equal(picture[y, x], colour), (truth, guess)


@pytest.mark.parametrize(
    "names", [["a"], ["a", "b" * 100], ["background", "éclair au café", "x"], [str(i) for i in range(150)]]
)
def test_the_scale_below_the_matrix_is_whole(names):
    frame = Frame.of(0, 1, np.eye(len(names), dtype=int).tolist())
    (picture,) = pictures_of(animate([frame], names))
    ink = (picture[-ROW:] < 100).all(axis=-1)
    right = np.flatnonzero(ink.any(axis=0)).max()
    scale = round(font().getlength(animation._SCALE))
    left = Board(names).left + LEVELS + 4
    assert abs(right - (left + scale)) <= 3, "its last letter is there"
    assert right < picture.shape[1] - 1


def test_too_many_frames_are_thinned_and_the_last_one_stays():
    rng = np.random.default_rng(0)
    names = [str(label) for label in range(40)]
    frames = [Frame(0, epoch, rng.integers(0, 101, (40, 40), dtype=np.uint8)) for epoch in range(1, 81)]
    encoded = animate(frames, names)
    assert len(encoded) <= LIMIT_BYTES
    found = pictures_of(encoded)
    assert 2 < len(found) < 80
    assert np.array_equal(found[-1], pictures_of(animate(frames[-1:], names))[0])


def test_a_run_keeps_a_frame_for_each_measurement(tiny_config, tiny_digits):
    options = ["training.split=5-5", "training.epochs=3", "training.val_every=2", "training.log_animation=true"]
    run = ContinualRun(tiny_config(*options), tiny_digits)
    places, checked = [], 0
    for event in run.events():
        epoch = event.epoch if isinstance(event, EpochEnded) else None
        if not isinstance(event, EpochEnded | StepEnded) or epoch == 1:
            continue
        places.append((event.step, epoch))
        counts = run.evaluator.matrix(run.model, "test" if epoch is None else "val", event.step).matrix.double()
        percents = (100 * counts / counts.sum(dim=1, keepdim=True)).numpy()
        assert np.abs(run.media.frames[-1].levels - percents).max() <= 0.5
        checked += 1
    assert [(frame.step, frame.epoch) for frame in run.media.frames] == places
    assert places == [(0, 2), (0, 3), (0, None), (1, 2), (1, 3), (1, None)]
    assert len(run.snapshot().meta["frames"]) == checked
    off = ContinualRun(tiny_config("training.split=5-5"), tiny_digits)
    next(off.events())
    assert off.history().frames == []
    assert "frames" not in off.snapshot().meta


def test_a_long_step_keeps_frames_at_equal_distances(tiny_config, tiny_digits, monkeypatch):
    monkeypatch.setattr("bacs.media.media.KEPT", 2)
    options = ["loss=crossentropy", "training.mode=joint", "training.epochs=9", "training.val_every=2"]
    run = ContinualRun(tiny_config(*options, "training.log_animation=true"), tiny_digits)
    list(run.events())
    assert [frame.epoch for frame in run.media.frames] == [6, None]
