import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from bacs.metrics import (
    IGNORE,
    ConfusionMatrix,
    auroc_ap,
    backward_transfer,
    final_metrics,
    forgetting,
    forgetting_by_class,
    group_miou,
    ranking_histogram,
    step_matrix,
    step_metrics,
)
from tests.ranking import ap_range, auroc_error

NAN = math.nan


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


# Confusion matrix


def test_rows_are_ground_truth_and_ignored_pixels_do_not_count():
    confusion = ConfusionMatrix(4)
    labels = torch.tensor([[[0, 0, 0, 1], [1, 2, IGNORE, IGNORE]]])
    pred = torch.tensor([[[0, 0, 1, 1], [2, 0, 3, 0]]])
    confusion.update(pred, labels)
    assert confusion.matrix.dtype == torch.int64
    assert confusion.matrix.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # Class 1: one hit of two true pixels (recall) and of two predictions (precision); class 3 does not occur.
    expected = vector(2 / 4, 1 / 3, 0, NAN)
    assert confusion.iou().dtype == torch.float64
    torch.testing.assert_close(confusion.iou(), expected, equal_nan=True)


def test_recall_and_precision_are_read_along_rows_and_columns():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([[[1, 1, 1, 1]]]), torch.tensor([[[1, 0, 0, 0]]]))
    hits = confusion.matrix.diagonal()
    assert (hits[1] / confusion.matrix.sum(dim=1)[1]).item() == 1
    assert (hits[1] / confusion.matrix.sum(dim=0)[1]).item() == 0.25


def test_class_that_is_only_predicted_is_absent():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]))
    torch.testing.assert_close(confusion.iou(), vector(0.5, NAN, NAN), equal_nan=True)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**31 - 1), st.sampled_from([torch.uint8, torch.int32, torch.int64]))
def test_batches_add_up_to_counting_pixel_by_pixel(n_classes, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    confusion, expected = ConfusionMatrix(n_classes), np.zeros((n_classes, n_classes), dtype=np.int64)
    for _ in range(3):
        pred = torch.randint(n_classes, (2, 3, 2), generator=generator)
        labels = torch.randint(n_classes + 1, (2, 3, 2), generator=generator)
        labels[labels == n_classes] = IGNORE
        confusion.update(pred.to(dtype), labels.to(dtype))
        for truth, guess in zip(labels.flatten().tolist(), pred.flatten().tolist(), strict=True):
            if truth != IGNORE:
                expected[truth, guess] += 1
    assert confusion.matrix.tolist() == expected.tolist()
    for c, value in enumerate(confusion.iou().tolist()):
        true, missed, wrong = expected[c, c], expected[c].sum(), expected[:, c].sum()
        assert value == pytest.approx(true / (missed + wrong - true) if missed else NAN, nan_ok=True)


def test_batch_without_a_valid_pixel_counts_nothing():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.full((1, 2, 2), 2), torch.full((1, 2, 2), IGNORE))
    assert confusion.matrix.sum() == 0
    assert confusion.iou().isnan().all()


@pytest.mark.parametrize(("pred", "label"), [(3, 0), (0, 3), (-1, 0), (0, -1)])
def test_classes_out_of_range_are_refused(pred, label):
    confusion = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=r"must lie in 0..2"):
        confusion.update(torch.full((1, 2, 2), pred), torch.full((1, 2, 2), label))
    assert confusion.matrix.sum() == 0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"pred \(1, 2, 2\) must have the shape of labels \(1, 2, 3\)"):
        ConfusionMatrix(3).update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_predictions_may_live_on_a_gpu():
    confusion = ConfusionMatrix(2)
    confusion.update(torch.tensor([[[0, 1]]], device="cuda"), torch.tensor([[[0, 0]]]))
    confusion.update(torch.tensor([[[0, 1]]]), torch.tensor([[[1, 1]]]))
    assert confusion.matrix.tolist() == [[1, 1], [1, 1]]
    assert confusion.iou().device.type == "cpu"


# Means over groups and forgetting


def test_group_mean_leaves_absent_classes_out():
    iou = vector(0.5, NAN, 0.1)
    assert group_miou(iou, [0, 1, 2]) == pytest.approx(0.3)
    assert group_miou(iou, range(1, 3)) == pytest.approx(0.1)
    assert math.isnan(group_miou(iou, [1]))
    assert math.isnan(group_miou(iou, []))


HEADS = (2, 1, 2)
HISTORY = [
    vector(0.9, 0.8, 0.6),
    vector(0.9, 0.7, 0.65, 0.5),
    vector(0.8, 0.6, 0.7, 0.1, 0.4, NAN),
]


