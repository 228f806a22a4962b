from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bacs.data.transforms import ASPECT, draw_window, fixed_view, random_view, whole


@pytest.fixture(scope="module")
def ramp():
    """The mask value is the column, and so is red; green is the row."""
    rows, columns = np.mgrid[:120, :200]
    return np.stack([columns, rows, np.zeros_like(rows), columns], axis=2).astype(np.uint8)


def test_image_and_mask_stay_aligned(ramp):
    flips = 0
    for draw in range(60):
        image, mask = random_view(ramp, 64, draw)
        assert image.shape == (3, 64, 64)
        assert mask.shape == (64, 64)
        # Half a pixel of rounding to the nearest, and one of averaging at the rim of the crop.
        assert (image[0].int() - mask.int()).abs().max() <= 2
        along = mask[0].int().diff()
        assert (along >= 0).all() or (along <= 0).all()
        flips += int(along.sum() < 0)
        assert (image[1].int().diff(dim=0) >= 0).all()
    assert 18 <= flips <= 42


def test_a_draw_is_a_view(ramp):
    torch.manual_seed(0)
    first = random_view(ramp, (32, 48), 7)
    torch.manual_seed(1)
    np.random.seed(1)
    second = random_view(ramp, (32, 48), 7)
    assert first[0].shape == (3, 32, 48)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    # Not all differ: a crop that fits none of ten times is the centre, flipped or not.
    assert len({random_view(ramp, 32, draw)[0].numpy().tobytes() for draw in range(20)}) > 10


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**63 - 1))
@settings(max_examples=300, deadline=None)
def test_windows_fit_the_image(height, width, draw):
    window = draw_window(np.random.default_rng(draw), height, width)
    assert 0 <= window.top <= window.top + window.height <= height
    assert 0 <= window.left <= window.left + window.width <= width
    assert min(window.height, window.width) > 0


def test_windows_have_the_area_and_aspect_of_the_paper():
    shares, aspects = [], []
    for draw in range(2000):
        window = draw_window(np.random.default_rng(draw), 375, 500)
        shares.append(window.height * window.width / (375 * 500))
        aspects.append(window.width / window.height)
    assert 0.495 < min(shares) < 0.52
    assert 0.95 < max(shares) <= 1
    assert ASPECT[0] - 0.01 < min(aspects) < max(aspects) < ASPECT[1] + 0.01
    assert len({np.round(share, 2) for share in shares}) > 40


@pytest.mark.parametrize(("size", "window"), [((40, 400), (0, 173, 40, 53)), ((400, 40), (173, 0, 53, 40))])
def test_an_image_that_no_crop_fits_is_cut_in_the_middle(size, window):
    drawn = draw_window(np.random.default_rng(0), *size)
    assert (drawn.top, drawn.left, drawn.height, drawn.width) == window


def test_fixed_view_is_the_centre_at_the_scale_of_the_shorter_side(ramp):
    image, mask = fixed_view(ramp, 60)
    assert mask.shape == (60, 60)
    # 120x200 is halved to 60x100, of which the columns 20..79 remain: 40..159 of the original.
    assert (mask.int() - torch.arange(40, 160, 2)).abs().max() <= 1
    assert (image[0].int() - mask.int()).abs().max() <= 1
    same, same_mask = fixed_view(ramp, 120)
    assert torch.equal(same, torch.from_numpy(ramp[:, 40:160, :3].copy()).permute(2, 0, 1))
    assert torch.equal(same_mask, torch.from_numpy(ramp[:, 40:160, 3].copy()))


def test_fixed_view_of_a_pair_is_the_whole_image(ramp):
    image, mask = fixed_view(ramp, (30, 50))
    assert image.shape == (3, 30, 50)
    assert int(mask.min()) <= 2
    assert int(mask.max()) >= 197


def test_enlarged_masks_hold_no_new_values():
    pixels = np.zeros((5, 7, 4), np.uint8)
    pixels[2:, 3:, 3] = 255
    for mask in (fixed_view(pixels, 64)[1], random_view(pixels, 64, 3)[1]):
        assert set(mask.unique().tolist()) <= {0, 255}


def test_whole_is_a_copy(ramp):
    image, mask = whole(ramp)
    assert torch.equal(image, torch.from_numpy(ramp[..., :3].copy()).permute(2, 0, 1))
    image.zero_()
    assert ramp[..., 0].any()
    assert mask.is_contiguous()


def test_the_area_of_crops_can_be_narrowed():
    """On images twice as wide as high the original's area mostly ends in the central crop."""
    wide, narrow = (0.5, 2.0), (0.1, 0.5)
    draws = [np.random.default_rng(seed) for seed in range(300)]
    windows = {area: [draw_window(draw, 1024, 2048, area) for draw in draws] for area in (wide, narrow)}
    is_central = lambda w: w.top * 2 + w.height in (1023, 1024) and w.left * 2 + w.width in (2047, 2048)  # noqa: E731
    central = {area: sum(map(is_central, found)) / len(found) for area, found in windows.items()}
    assert central[wide] > 0.6
    assert central[narrow] < 0.05
    assert all(0.09 < w.height * w.width / (1024 * 2048) < 0.51 for w in windows[narrow])
