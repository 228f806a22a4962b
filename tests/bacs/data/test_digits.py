import dataclasses
import multiprocessing
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from bacs.data import MODES, Digits, DigitsConfig, StepView, parse_split, presence_of
from bacs.data.digit_scenes import compose, draw_layout, make_scenes, tile_iou
from bacs.data.digit_source import DigitPool, load_pools
from bacs.schema import acts_from

SUBSETS = ("train", "val", "test")


@pytest.fixture
def small(tmp_path):
    return DigitsConfig(cache=str(tmp_path / "cache"), train_scenes=30, val_scenes=8, test_scenes=12)


@pytest.fixture(scope="module")
def pools():
    return load_pools("sklearn", None, digit_size=28, seed=0)


def paint(pool, layout, config):
    """Label of every pixel, worked out one pixel and one class at a time."""
    label = np.zeros((config.canvas, config.canvas), np.uint8)
    for y, x in np.ndindex(label.shape):
        best = config.ink_threshold
        for digit in range(10):
            ink = 0
            for pick, (row, column) in zip(layout.picks, layout.corners, strict=True):
                inside = 0 <= y - row < config.digit_size and 0 <= x - column < config.digit_size
                if inside and pool.digits[pick] == digit:
                    ink += int(pool.images[pick, y - row, x - column])
            if min(ink, 255) > best:
                best, label[y, x] = min(ink, 255), digit + 1
    return label


def test_contract(small):
    data = Digits(small)
    assert data.class_names == tuple("0123456789")
    assert data.channels == len(data.mean) == len(data.std) == 1
    assert Digits.Config is DigitsConfig
    for subset, count in zip(SUBSETS, (30, 8, 12), strict=True):
        scenes = getattr(data, subset)
        assert scenes.images.shape == scenes.labels.shape == (count, 60, 60)
        assert scenes.images.dtype == scenes.labels.dtype == np.uint8
        assert np.array_equal(scenes.presence, presence_of(scenes.labels, 10))
        assert scenes.labels.max() <= 10
        assert (scenes.images[scenes.labels > 0] > small.ink_threshold).all()


def test_arrays_are_memory_maps_and_views_do_not_copy_them(small):
    for _ in range(2):
        data = Digits(small)
        for subset in SUBSETS:
            scenes = getattr(data, subset)
            assert isinstance(scenes.images, np.memmap)
            assert isinstance(scenes.labels, np.memmap)
    view = StepView(data.train, parse_split("2-2", data.class_names), 0, mode="overlap", purpose="train")
    images, labels = view.batch(np.arange(2))
    images.add_(1)  # a batch is the caller's own
    labels.add_(1)


def test_scenes_are_deterministic(small, tmp_path):
    data, again = (Digits(dataclasses.replace(small, cache=str(tmp_path / name))) for name in "ab")
    assert data.manifest == again.manifest
    for subset in SUBSETS:
        assert np.array_equal(getattr(data, subset).images, getattr(again, subset).images)
        assert np.array_equal(getattr(data, subset).labels, getattr(again, subset).labels)


def test_scenes_do_not_depend_on_their_count_but_on_seed_and_subset(small):
    few, more = Digits(small), Digits(dataclasses.replace(small, train_scenes=40))
    assert np.array_equal(few.train.images, more.train.images[:30])
    assert np.array_equal(few.test.labels, more.test.labels)
    other = Digits(dataclasses.replace(small, seed=1))
    assert not np.array_equal(few.train.images, other.train.images)
    assert not np.array_equal(few.train.images[:8], few.val.images)


def test_manifest_follows_the_settings_that_change_bytes(small, tmp_path):
    changed = {
        "canvas": 64,
        "digit_size": 20,
        "train_scenes": 31,
        "val_scenes": 9,
        "test_scenes": 13,
        "min_digits": 1,
        "max_digits": 3,
        "max_overlap_iou": 0.1,
        "ink_threshold": 0,
        "seed": 5,
    }
    assert set(changed) == {name for name, step in acts_from(DigitsConfig).items() if step is not None} - {"source"}
    manifests = {Digits(dataclasses.replace(small, **{key: value})).manifest for key, value in changed.items()}
    manifests.add(Digits(small).manifest)
    assert len(manifests) == len(changed) + 1
    moved = dataclasses.replace(small, cache=str(tmp_path / "moved"), root="elsewhere")
    assert Digits(moved).manifest == Digits(small).manifest


