"""LwF, LwF-MC and ILT: their formulas against one pixel at a time, Annex A.3, and the methods on a toy stream."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from bacs.losses import functional as L
from bacs.losses.ilt import ILT, ILTConfig
from bacs.losses.lwf import LwF, LwFConfig
from bacs.losses.lwf_mc import LwFMC, LwFMCConfig
from tests.bacs.losses.test_functional import OLD, Z_OLD, Y, Z, grad_of, near, pixels, scenes, softmax
from tests.bacs.losses.toy import N_OLD, batch_of, context_at, unet


def test_lwf_mc_of_annex_a3():
    near(L.taught_binary_cross_entropy(Z, Y, Z_OLD, denominator="all"), 3.899732)
    near(L.taught_binary_cross_entropy(Z, Y, Z_OLD, denominator="all", teach_background=False), 3.800135)


@settings(max_examples=40, deadline=None)
@given(scenes())
def test_logit_distillation_matches_one_pixel_at_a_time(scene):
    logits, teacher, labels, _, old = scene
    expected = []
    for (n, i, j), q, _ in pixels(teacher, labels):
        p = softmax(logits[n, :old, i, j].tolist())
        expected.append(-sum(a * math.log(b) for a, b in zip(q, p, strict=True)) / old)
    found = L.logit_distillation(logits, teacher, reduction="none")
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float64))
    assert L.logit_distillation(logits, teacher).item() == pytest.approx(sum(expected) / len(expected))
    assert L.logit_distillation(logits, teacher, reduction="sum").item() == pytest.approx(sum(expected))


@settings(max_examples=40, deadline=None)
@given(scene=scenes(), teach_background=st.booleans(), weight=st.sampled_from([0.0, 1.0, 2.5]), taught=st.booleans())
def test_taught_binary_cross_entropy_matches_one_pixel_at_a_time(scene, teach_background, weight, taught):
    logits, teacher, labels, _, old = scene
    expected = []
    for (n, i, j), _, y in pixels(logits, labels):
        total = 0.0
        for c, z in enumerate(logits[n, :, i, j].tolist()):
            speaks = taught and (0 if teach_background else 1) <= c < old
            t = 1 / (1 + math.exp(-teacher[n, c, i, j].item())) if speaks else float(y == c)
            # log s = -softplus(-z), log (1 - s) = -softplus(z)
            high, low = (math.log1p(math.exp(-abs(z))) + max(v, 0) for v in (-z, z))
            total += (weight if speaks else 1.0) * (t * high + (1 - t) * low)
        expected.append(total)
    valid = [e for e, y in zip(expected, labels.flatten().tolist(), strict=True) if y != L.IGNORE]

    def loss(**how):
        settings = {"teach_background": teach_background, "teacher_weight": weight, **how}
        return L.taught_binary_cross_entropy(logits, labels, teacher if taught else None, **settings)

    every = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(loss(reduction="none", denominator="all").flatten(), every)
    torch.testing.assert_close(loss(reduction="none").flatten(), every * (labels.flatten() != L.IGNORE))
    assert loss(denominator="all").item() == pytest.approx(sum(expected) / len(expected))
    assert loss(reduction="sum").item() == pytest.approx(sum(valid))
    assert loss().item() == pytest.approx(sum(valid) / max(len(valid), 1))


def test_feature_distillation_is_the_mean_squared_error():
    expected = F.mse_loss(Z, Z.flip(0))
    near(L.feature_distillation(Z, Z.flip(0)), expected, 1e-12)
    near(L.feature_distillation(Z, Z.flip(0), reduction="sum"), expected * Z.numel(), 1e-9)
    assert L.feature_distillation(Z, Z.flip(0), reduction="none").shape == Z.shape
    with pytest.raises(ValueError, match="teacher_features"):
        L.feature_distillation(Z, Z_OLD)


LOSSES = {
    "logits": L.logit_distillation,
    "binary": lambda z, t: L.taught_binary_cross_entropy(z, Y, t),
    "features": lambda z, t: L.feature_distillation(z[:, :OLD], t),
}


@pytest.mark.parametrize("loss_of", LOSSES.values(), ids=LOSSES)
def test_gradients(loss_of):
    teacher = Z_OLD.clone().requires_grad_()
    assert gradcheck(lambda z: loss_of(z, teacher.detach()), Z.clone().requires_grad_())
    loss_of(Z.clone().requires_grad_(), teacher).backward()
    assert teacher.grad is None
    extreme = (100 * Z).float().requires_grad_()
    assert grad_of(loss_of(extreme, 100 * Z_OLD), extreme).isfinite().all()
    half, half_old = Z.bfloat16(), Z_OLD.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of(half, half_old)
    torch.testing.assert_close(found, loss_of(half.float(), half_old.float()))


def test_ignored_batch_costs_nothing():
    z, nothing = Z.clone().requires_grad_(), torch.full_like(Y, L.IGNORE)
    loss = L.taught_binary_cross_entropy(z, nothing, Z_OLD)
    assert loss.item() == 0
    assert (grad_of(loss, z) == 0).all()


# ---------------------------------------------------------------- the methods


def test_distillation_costs_least_at_the_teacher_and_new_logits_are_free():
    z = torch.cat([Z_OLD, Z[:, :1]], dim=1).requires_grad_()
    assert grad_of(L.logit_distillation(z, Z_OLD), z).abs().max() < 1e-12
    moved = (z + torch.tensor([1.0, 0, 0, 0])[:, None, None]).detach().requires_grad_()
    gradient = grad_of(L.logit_distillation(moved, Z_OLD), moved)
    assert (gradient[:, 3] == 0).all()
    assert (gradient[:, 0] > 0).all()


@pytest.mark.parametrize(("method", "weights"), [(LwF(LwFConfig()), 2), (ILT(ILTConfig()), 3)])
def test_lwf_and_ilt_add_distillations_to_cross_entropy(method, weights):
    batch = batch_of(0, 3, 4, L.IGNORE)
    context = context_at(1, unet())
    terms = method.terms(context, batch)
    assert len(terms) == weights
    output, taught = context.model(batch.images), context.teacher(batch.images)
    near(terms["cross_entropy"].double(), L.cross_entropy(output.logits, batch.labels).item())
    q = taught.logits.softmax(dim=1)
    by_hand = -(q * output.logits[:, :N_OLD].log_softmax(dim=1)).sum() / (N_OLD * batch.labels.numel())
    assert terms["distillation"].item() == pytest.approx(100 * by_hand.item(), rel=1e-5)
    if "encoder" in terms:
        distance = F.mse_loss(output.bottleneck, taught.bottleneck)
        assert terms["encoder"].item() == pytest.approx(100 * distance.item(), rel=1e-5)
        assert distance > 0  # batch statistics against running ones


@pytest.mark.parametrize("from_labels", [False, True])
def test_lwf_mc_listens_to_labels_only_where_the_teacher_is_silent(from_labels):
    method, context = LwFMC(LwFMCConfig(bg_from_labels=from_labels)), context_at(1, unet())
    background, old, new = (method.terms(context, batch_of(y))["binary_cross_entropy"] for y in (0, 1, 3))
    assert (background == old) == (not from_labels)
    assert background != new
    first = method.terms(context_at(0, unet()), batch_of(0, 1, 2))
    assert first.keys() == {"binary_cross_entropy"}
