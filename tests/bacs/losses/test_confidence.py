"""Entropies, their medians and the labels that follow, against slow versions and Annex A.4."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bacs.losses import functional as L
from tests.bacs.losses.test_functional import Z_OLD, Y, near, pixels, scenes

U, X = L.IGNORE, True


def test_entropy_of_annex_a4():
    per_pixel = L.prediction_entropy(Z_OLD, class_mean=True)
    near(per_pixel, [[[0.125718, 0.188094], [0.131054, 0.198531]], [[0.245895, 0.103069], [0.234901, 0.144053]]])
    near(L.prediction_entropy(Z_OLD), 3 * per_pixel, 1e-12)


@settings(max_examples=30, deadline=None)
@given(scenes())
def test_entropy_matches_one_pixel_at_a_time(scene):
    logits, _, labels, _, _ = scene
    entropies = [-sum(v * math.log(v) for v in p) / math.log(len(p)) for _, p, _ in pixels(logits, labels)]
    found = L.prediction_entropy(logits)
    torch.testing.assert_close(found.flatten(), torch.tensor(entropies, dtype=torch.float64))


def test_entropy_goes_from_certain_to_uniform():
    logits = torch.tensor([[900.0, 0, -900], [5, 5, 5]])[:, :, None, None].requires_grad_()
    found = L.prediction_entropy(logits)
    assert found.flatten().tolist() == pytest.approx([0, 1])
    assert not found.requires_grad
    with pytest.raises(ValueError, match=r"1 channel\(s\)"):
        L.prediction_entropy(logits[:, :1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), n=st.integers(1, 60), n_bins=st.sampled_from([10, 1000]))
def test_the_median_of_a_histogram_lies_in_the_bin_of_the_median(seed, n, n_bins):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, n, 3, generator=generator, dtype=torch.float64)
    predicted = torch.randint(0, 3, scores.shape, generator=generator)
    mask = torch.rand(scores.shape, generator=generator) < 0.7
    histogram = L.score_histogram(scores, predicted, mask, 4, n_bins)
    parts = [L.score_histogram(scores[i : i + 1], predicted[i : i + 1], mask[i : i + 1], 4, n_bins) for i in (0, 1)]
    assert torch.equal(histogram, parts[0] + parts[1])
    medians = L.histogram_median(histogram).tolist()
    for c in range(4):
        mine = scores[mask & (predicted == c)].numpy()
        assert histogram[c].sum() == len(mine)
        if len(mine) == 0:
            assert medians[c] == 0
            continue
        low = np.quantile(mine, 0.5, method="inverted_cdf")
        assert abs(medians[c] - low) <= 1 / n_bins + 1e-12


def row(*counts: int) -> list[int]:
    return [*counts, *[0] * (100 - len(counts))]


@pytest.mark.parametrize(
    ("counts", "median", "official"),
    [
        (row(60, 40), 50 / 60 / 100, 50 / 60 / 100),  # the first bin holds half of it
        (row(40, 60), (1 + 10 / 60) / 100, (1 + 50 / 60) / 100),  # nothing is added up for bin 0
        (row(*[1000] * 10), 0.05, math.inf),
        (row(*[1] * 10), 0.05, -math.inf),
        (row(), 0.0, 0.0),
    ],
)
def test_the_official_search_for_the_median(counts, median, official):
    histogram = torch.tensor([counts])
    assert L.histogram_median(histogram).tolist() == pytest.approx([median])
    assert L.histogram_median(histogram, official=True).tolist() == pytest.approx([official])


def test_confident_labels_and_their_share():
    labels = torch.tensor([[[0, 0], [3, U]], [[0, 0], [0, 0]], [[3, U], [3, 3]]])
    predicted = torch.tensor([[[1, 2], [1, 1]], [[0, 1], [2, 2]], [[1, 1], [1, 1]]])
    certain = torch.tensor([[[X, False], [X, X]], [[X, X], [X, False]], [[X, X], [X, X]]])
    completed = L.confident_labels(labels, predicted, certain, labels == 0)
    assert completed.tolist() == [[[1, U], [3, U]], [[0, 1], [2, U]], [[3, U], [3, 3]]]
    assert L.certain_share(certain, labels == 0).tolist() == pytest.approx([0.5, 0.75, 1.0])
    assert L.certain_share(certain, labels == 0, official=True).tolist() == pytest.approx([0.5, 0.75, 0.0])
    assert labels[0, 0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="certain"):
        L.confident_labels(labels, predicted, certain[:1], labels == 0)


def test_completed_cross_entropy_counts_what_was_annotated():
    """Of eight pixels one is ignored, and of the rest three are left out by the teacher."""
    logits = torch.randn(2, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    completed = Y.masked_fill(torch.tensor([[[X, False], [X, False]], [[False, X], [False, False]]]), U)
    factors = torch.tensor([0.5, 0.25])
    plain = L.cross_entropy(logits, completed, reduction="none")
    total = float(0.5 * plain[0].sum() + 0.25 * plain[1].sum())
    per_pixel = L.completed_cross_entropy(logits, completed, factors, Y, reduction="none")
    torch.testing.assert_close(per_pixel, plain * factors[:, None, None].double())
    assert L.completed_cross_entropy(logits, completed, factors, Y, reduction="sum").item() == pytest.approx(total)
    assert L.completed_cross_entropy(logits, completed, factors, Y).item() == pytest.approx(total / 7)
    over_all = L.completed_cross_entropy(logits, completed, factors, Y, denominator="all")
    assert over_all.item() == pytest.approx(total / 8)
    nothing = torch.full_like(Y, U)
    assert L.completed_cross_entropy(logits, nothing, factors, nothing).item() == 0