def test_groups_at_each_step():
    assert step_metrics(HISTORY[:1], HEADS, 0) == pytest.approx(
        {"miou/all": 2.3 / 3, "miou/base": 2.3 / 3, "miou/new": 0.7}
    )
    assert step_metrics(HISTORY, HEADS, 1) == pytest.approx(
        {
            "miou/all": 2.75 / 4,
            "miou/base": 2.25 / 3,
            "miou/novel": 0.5,
            "miou/old": 1.35 / 2,
            "miou/new": 0.5,
            "forgetting": (0.1 - 0.05) / 2,
            "backward_transfer": (0.7 + 0.65) / 2 - 0.7,
        }
    )
    # Class 5 has no ground truth; classes 1-3 are old; class 3 fell from 0.5 to 0.1 and is novel, not base.
    assert step_metrics(HISTORY, HEADS, 2) == pytest.approx(
        {
            "miou/all": 2.6 / 5,
            "miou/base": 2.1 / 3,
            "miou/novel": 0.5 / 2,
            "miou/old": 1.4 / 3,
            "miou/new": 0.4,
            "forgetting": (0.2 - 0.05 + 0.4) / 3,
            "backward_transfer": ((0.65 - 0.7) + (0.1 - 0.5)) / 2,
        }
    )


def test_joint_run_is_grouped_by_the_split_it_is_the_reference_for():
    iou = vector(0.9, 0.8, 0.7, 0.4, 0.2)
    metrics = step_metrics([iou], (4,), 0, base=2)
    assert metrics == pytest.approx({"miou/all": 0.6, "miou/base": 0.8, "miou/novel": 0.3, "miou/new": 2.1 / 4})
    assert "miou/novel" not in step_metrics([iou], (4,), 0)
    assert "miou/novel" not in step_metrics([iou], (4,), 0, base=9)


def test_history_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match=r"lengths \[3, 3\] must have lengths \[3, 4\]"):
        step_metrics([HISTORY[0], HISTORY[0]], HEADS, 1)
    with pytest.raises(ValueError, match=r"lengths \[3\] must have lengths \[3, 4\]"):
        step_metrics(HISTORY[:1], HEADS, 1)


def test_forgetting_leaves_out_classes_without_a_past_or_a_present():
    past, now = vector(0.9, NAN, 0.5, 0.6), vector(0.1, 0.3, NAN, 0.4, 0.9)
    assert forgetting([past, now]) == pytest.approx(0.2)
    assert math.isnan(forgetting([vector(0.9, NAN), vector(0.9, 0.1)]))
    assert forgetting([vector(0.9, NAN), vector(0.9, 0.5), vector(0.9, 0.1)]) == pytest.approx(0.4)


def test_forgetting_of_each_class_looks_back_to_its_best_step():
    expected = vector(0.1, 0.2, -0.05, 0.4)
    torch.testing.assert_close(forgetting_by_class(HISTORY), expected)
    assert forgetting_by_class([vector(0.9, NAN), vector(0.9, 0.1)]).isnan().tolist() == [False, True]


def test_step_matrix_holds_the_classes_of_a_step_without_background():
    found = torch.tensor(step_matrix(HISTORY, HEADS))
    expected = torch.tensor([[0.7, 0.675, 0.65], [NAN, 0.5, 0.1], [NAN, NAN, 0.4]])
    torch.testing.assert_close(found, expected, equal_nan=True)
    ((absent,),) = step_matrix([vector(0.9, NAN)], (1,))
    assert math.isnan(absent)


def test_backward_transfer_leaves_out_steps_without_a_number():
    assert backward_transfer([[0.5, 0.7], [NAN, 0.1]]) == pytest.approx(0.2)
    assert backward_transfer([[0.5, 0.6, 0.8], [NAN, NAN, 0.3], [NAN, NAN, 0.2]]) == pytest.approx(0.3)
    assert math.isnan(backward_transfer([[0.5]]))


def test_final_metrics_of_a_run():
    steps = [step_metrics(HISTORY, HEADS, t) for t in range(3)]
    assert final_metrics(steps) == pytest.approx(
        {
            "final/miou": 0.52,
            "final/miou_base": 0.7,
            "final/miou_novel": 0.25,
            "final/miou_avg": (2.3 / 3 + 2.75 / 4 + 0.52) / 3,
            "final/forgetting": 0.55 / 3,
        }
    )


def test_final_metrics_of_one_step_and_of_partial_records():
    assert final_metrics([{"miou/all": 0.5, "miou/base": 0.5}]) == {
        "final/miou": 0.5,
        "final/miou_base": 0.5,
        "final/miou_avg": 0.5,
        "final/forgetting": 0.0,
    }
    assert final_metrics([{"miou/all": 0.5}, {}]) == {"final/miou_avg": 0.5}
    with pytest.raises(ValueError, match="history is empty"):
        final_metrics([])