def test_subsets_draw_on_disjoint_and_stratified_digits(pools):
    from sklearn.datasets import load_digits

    sizes = [len(pools[subset]) for subset in SUBSETS]
    assert sum(sizes) == len(load_digits().target)
    assert np.allclose(np.array(sizes) / sum(sizes), (0.6, 0.15, 0.25), atol=0.01)
    rows = {subset: {image.tobytes() for image in pools[subset].images} for subset in SUBSETS}
    for a, b in combinations(SUBSETS, 2):
        assert not rows[a] & rows[b]
    total = sum(np.bincount(pools[subset].digits, minlength=10) for subset in SUBSETS)
    for subset, share in zip(SUBSETS, (0.6, 0.15, 0.25), strict=True):
        assert np.abs(np.bincount(pools[subset].digits, minlength=10) - share * total).max() <= 1


@pytest.mark.parametrize("limit", [0.0, 0.25])
def test_tiles_overlap_at_most_as_allowed(limit):
    config = DigitsConfig(max_overlap_iou=limit)
    worst, counts = 0.0, []
    for index in range(150):
        corners = draw_layout(100, config, "train", index).corners
        counts.append(len(corners))
        assert corners.min() >= 0
        assert corners.max() <= 60 - 28
        for a, b in combinations(corners, 2):
            masks = np.zeros((2, 60, 60), bool)
            for mask, (row, column) in zip(masks, (a, b), strict=True):
                mask[row : row + 28, column : column + 28] = True
            iou = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
            assert iou == pytest.approx(tile_iou(a, b, 28))
            worst = max(worst, iou)
    assert worst <= limit
    assert worst > 0.2 or limit == 0
    assert set(counts) <= {1, 2, 3, 4}
    assert max(counts) == 4 or limit == 0


def test_limit_equals_the_score_of_summed_areas():
    gaps = np.stack(np.meshgrid(np.arange(29), np.arange(29)), -1).reshape(-1, 2)
    intersection = (28 - gaps[:, 0]) * (28 - gaps[:, 1])
    by_sum = intersection / (2 * 28 * 28) <= 0.2
    assert np.array_equal(tile_iou(gaps, np.zeros_like(gaps), 28) <= DigitsConfig().max_overlap_iou, by_sum)


def test_full_canvas_keeps_the_digits_placed_so_far():
    config = DigitsConfig(canvas=28, max_overlap_iou=0.0, min_digits=2)
    assert len(draw_layout(10, config, "train", 0).picks) == 1


@pytest.mark.parametrize("threshold", [0, 96])
def test_labels_against_brute_force(pools, threshold):
    config = DigitsConfig(ink_threshold=threshold)
    for index in range(3):
        layout = draw_layout(len(pools["test"]), config, "test", index)
        image, label = compose(pools["test"], layout, config)
        assert np.array_equal(label, paint(pools["test"], layout, config))
        canvas = np.zeros((60, 60), int)
        for pick, (row, column) in zip(layout.picks, layout.corners, strict=True):
            canvas[row : row + 28, column : column + 28] += pools["test"].images[pick]
        assert np.array_equal(image, np.minimum(canvas, 255))


def test_ties_go_to_the_smaller_digit():
    pool = DigitPool(np.full((2, 8, 8), 255, np.uint8), np.array([7, 3], np.uint8))
    config = DigitsConfig(canvas=8, digit_size=8, max_overlap_iou=1.0, min_digits=4)
    images, labels = make_scenes(pool, config, "train", 20)
    drawn = [set(pool.digits[draw_layout(2, config, "train", i).picks].tolist()) for i in range(20)]
    assert {3, 7} in drawn
    for image, label, digits in zip(images, labels, drawn, strict=True):
        assert (label == min(digits) + 1).all()
        assert (image == 255).all()


def test_two_by_two_stream_keeps_about_half_of_the_scenes(tmp_path):
    data = Digits(DigitsConfig(cache=str(tmp_path), test_scenes=1, val_scenes=1))
    split = parse_split("2-2", data.class_names)
    counts = {
        mode: [len(StepView(data.train, split, t, mode=mode, purpose="train")) for t in range(5)] for mode in MODES
    }
    assert all(440 <= count <= 520 for count in counts["overlap"])
    assert counts["disjoint"] == counts["sequential"]
    assert sum(counts["disjoint"]) == 1000
    assert len(StepView(data.train, split, 4, mode="overlap", purpose="seen")) == 1000


def test_damaged_cache_is_made_anew(small):
    data = Digits(small)
    images = np.array(data.train.images)
    folder = next(Path(small.cache).iterdir())
    assert data.manifest in folder.name
    (folder / "train_images.npy").write_bytes(b"torn")
    assert np.array_equal(Digits(small).train.images, images)


def _load(config, barrier, queue):
    barrier.wait()
    queue.put(Digits(config).train.images[:].tobytes())


def test_two_processes_racing(small):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_load, args=(small, barrier, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert results[0] == results[1] == np.array(Digits(small).train.images).tobytes()
