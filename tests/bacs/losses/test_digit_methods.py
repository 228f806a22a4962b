"""The methods of the digit notebook: pseudo-labels, and distillation at output, encoder and decoder."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from bacs.losses import functional
from bacs.losses.feature_distillation import FeatureDistillation, FeatureDistillationConfig
from bacs.losses.output_distillation import OutputDistillation, OutputDistillationConfig
from bacs.losses.pseudo_label import PseudoLabel, PseudoLabelConfig, pseudo_labels
from tests.bacs.losses.toy import batch_of, context_at, unet

IGNORE = functional.IGNORE


def softmax(row):
    powers = [math.exp(v) for v in row]
    return [p / sum(powers) for p in powers]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 4), st.integers(0, 2))
def test_foreground_distillation_matches_one_pixel_at_a_time(seed, old, new):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, old + new, 2, 2, dtype=torch.float64, generator=generator)
    teacher = torch.randn(2, old, 2, 2, dtype=torch.float64, generator=generator)
    expected = []
    for b, i, j in torch.cartesian_prod(*map(torch.arange, (2, 2, 2))).tolist():
        q, p = softmax(teacher[b, :, i, j].tolist()), softmax(z[b, :old, i, j].tolist())
        expected.append(-sum(a * math.log(c) for a, c in zip(q[1:], p[1:], strict=True)))
    found = functional.foreground_distillation(z, teacher, reduction="none")
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float64))
    assert functional.foreground_distillation(z, teacher).item() == pytest.approx(sum(expected) / 8)
    assert functional.foreground_distillation(z, teacher, reduction="sum").item() == pytest.approx(sum(expected))


def test_foreground_distillation_has_gradients_in_the_old_logits_of_the_student_alone():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 4, 2, 2, dtype=torch.float64, generator=generator).requires_grad_()
    teacher = torch.randn(1, 3, 2, 2, dtype=torch.float64, generator=generator).requires_grad_()
    assert gradcheck(lambda x: functional.foreground_distillation(x, teacher.detach()), z)
    student, taught = torch.autograd.grad(
        functional.foreground_distillation(z, teacher), (z, teacher), allow_unused=True
    )
    assert taught is None
    assert (student[:, 3] == 0).all()
    assert (student[:, :3] != 0).all()


def test_pseudo_labels_replace_background_alone():
    labels = torch.tensor([[[0, 0, 0, 3, IGNORE]]])
    probabilities = torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.1, 0.9, 0.0], [0.1, 0.9, 0.0]])
    logits = probabilities.clamp(min=1e-9).log().T.reshape(1, 3, 1, 5)
    assert pseudo_labels(labels, logits, 0.0).tolist() == [[[1, 0, 2, 3, IGNORE]]]
    assert pseudo_labels(labels, logits, 0.6).tolist() == [[[1, 0, IGNORE, 3, IGNORE]]]
    assert labels.tolist() == [[[0, 0, 0, 3, IGNORE]]]


def test_pseudo_label_trains_on_the_teachers_view_from_step_1_on():
    method = PseudoLabel(PseudoLabelConfig())
    later, batch = context_at(1, unet()), batch_of(0, 3, 4)
    seen = torch.where(batch.labels == 0, later.teacher(batch.images).logits.argmax(dim=1), batch.labels)
    assert (seen != batch.labels).any()
    expected = functional.cross_entropy(later.model.eval()(batch.images).logits, seen)
    torch.testing.assert_close(method.terms(later, batch)["cross_entropy"], expected)


def test_output_distillation_is_cross_entropy_and_lambda_times_the_distance():
    context, batch = context_at(1, unet()), batch_of(0, 3, 4)
    context.model.eval()
    terms = OutputDistillation(OutputDistillationConfig(lambda_distill=3.0)).terms(context, batch)
    logits, taught = context.model(batch.images).logits, context.teacher(batch.images).logits
    expected = 3 * functional.foreground_distillation(logits, taught)
    torch.testing.assert_close(terms["distillation"], expected.detach(), check_dtype=False)
    torch.testing.assert_close(terms["cross_entropy"], functional.cross_entropy(logits, batch.labels))
    assert OutputDistillation(OutputDistillationConfig(lambda_distill=0.0)).terms(context, batch).keys() == {
        "cross_entropy"
    }


def test_feature_distillation_weighs_three_levels():
    context, batch = context_at(1, unet()), batch_of(0, 3, 4)
    context.model.eval()
    with torch.no_grad():
        for parameter in context.model.parameters():  # away from the teacher
            parameter.mul_(1.1)
    c = FeatureDistillationConfig(lambda_distill=2.0, output_factor=0.5, encoder_factor=3.0, decoder_factor=0.1)
    terms = FeatureDistillation(c).terms(context, batch)
    student, teacher = context.model(batch.images), context.teacher(batch.images)
    expected = {
        "output": 1.0 * functional.foreground_distillation(student.logits, teacher.logits),
        "encoder": 6.0 * (student.bottleneck - teacher.bottleneck).square().mean(),
        "decoder": 0.2 * (student.features[-1] - teacher.features[-1]).square().mean(),
    }
    assert terms.keys() == {"cross_entropy", *expected}
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(terms[name], value)
    off = FeatureDistillationConfig(output_factor=0, encoder_factor=0, decoder_factor=0)
    assert FeatureDistillation(off).terms(context, batch).keys() == {"cross_entropy"}