# Ranking


def histogram_of(scores, positives):
    scores, positives = torch.as_tensor(scores), torch.as_tensor(positives).bool()
    return ranking_histogram(scores, positives, torch.ones_like(positives))


def exact(scores, positives):
    """(AUROC, AP) of the scores themselves."""
    truth, given = np.asarray(positives).flatten(), np.asarray(scores).flatten()
    return roc_auc_score(truth, given), average_precision_score(truth, given)


PROBABILITIES = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1e-30, 1e-7, 0.5, 0.50001, 0.7, 0.9999999, 1.0])
RANKED = st.lists(st.tuples(PROBABILITIES, st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({positive for _, positive in pairs}) == 2
)


@settings(max_examples=200, deadline=None)
@given(RANKED, st.sampled_from([1, 2**10, 2**16, 2**17]))
def test_ranking_differs_from_that_of_the_scores_by_no_more_than_is_stated(pairs, merged):
    """Also in coarser bins, where more of them hold positives and negatives."""
    scores, positives = (torch.tensor(column) for column in zip(*pairs, strict=True))
    histogram = histogram_of(scores, positives).unflatten(1, (-1, merged)).sum(dim=2)
    auroc, ap = auroc_ap(histogram)
    true_auroc, true_ap = exact(scores, positives)
    assert abs(auroc - true_auroc) <= auroc_error(histogram) + 1e-9
    low, high = ap_range(histogram)
    assert low - 1e-9 <= true_ap <= high + 1e-9
    assert low - 1e-9 <= ap <= high + 1e-9


@settings(max_examples=80, deadline=None)
@given(RANKED.map(lambda pairs: [(round(6 * score) / 6, positive) for score, positive in pairs]))
def test_scores_far_apart_or_equal_are_ranked_exactly(pairs):
    scores, positives = zip(*pairs, strict=True)
    assert auroc_ap(histogram_of(scores, positives)) == pytest.approx(exact(scores, positives))


@pytest.mark.parametrize(("spread", "error"), [(0.1, 2e-4), (1, 3e-5), (4, 1e-5), (30, 1e-2)])
def test_ranking_of_maps(spread, error):
    """Of a detector that has hardly learnt anything, of two that have, of one with most probabilities at 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    positives = torch.rand(2, 100, 90, generator=generator) < 0.3
    logits = spread * (torch.randn(positives.shape, generator=generator) + positives)
    auroc, ap = auroc_ap(histogram_of(logits.sigmoid(), positives))
    assert (auroc, ap) == pytest.approx(exact(logits.sigmoid(), positives), abs=error)


def test_histograms_of_parts_add_up_and_masked_pixels_do_not_count():
    generator = torch.Generator().manual_seed(0)
    scores, positives = torch.rand(3, 4, 5, generator=generator), torch.rand(3, 4, 5, generator=generator) < 0.4
    mask = torch.rand(3, 4, 5, generator=generator) < 0.7
    whole = ranking_histogram(scores, positives, mask)
    parts = [ranking_histogram(scores[i : i + 1], positives[i : i + 1], mask[i : i + 1]) for i in range(3)]
    assert torch.equal(whole, torch.stack(parts).sum(dim=0))
    assert whole.sum(dim=1).tolist() == [int((mask & ~positives).sum()), int((mask & positives).sum())]
    assert auroc_ap(whole) == pytest.approx(exact(scores[mask], positives[mask]))


def test_worked_example():
    histogram = torch.tensor([[0, 2, 1, 0], [0, 1, 2, 0]])
    auroc, ap = auroc_ap(histogram)
    assert auroc == pytest.approx((2 * 2 + 1 / 2 * 1 * 2 + 1 / 2 * 2 * 1) / 9)
    assert ap == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 3 / 6)
    assert auroc_error(histogram) == pytest.approx(4 / 18)
    assert ap_range(histogram) == pytest.approx(((1 / 2 + 2 / 3 + 3 / 6) / 3, (2 * 1 + 3 / 4) / 3))


@pytest.mark.parametrize("positives", [[0, 0], [1, 1], []])
def test_ranking_needs_both_classes(positives):
    scores = torch.linspace(0, 1, len(positives))
    assert all(math.isnan(value) for value in auroc_ap(histogram_of(scores, positives)))


def test_ranking_needs_one_score_per_label():
    with pytest.raises(ValueError, match=r"\(3,\) must have the shape of scores \(2,\)"):
        histogram_of(torch.rand(2), torch.ones(3))
