"""Local POD against one region at a time, and the values of Annex A.4."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from bacs.losses import functional as L
from tests.bacs.losses.test_functional import Z, grad_of, near, waves

A, B = waves((2, 3, 8, 8), 0.31, 0.2, 1), waves((2, 3, 8, 8), 0.29, 0.5, 1)


def slow_embedding(x, scales):
    """(E,) of one image (C, h, w)."""
    out = []
    for s in scales:
        k, m = x.shape[1] // s, x.shape[2] // s
        for i in range(s) if min(k, m) else ():
            for j in range(s):
                region = x[:, i * k : (i + 1) * k, j * m : (j + 1) * m]
                out += [region[c, y].mean().item() for c in range(len(x)) for y in range(k)]
                out += [region[c, :, y].mean().item() for c in range(len(x)) for y in range(m)]
    return torch.tensor(out, dtype=torch.float64)


def test_annex_a4():
    assert L.local_pod_embedding(A).shape == (2, 336)
    near(math.sqrt(4 / 1) * L.pod_distillation([A, A], [B, B], [0.01, 0.0005]), 0.0659411, 1e-7)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    scales=st.sampled_from([(1,), (1, 2, 4), (1, 3)]),
)
def test_local_pod_matches_one_region_at_a_time(seed, shape, scales):
    """Sizes that do not divide lose their border; scales that do not fit are left out."""
    g, g_old = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    slow = [slow_embedding(x, scales) for x in g**2]
    torch.testing.assert_close(L.local_pod_embedding(g**2, scales), torch.stack(slow))
    norms = [(a - slow_embedding(x, scales)).square().sum().sqrt() for a, x in zip(slow, g_old**2, strict=True)]
    expected = torch.stack(norms)
    torch.testing.assert_close(L.local_pod(g, g_old, scales=scales, reduction="none"), expected)
    torch.testing.assert_close(L.local_pod(g, g_old, scales=scales, reduction="sum"), expected.sum())
    torch.testing.assert_close(L.local_pod(g, g_old, scales=scales), expected.mean())


def test_maps_of_other_sizes_and_factors_are_averaged():
    small, small_old = A[:, :1, :3, :5], B[:, :1, :3, :5]
    for reduction in ("none", "mean", "sum"):
        both = L.pod_distillation([A, small], [B, small_old], [2.0, 0.5], reduction=reduction)
        parts = 2 * L.local_pod(A, B, reduction=reduction), 0.5 * L.local_pod(small, small_old, reduction=reduction)
        torch.testing.assert_close(both, (parts[0] + parts[1]) / 2)


def test_new_classes_are_added_to_background():
    collapsed = L.collapse_new_classes(Z, 2)
    torch.testing.assert_close(collapsed, torch.stack([Z[:, 0] + Z[:, 2] + Z[:, 3], Z[:, 1]], dim=1))
    assert torch.equal(L.collapse_new_classes(Z, 4), Z)
    with pytest.raises(ValueError, match=r"old_classes \(5\)"):
        L.collapse_new_classes(Z, 5)


def test_gradients():
    student, teacher = A[:, :2, :4, :5].clone().requires_grad_(), B[:, :2, :4, :5].clone().requires_grad_()
    assert gradcheck(lambda g: L.local_pod(g, teacher.detach()), student)
    L.local_pod(student, teacher).backward()
    assert teacher.grad is None
    for same in (student.detach(), torch.zeros_like(student)):
        g = same.clone().requires_grad_()
        assert (grad_of(L.local_pod(g, same), g) == 0).all()
    with pytest.raises(ValueError, match="teacher_features"):
        L.local_pod(A, B[:, :1])


def test_half_precision_is_computed_in_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = L.local_pod(A.bfloat16(), B.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, L.local_pod(A.bfloat16().float(), B.bfloat16().float()))
