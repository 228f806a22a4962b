"""Paired comparisons against values worked out by hand, against SciPy, and by simulation."""

import itertools
import statistics

import numpy as np
import pytest
from scipy import stats

from results.statistics import (
    ALPHA,
    FLIPS,
    bootstrap_interval,
    compare,
    holm,
    pairs_needed,
    sign_flip_p,
    smallest_p,
)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.5], 1.0),
        ([1.0, 2.0, 3.0, 4.0], 2 / 16),  # only all plus and all minus are as far out
        ([3.0, -1.0, 2.0], 4 / 8),  # sums of the patterns: 6 and 4 are as large as 4, 2 and 0 are not, both ways
        ([1.0, -1.0], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([-0.01, -0.02, -0.01, -0.03, -0.02, -0.01], 2 / 64),
    ],
)
def test_the_sign_flip_test_by_hand(differences, p):
    assert sign_flip_p(differences) == pytest.approx(p)


def test_the_sign_flip_test_counts_every_pattern():
    differences = [0.013, -0.004, 0.021, 0.007, -0.002, 0.017, 0.005]
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]
    assert sign_flip_p(differences) == pytest.approx(np.mean(np.array(sums) >= sum(differences) - 1e-12))


def test_many_pairs_are_flipped_at_random_and_always_alike():
    differences = list(np.random.default_rng(0).normal(0.3, 1.0, 30))
    assert 2 ** len(differences) > FLIPS
    assert sign_flip_p(differences) == sign_flip_p(differences)
    assert sign_flip_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, abs=0.02)


def test_holm_against_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # p.adjust of R says the same
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_few_pairs_cannot_win():
    assert [smallest_p(pairs) for pairs in (1, 2, 4, 5, 6)] == [1.0, 0.5, 0.125, 0.0625, 0.03125]
    for family in (1, 2, 5, 20):
        needed = pairs_needed(family)
        assert family * smallest_p(needed) <= ALPHA < family * smallest_p(needed - 1)


def test_the_interval_is_that_of_t_where_differences_are_normal_and_stays_in_their_range():
    differences = stats.norm.ppf((np.arange(40) + 0.5) / 40, loc=2.0, scale=1.0)
    wanted = stats.t.interval(0.95, 39, loc=differences.mean(), scale=stats.sem(differences))
    assert bootstrap_interval(list(differences)) == pytest.approx(wanted, abs=0.02)
    assert bootstrap_interval([0.01, 0.03]) == pytest.approx((0.01, 0.03))
    assert bootstrap_interval([0.02, 0.02, 0.02]) == pytest.approx((0.02, 0.02))
    assert bootstrap_interval([0.5]) is None


def test_the_interval_holds_the_truth_nearly_as_often_as_it_says(monkeypatch):
    """The plain percentile interval of eight pairs does in 89 % of all cases."""
    monkeypatch.setattr("results.statistics.RESAMPLES", 4000)
    rng = np.random.default_rng(3)
    intervals = [bootstrap_interval(list(rng.normal(1.0, 1.0, 8))) for _ in range(300)]
    held = statistics.fmean(low <= 1.0 <= high for low, high in intervals)
    assert 0.915 <= held <= 0.985


def test_verdicts():
    clear, reverse, none = [0.02 + i / 1000 for i in range(8)], [-0.02 - i / 1000 for i in range(8)], [0.01, -0.01] * 4
    assert [c.verdict for c in compare([clear, reverse, none])] == ["win", "loss", "tie"]
    (few,) = compare([clear[:5]])
    assert (few.verdict, few.p_holm, few.smallest_p_holm) == ("undecided", 0.0625, 0.0625)
    (one,) = compare([[0.3]])
    assert (one.verdict, one.interval) == ("undecided", None)
    assert compare([clear] * 7)[0].verdict == "undecided", "eight pairs do not suffice for seven comparisons"
    assert compare([]) == []
