"""PLOP: its thresholds, its pseudo-labels and its distillation, on a toy stream and with every network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bacs.compat import CompatConfig
from bacs.losses import functional as L
from bacs.losses.base import Batch, MethodOptions
from bacs.losses.plop import PLOP, PLOPConfig
from bacs.networks import DeepLabV3, DeepLabV3Config, TranSeg, TranSegConfig, UNet, UNetConfig
from tests.bacs.losses.toy import N_CLASSES, N_OLD, batch_of, context_at, unet

BATCH = batch_of(0, 0, 3, 4, L.IGNORE)


def plop(official: bool = False, **knobs) -> PLOP:
    return PLOP(PLOPConfig(**knobs), MethodOptions(compat=CompatConfig(plop_official=official)))


def begun(context, *batches: Batch, official: bool = False, **knobs) -> PLOP:
    method = plop(official, **knobs)
    with torch.no_grad():
        method.begin_step(context, batches)
    return method


def told(context, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised entropy and class of the teacher's prediction."""
    with torch.no_grad():
        q = context.teacher(batch.images).logits.double().softmax(dim=1)
    return -(q * q.log()).sum(dim=1) / math.log(N_OLD), q.argmax(dim=1)


def test_thresholds_are_the_medians_over_the_background_of_the_step():
    context = context_at(1, unet())
    score, predicted = told(context, BATCH)
    parts = [Batch(BATCH.images[i : i + 1], BATCH.labels[i : i + 1]) for i in range(3)]
    thresholds = begun(context, BATCH)._thresholds
    assert torch.equal(thresholds, begun(context, *parts)._thresholds)
    counted = 0
    for c in range(N_OLD):
        mine = score[(predicted == c) & (BATCH.labels == 0)].numpy()
        counted += len(mine)
        expected = np.quantile(mine, 0.5, method="inverted_cdf") if len(mine) else 0.001
        assert float(thresholds[c]) == pytest.approx(expected, abs=2e-4)
    assert counted == int((BATCH.labels == 0).sum())
    assert begun(context, BATCH, entropy_floor=1.0)._thresholds.tolist() == [1.0] * N_OLD
    assert begun(context, batch_of(3))._thresholds.tolist() == pytest.approx([0.001] * N_OLD)


def test_at_least_half_of_flat_images_is_believed():
    """All pixels away from the borders have the same entropy, which is the median."""
    context, flat = context_at(1, unet()), Batch(torch.zeros(2, 1, 16, 16), torch.zeros(2, 16, 16, dtype=torch.int64))
    score, predicted = told(context, flat)
    thresholds = begun(context, flat)._thresholds
    for c in predicted.unique():
        mine = score[predicted == c]
        assert (mine < thresholds[c]).double().mean() >= 0.5


def test_the_teacher_labels_the_background_that_it_is_sure_of():
    context = context_at(1, unet())
    method = begun(context, BATCH)
    score, predicted = told(context, BATCH)
    terms = method.terms(context, BATCH)
    log_p = context.model(BATCH.images).logits.detach().double().log_softmax(dim=1)
    total = sure = 0.0
    for b in range(3):
        background = BATCH.labels[b] == 0
        certain = score[b] < method._thresholds[predicted[b]]
        labels = torch.where(background, predicted[b], BATCH.labels[b])
        counted = (certain & background) | ((BATCH.labels[b] > 0) & (BATCH.labels[b] != L.IGNORE))
        nu = (certain & background).sum() / background.sum()
        own = log_p[b].gather(0, labels.masked_fill(~counted, 0).unsqueeze(0))[0]
        total -= float(nu * own[counted].sum())
        sure += float(nu) / 3
    assert 0.4 < sure < 0.6
    annotated = int((BATCH.labels != L.IGNORE).sum())
    assert terms["pseudo_ce"].item() == pytest.approx(total / annotated, rel=1e-4)
    plain = begun(context, BATCH, adaptive_factor=False).terms(context, BATCH)["pseudo_ce"]
    assert plain.item() == pytest.approx(terms["pseudo_ce"].item() / sure, rel=0.1)


def test_distillation_of_all_features_and_logits():
    context = context_at(1, unet())
    term = begun(context, BATCH).terms(context, BATCH)["pod"].item()
    output, taught = context.model(BATCH.images), context.teacher(BATCH.images)
    losses = [0.01 * L.local_pod(g, t) for g, t in zip(output.features, taught.features, strict=True)]
    losses.append(0.0005 * L.local_pod(L.collapse_new_classes(output.logits, N_OLD), taught.logits))
    expected = math.sqrt(N_CLASSES / 2) * sum(losses) / len(losses)
    assert term == pytest.approx(expected.item(), rel=1e-5)
    assert begun(context, BATCH, pod_weight=0, pod_logits_weight=0).terms(context, BATCH)["pod"] == 0


def test_official_details():
    context = context_at(1, unet())
    score, predicted = told(context, BATCH)
    twice = score / N_OLD / math.log(N_CLASSES)
    method = begun(context, BATCH, official=True)
    background = BATCH.labels == 0
    for c in range(N_OLD):
        bins = np.histogram(twice[(predicted == c) & background], bins=100, range=(0, 1))[0]
        expected = L.histogram_median(torch.tensor([bins.tolist()]), official=True).clamp(min=0.001)
        torch.testing.assert_close(method._thresholds[c : c + 1], expected)
    # Without background an image costs nothing officially.
    assert method.terms(context, batch_of(3))["pseudo_ce"] == 0
    assert begun(context, BATCH).terms(context, batch_of(3))["pseudo_ce"] > 0


@pytest.mark.parametrize("official", [False, True])
def test_annotated_old_classes_are_overruled_by_the_official_code_alone(official):
    """Mode sequential. The teacher is believed everywhere."""
    context = context_at(1, unet(), old_labels_shown=True)
    method = begun(context, batch_of(0), official=official, entropy_floor=1.0)
    losses = [method.terms(context, batch_of(y))["pseudo_ce"].item() for y in (1, 2)]
    assert (losses[0] == losses[1]) == official


@pytest.mark.parametrize(
    ("build", "side"),
    [
        (lambda: UNet(UNetConfig(width=4, num_layers=3, bilinear=True), n_channels=1), 19),
        (lambda: DeepLabV3(DeepLabV3Config(depth=50), n_channels=1), 33),
        (lambda: TranSeg(TranSegConfig(depth=50, crop_size=32, hidden_dim=16, dim_feedforward=16, nhead=2), 1), 32),
    ],
    ids=["unet", "deep_lab", "transformer"],
)
def test_every_network_can_be_distilled(build, side):
    """Maps of 2 x 2 or 3 x 3 locations are too small for the finest of the scales."""
    torch.manual_seed(0)
    context = context_at(1, build())
    batch = batch_of(0, 3, 4, count=2, side=side)
    terms = begun(context, batch).terms(context, batch)
    sum(terms.values()).backward()
    gradients = [p.grad for p in context.model.parameters() if p.grad is not None]
    assert len(gradients) > 10
    assert all(g.isfinite().all() for g in gradients)
    assert 0 < terms["pod"].item() < math.inf
