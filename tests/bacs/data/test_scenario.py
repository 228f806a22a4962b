from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bacs.data import (
    MODES,
    SceneSet,
    StepView,
    TaskSplit,
    label_table,
    normalise,
    parse_split,
    presence_of,
    select_images,
    select_seen,
)

V = 6
NAMES = ("a", "b", "c", "d", "e", "f")
VALUES = [*range(V + 1), 255]


@st.composite
def splits(draw) -> TaskSplit:
    """Any order and any step sizes."""
    order = draw(st.permutations(range(1, V + 1)))
    cuts = [0, *sorted(draw(st.sets(st.integers(1, V - 1)))), V]
    return TaskSplit(tuple(tuple(order[a:b]) for a, b in pairwise(cuts)), "drawn")


masks = hnp.arrays(np.uint8, st.tuples(st.integers(0, 8), st.just(2), st.just(2)), elements=st.sampled_from(VALUES))


def belongs(mask, split, step, mode) -> bool:
    """The rule as the specification words it, on sets of mask values."""
    values = set(mask.ravel().tolist())
    seen = {c for s in split.steps[: step + 1] for c in s}
    if not values & set(split.steps[step]):
        return False
    return mode == "overlap" or values <= seen | {0, 255}


def relabel(mask, split, step, revealed):
    out = np.zeros_like(mask)
    for position, value in np.ndenumerate(mask):
        if value == 255:
            out[position] = 255
        elif value in revealed:
            out[position] = split.class_order.index(value) + 1
    return out


@given(masks)
def test_presence(labels):
    presence = presence_of(labels, V)
    assert presence.shape == (len(labels), V + 1)
    for mask, row in zip(labels, presence, strict=True):
        assert row.tolist() == [bool((mask == class_id).any()) for class_id in range(V + 1)]


@given(labels=masks, split=splits(), mode=st.sampled_from(MODES))
def test_selection_against_brute_force(labels, split, mode):
    presence = presence_of(labels, V)
    chosen = [select_images(presence, split, t, mode) for t in range(split.n_steps)]
    for t, indices in enumerate(chosen):
        assert indices.tolist() == [i for i, mask in enumerate(labels) if belongs(mask, split, t, mode)]
    with_class = np.flatnonzero(presence[:, 1:].any(axis=1)).tolist()
    together = np.concatenate(chosen).tolist()
    if mode == "overlap":
        assert set(together) == set(with_class)
    else:
        assert sorted(together) == with_class


@given(labels=masks, split=splits())
def test_seen_against_brute_force(labels, split):
    presence = presence_of(labels, V)
    for t in range(split.n_steps):
        seen = {c for step in split.steps[: t + 1] for c in step}
        expected = [i for i, mask in enumerate(labels) if set(mask.ravel().tolist()) & seen]
        assert select_seen(presence, split, t).tolist() == expected


@given(labels=masks, split=splits(), mode=st.sampled_from(MODES), data=st.data())
def test_views_against_brute_force(labels, split, mode, data):
    step = data.draw(st.integers(0, split.n_steps - 1))
    images = np.arange(labels.size, dtype=np.uint8).reshape(labels.shape)
    scenes = SceneSet(images, labels, presence_of(labels, V))
    seen = {c for s in split.steps[: step + 1] for c in s}
    for purpose in ("train", "seen"):
        view = StepView(scenes, split, step, mode=mode, purpose=purpose)
        revealed = seen if purpose == "seen" or mode == "sequential" else set(split.steps[step])
        shown, targets = view.batch(np.arange(len(view)))
        assert shown.dtype == torch.uint8
        assert targets.dtype == torch.int64
        assert shown.shape == (len(view), 1, 2, 2)
        for position, index in enumerate(view.indices):
            assert np.array_equal(shown[position, 0].numpy(), images[index])
            expected = relabel(labels[index], split, step, revealed)
            assert np.array_equal(targets[position].numpy(), expected)
            present = view.presence(split.classes_seen(step))[position]
            assert np.flatnonzero(present).tolist() == sorted(set(expected.ravel().tolist()) - {255})


def test_label_tables():
    split = parse_split([["c", "a"], ["f"], ["b", "d", "e"]], NAMES)
    no_class = [255] * (255 - V)
    cases = {
        ("overlap", False): [0, 0, 0, 0, 0, 0, 3],
        ("disjoint", False): [0, 0, 0, 0, 0, 0, 3],
        ("sequential", False): [0, 2, 0, 1, 0, 0, 3],
        ("overlap", True): [0, 2, 0, 1, 0, 0, 3],
        ("disjoint", True): [0, 2, 0, 1, 0, 0, 3],
    }
    for (mode, evaluation), expected in cases.items():
        table = label_table(split, 1, mode=mode, evaluation=evaluation)
        assert table.dtype == np.uint8
        assert table.tolist() == expected + no_class


def test_first_step_table_is_the_same_for_all():
    split = parse_split("2-2", NAMES)
    tables = [label_table(split, 0, mode=m, evaluation=e).tolist() for m in MODES for e in (False, True)]
    assert all(table == [0, 1, 2, 0, 0, 0, 0] + [255] * (255 - V) for table in tables)


def test_unknown_mode_names_the_legal_ones():
    split = parse_split("2-2", NAMES)
    with pytest.raises(ValueError, match=r"mode \('overlapped'\) must be one of: overlap, disjoint, sequential"):
        select_images(np.zeros((1, V + 1), bool), split, 0, "overlapped")
    with pytest.raises(ValueError, match=r"mode \('x'\) must be"):
        label_table(split, 0, mode="x", evaluation=True)


def test_colour_batches_are_channels_first_and_may_repeat():
    images = np.arange(2 * 2 * 4 * 3, dtype=np.uint8).reshape(2, 2, 4, 3)
    labels = np.ones((2, 2, 4), np.uint8)
    view = StepView(
        SceneSet(images, labels, presence_of(labels, V)),
        parse_split("2-2", NAMES),
        0,
        mode="overlap",
        purpose="train",
    )
    shown, targets = view.batch(np.array([1, 0, 1]))
    assert shown.shape == (3, 3, 2, 4)
    assert shown.is_contiguous()
    assert targets.shape == (3, 2, 4)
    assert np.array_equal(shown[0].numpy(), images[1].transpose(2, 0, 1))
    assert torch.equal(shown[0], shown[2])


def test_view_refuses_an_unknown_purpose():
    scenes = SceneSet(np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8), np.zeros((1, V + 1), bool))
    with pytest.raises(ValueError, match="must be one of: train, seen"):
        StepView(scenes, parse_split("2-2", NAMES), 0, mode="overlap", purpose="val")


def test_scene_set_refuses_arrays_that_disagree():
    images, labels = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 5), np.uint8)
    with pytest.raises(ValueError, match="must agree"):
        SceneSet(images, labels, np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match="a row per image"):
        SceneSet(images, images, np.zeros((1, 3), bool))


def test_normalise():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(2, 3, 2, 2)
    out = normalise(images, (0.0, 0.1, 0.5), (1.0, 0.5, 0.25))
    assert out.dtype == torch.float32
    assert torch.allclose(out[1, :, 0, 0], torch.tensor([0.0, 0.2, 2.0]))
    with pytest.raises(ValueError, match="one number per channel"):
        normalise(images, (0.0,), (1.0,))
