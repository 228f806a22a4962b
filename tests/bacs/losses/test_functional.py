import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from bacs.losses import functional as L

IGNORE = L.IGNORE


def waves(shape, a, b, scale):
    """The input generator of Annex A: element k is ``scale * sin(a k + b)``, in float64."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(a * k + b)).reshape(shape)


Z = waves((2, 4, 2, 2), 0.7, 0.3, 2)
Z_OLD = waves((2, 3, 2, 2), 1.1, -0.4, 2)
OLD = 3
Y = torch.tensor([[[0, 3], [0, IGNORE]], [[3, 0], [0, 0]]])
SEEN = torch.tensor([[[0.2, 0.9], [0.6, 0.1]], [[0.4, 0.05], [0.5, 0.51]]], dtype=torch.float64)


def grad_of(loss, x):
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def near(value, expected, tolerance=1e-6):
    """Equal up to the rounding of a golden value, which has six decimals."""
    torch.testing.assert_close(
        torch.as_tensor(value), torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance
    )


# Golden values (Annex A)


def test_unbiased_cross_entropy_golden():
    per_pixel = L.unbiased_cross_entropy(Z, Y, OLD, reduction="none")
    near(
        per_pixel,
        [[[0.750825, 2.101160], [0.021985, 0]], [[0.843415, 0.974557], [0.712257, 0.118043]]],
    )
    near(L.unbiased_cross_entropy(Z, Y, OLD, denominator="all"), 0.690280)
    near(L.unbiased_cross_entropy(Z, Y, OLD), 0.788892)


@pytest.mark.parametrize(
    ("ukd", "gamma", "expected"),
    [(True, 1, 1.408272), (True, 2, 1.321604), (False, 1, 1.086064), (False, 2, 0.999396)],
)
@pytest.mark.parametrize("seen", [SEEN, SEEN[:, None], torch.stack([SEEN, SEEN / 3], dim=1)])
def test_bacs_cross_entropy_golden(ukd, gamma, expected, seen):
    near(L.bacs_cross_entropy(Z, Y, seen, OLD, gamma=gamma, ukd=ukd, denominator="all"), expected)
    near(L.bacs_cross_entropy(Z, Y, seen, OLD, gamma=gamma, ukd=ukd), expected * 8 / 7, 2e-6)


def test_unbiased_distillation_golden():
    near(L.unbiased_distillation(Z, Z_OLD), 0.629188)


def test_dark_replay_golden():
    stored = torch.cat([Z_OLD, torch.zeros(2, 1, 2, 2, dtype=torch.float64)], dim=1)
    known = torch.tensor([OLD, OLD])
    near(L.dark_replay(Z, stored, known), 2.912144)
    near(L.dark_replay(Z, stored, known, reduction="mean_valid"), 5.824288)


def test_replay_labels_golden():
    labels = torch.tensor([[[0, 1], [2, IGNORE]], [[2, 0], [1, 1]]])
    weights = L.replay_class_weights(4, OLD, ignore_background=True)
    assert weights.tolist() == [0, 1, 1, 0]
    near(L.cross_entropy(Z, labels, class_weights=weights), 2.837116)


def test_focal_golden():
    logits, targets = waves((8,), 0.9, 0.1, 2), torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])
    near(L.focal_loss(logits, targets), 0.337602)
    near(L.focal_loss(logits, targets, alpha=0.25), 0.196076)


def test_masked_distillation_golden():
    teacher, student = waves((2, 3, 2, 2), 0.5, 0.1, 1), waves((2, 3, 2, 2), 0.45, 0.3, 1)
    mask = (Y == 0) & (SEEN > 0.4)
    assert mask.tolist() == [[[False, False], [True, False]], [[False, False], [True, True]]]
    near(L.masked_distillation(student, teacher, mask, "ref"), 0.173361)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1.0), (25, 0.9933), (27, 0.9502), (28, 0.8647), (29, 0.6321), (31, 0.0)]
)
def test_detector_weight_golden(epoch, expected):
    assert L.detector_weight(epoch, 30) == pytest.approx(expected, abs=5e-5)


# Against one pixel at a time


def softmax(row):
    top = max(row)
    powers = [math.exp(v - top) for v in row]
    return [p / sum(powers) for p in powers]


@st.composite
def scenes(draw):
    """Logits, teacher logits, labels and seen probabilities of a random small batch; O < K."""
    n_classes = draw(st.integers(2, 6))
    old = draw(st.integers(1, n_classes - 1))
    b, h, w = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    scale = draw(st.sampled_from([0.0, 1.0, 8.0]))
    logits = scale * torch.randn(b, n_classes, h, w, dtype=torch.float64, generator=generator)
    teacher = scale * torch.randn(b, old, h, w, dtype=torch.float64, generator=generator)
    alphabet = draw(st.sampled_from([[0, IGNORE], [IGNORE], [n_classes - 1], [*range(n_classes), IGNORE]]))
    picks = torch.randint(len(alphabet), (b, h, w), generator=generator)
    heads = draw(st.integers(1, 3))
    seen = torch.randint(0, 11, (b, heads, h, w), generator=generator).double() / 10
    return logits, teacher, torch.tensor(alphabet)[picks], seen, old


def pixels(logits, labels):
    """(b, i, j), probabilities, label of each pixel."""
    for b, i, j in torch.cartesian_prod(*map(torch.arange, labels.shape)).reshape(-1, 3).tolist():
        yield (b, i, j), softmax(logits[b, :, i, j].tolist()), labels[b, i, j].item()


def slow_term_a(p, y, w, gamma):
    if y == IGNORE:
        return 0.0
    return -math.log(p[0]) * (1 - w) ** gamma if y == 0 else -math.log(sum(p[1:]))


def slow_term_b(p, y, old, include_background, keep_old_labels):
    if y == IGNORE:
        return 0.0
    if y == 0 or (y < old and not keep_old_labels):
        return -math.log(sum(p[:old])) if include_background else 0.0
    return -math.log(p[y])


def check_reductions(loss_of, per_pixel, labels):
    """All reductions and denominators of ``loss_of`` follow from the per-pixel values."""
    total, n_valid = sum(per_pixel), int((labels != IGNORE).sum())
    torch.testing.assert_close(
        loss_of(reduction="none").flatten(),
        torch.tensor(per_pixel, dtype=torch.float64),
        rtol=1e-7,
        atol=1e-9,
    )
    assert loss_of(reduction="sum").item() == pytest.approx(total, rel=1e-7, abs=1e-9)
    assert loss_of().item() == pytest.approx(total / max(n_valid, 1), rel=1e-7, abs=1e-9)
    assert loss_of(denominator="all").item() == pytest.approx(total / labels.numel(), rel=1e-7, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    scene=scenes(),
    gamma=st.sampled_from([0, 0.5, 1, 2, 3]),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    ukd=st.booleans(),
    keep=st.booleans(),
)
def test_cross_entropies_match_one_pixel_at_a_time(scene, gamma, threshold, ukd, keep):
    logits, _, labels, seen, old = scene
    plain, a, b = [], [], []
    for (n, i, j), p, y in pixels(logits, labels):
        s = seen[n, :, i, j].max().item()
        plain.append(0.0 if y == IGNORE else -math.log(p[y]))
        a.append(slow_term_a(p, y, 1.0 if s > threshold else s, gamma))
        b.append(slow_term_b(p, y, old, ukd, keep))
    weight = L.seen_weight(seen, threshold)
    check_reductions(lambda **kw: L.cross_entropy(logits, labels, **kw), plain, labels)
    check_reductions(lambda **kw: L.background_foreground_cross_entropy(logits, labels, weight, gamma, **kw), a, labels)
    check_reductions(
        lambda **kw: L.unbiased_cross_entropy(logits, labels, old, include_background=ukd, keep_old_labels=keep, **kw),
        b,
        labels,
    )
    check_reductions(
        lambda **kw: L.bacs_cross_entropy(
            logits, labels, seen, old, gamma=gamma, threshold=threshold, ukd=ukd, keep_old_labels=keep, **kw
        ),
        [x + y for x, y in zip(a, b, strict=True)],
        labels,
    )


@settings(max_examples=40, deadline=None)
@given(scene=scenes(), ignore_background=st.booleans())
def test_weighted_cross_entropy_divides_by_the_weight(scene, ignore_background):
    logits, _, labels, _, old = scene
    weights = L.replay_class_weights(logits.shape[1], old, ignore_background) * 0.3
    total = norm = 0.0
    for _, p, y in pixels(logits, labels):
        if y != IGNORE:
            total -= weights[y].item() * math.log(p[y])
            norm += weights[y].item()
    expected = total / norm if norm else 0.0
    assert L.cross_entropy(logits, labels, class_weights=weights).item() == pytest.approx(expected, rel=1e-6)
    over_all = L.cross_entropy(logits, labels, class_weights=weights, denominator="all")
    assert over_all.item() == pytest.approx(total / labels.numel(), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(scenes())
def test_unbiased_distillation_matches_one_pixel_at_a_time(scene):
    logits, teacher, labels, _, old = scene
    expected = []
    for (n, i, j), p, _ in pixels(logits, labels):
        q = softmax(teacher[n, :, i, j].tolist())
        merged = [p[0] + sum(p[old:]), *p[1:old]]
        expected.append(-sum(a * math.log(b) for a, b in zip(q, merged, strict=True)) / old)
    found = L.unbiased_distillation(logits, teacher, reduction="none")
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float64))
    assert L.unbiased_distillation(logits, teacher).item() == pytest.approx(sum(expected) / len(expected))
    assert L.unbiased_distillation(logits, teacher, reduction="sum").item() == pytest.approx(sum(expected))


@settings(max_examples=40, deadline=None)
@given(scenes(), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([None, 0.25]))
def test_focal_matches_one_pixel_at_a_time(scene, gamma, alpha):
    logits, _, labels, _, _ = scene
    x, targets, mask = logits[:, 0], labels != 0, labels != IGNORE
    expected = []
    for v, t, m in zip(x.flatten().tolist(), targets.flatten().tolist(), mask.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-v))
        p_t = p if t else 1 - p
        balance = 1.0 if alpha is None else alpha if t else 1 - alpha
        expected.append(-balance * (1 - p_t) ** gamma * math.log(p_t) if m else 0.0)
    per_entry = L.focal_loss(x, targets, mask=mask, gamma=gamma, alpha=alpha, reduction="none")
    torch.testing.assert_close(per_entry.flatten(), torch.tensor(expected, dtype=torch.float64))
    mean = L.focal_loss(x, targets, mask=mask, gamma=gamma, alpha=alpha)
    assert mean.item() == pytest.approx(sum(expected) / max(int(mask.sum()), 1))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_masked_distillation_matches_one_location_at_a_time(seed, share):
    generator = torch.Generator().manual_seed(seed)
    g, g_old = torch.randn(2, 2, 3, 2, 4, dtype=torch.float64, generator=generator)
    mask = torch.rand(2, 2, 4, generator=generator) < share
    rows, l2, cos = [], 0.0, 0.0
    for b in range(2):
        for i in range(2):
            for c in range(3):
                row = sum(
                    ((g_old[b, c, i, j] ** 2 - g[b, c, i, j] ** 2).item() ** 2) * mask[b, i, j].item() for j in range(4)
                )
                rows.append(math.sqrt(row))
            for j in range(4):
                if mask[b, i, j]:
                    x, y = g[b, :, i, j], g_old[b, :, i, j]
                    l2 += ((x - y) ** 2).sum().item() / 3
                    cos += 1 - (x @ y / (x.norm() * y.norm())).item()
    size = int(mask.sum()) + 1
    assert L.masked_distillation(g, g_old, mask, "ref").item() == pytest.approx(sum(rows) / len(rows))
    assert L.masked_distillation(g, g_old, mask, "l2").item() == pytest.approx(l2 / size)
    assert L.masked_distillation(g, g_old, mask, "cos").item() == pytest.approx(cos / size)
    for mode, total, shape in (("ref", sum(rows), (2, 3, 2)), ("l2", l2, (2, 2, 4)), ("cos", cos, (2, 2, 4))):
        parts = L.masked_distillation(g, g_old, mask, mode, reduction="none")
        assert parts.shape == shape
        assert parts.sum().item() == pytest.approx(total)
        assert L.masked_distillation(g, g_old, mask, mode, reduction="sum").item() == pytest.approx(total)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.lists(st.integers(0, 5), min_size=3, max_size=3), st.booleans())
def test_dark_replay_matches_one_entry_at_a_time(seed, valid, ignore_background):
    generator = torch.Generator().manual_seed(seed)
    z, stored = torch.randn(2, 3, 5, 2, 3, dtype=torch.float64, generator=generator)
    squares, cosines = [], []
    for b, n_known in enumerate(valid):
        known = range(int(ignore_background), n_known)
        squares += [(z[b, c, i, j] - stored[b, c, i, j]).item() ** 2 for c in known for i in (0, 1) for j in range(3)]
        for i, j in [(i, j) for i in (0, 1) for j in range(3) if len(known)]:
            x, y = z[b, list(known), i, j], stored[b, list(known), i, j]
            cosines.append(1 - (x @ y / (x.norm() * y.norm())).item())
    for distance, terms, everything in (("mse", squares, z.numel()), ("cos", cosines, z.numel() // 5)):
        for reduction, divisor in (("mean_all", everything), ("mean_valid", max(len(terms), 1))):
            found = L.dark_replay(
                z,
                stored,
                torch.tensor(valid),
                ignore_background=ignore_background,
                reduction=reduction,
                distance=distance,
            )
            assert found.item() == pytest.approx(sum(terms) / divisor, abs=1e-12)
        known = {"ignore_background": ignore_background, "distance": distance}
        parts = L.dark_replay(z, stored, torch.tensor(valid), reduction="none", **known)
        assert parts.numel() == everything
        assert parts.sum().item() == pytest.approx(sum(terms), abs=1e-12)
        total = L.dark_replay(z, stored, torch.tensor(valid), reduction="sum", **known)
        assert total.item() == pytest.approx(sum(terms), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.25, 0.5, 0.8]))
def test_resize_mask_is_the_share_of_each_cell(seed, share):
    mask = torch.rand(2, 8, 12, generator=torch.Generator().manual_seed(seed)) < 0.5
    small = L.resize_mask(mask, (4, 3), share)
    assert small.dtype == torch.bool
    for b in range(2):
        for i in range(4):
            for j in range(3):
                cell = mask[b, 2 * i : 2 * i + 2, 4 * j : 4 * j + 4].float().mean().item()
                assert small[b, i, j].item() == (cell > share)


def test_resize_mask_handles_sizes_that_do_not_divide():
    assert L.resize_mask(torch.ones(1, 65, 33, dtype=torch.bool), (5, 3)).all()
    assert not L.resize_mask(torch.zeros(1, 65, 33, dtype=torch.bool), (5, 3)).any()


# Identities (Annex B)


def test_transplanted_channels_have_no_gradient():
    z = Z.clone().requires_grad_()
    stored, known = torch.full_like(Z, 7.0), torch.tensor([3, 2])
    target, mask = L.transplant(stored, z, known)
    assert not target.requires_grad
    assert mask.shape == (2, 4, 1, 1)
    assert mask.flatten(1).tolist() == [[False, True, True, False], [False, True, False, False]]
    for reduction in ("mean_all", "mean_valid"):
        for distance in ("mse", "cos"):
            gradient = grad_of(L.dark_replay(z, stored, known, reduction=reduction, distance=distance), z)
            kept = mask.expand_as(gradient)
            assert (gradient[~kept] == 0).all()
            # A cosine over one channel is a sign: sample 1 keeps a single channel.
            assert (gradient[:1][kept[:1]] != 0).all()
    with_background, mask = L.transplant(stored, z, known, ignore_background=False)
    assert mask[:, 0].all()
    assert (with_background[:, 0] == 7).all()


@pytest.mark.parametrize("gamma", [0, 1, 2])
def test_bacs_without_seen_pixels_is_the_sum_of_its_terms(gamma):
    unseen = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    expected = L.background_foreground_cross_entropy(Z, Y, None, gamma) + L.unbiased_cross_entropy(Z, Y, OLD)
    near(L.bacs_cross_entropy(Z, Y, unseen, OLD, gamma=gamma), expected, 1e-12)


def test_certainly_seen_background_leaves_only_term_b():
    loss = L.bacs_cross_entropy(Z, Y, SEEN, OLD, threshold=0.5, reduction="none")
    term_b = L.unbiased_cross_entropy(Z, Y, OLD, reduction="none")
    certain = (Y == 0) & (SEEN > 0.5)
    assert certain.any()
    assert torch.equal(loss[certain], term_b[certain])
    weight = torch.ones_like(SEEN)
    on_background = L.background_foreground_cross_entropy(Z, Y, weight, 2, reduction="none")[Y == 0]
    assert (on_background == 0).all()


def test_gamma_zero_ignores_the_detector_even_where_it_is_certain():
    certain = torch.ones_like(SEEN)
    near(
        L.background_foreground_cross_entropy(Z, Y, certain, 0.0),
        L.background_foreground_cross_entropy(Z, Y, None, 2.0),
        1e-12,
    )


def test_seen_weight_is_strict_and_keeps_lower_values():
    assert L.seen_weight(torch.tensor([[[0.5, 0.51, 0.2]]]), 0.5).tolist() == [[[0.5, 1.0, pytest.approx(0.2)]]]
    heads = torch.tensor([[[[0.1, 0.9]], [[0.4, 0.0]]]], requires_grad=True)
    weight = L.seen_weight(heads, 0.5)
    assert weight.tolist() == [[[pytest.approx(0.4), 1.0]]]
    assert not weight.requires_grad


def test_sequential_mode_keeps_the_class_of_old_pixels():
    labels = torch.tensor([[[1, 2], [0, 3]], [[IGNORE, 1], [0, 2]]])
    kept = L.unbiased_cross_entropy(Z, labels, OLD, keep_old_labels=True, reduction="none")
    plain = L.cross_entropy(Z, labels, reduction="none")
    folded = L.unbiased_cross_entropy(Z, labels, OLD, reduction="none")
    torch.testing.assert_close(kept[labels > 0], plain[labels > 0])
    torch.testing.assert_close(kept[labels == 0], folded[labels == 0])
    assert (folded[(labels > 0) & (labels < OLD)] < plain[(labels > 0) & (labels < OLD)]).all()


def test_distillation_is_least_where_the_merged_student_agrees():
    q = Z_OLD.softmax(dim=1)
    student = torch.cat([Z_OLD[:, :1] - math.log(2), Z_OLD[:, 1:], Z_OLD[:, :1] - math.log(2)], dim=1)
    entropy = -(q * q.log()).sum(dim=1).mean() / OLD
    near(L.unbiased_distillation(student, Z_OLD), entropy, 1e-12)
    student.requires_grad_()
    assert grad_of(L.unbiased_distillation(student, Z_OLD), student).abs().max() < 1e-12


@pytest.mark.parametrize("distance", ["mse", "cos"])
@pytest.mark.parametrize("reduction", ["mean_all", "mean_valid"])
def test_replay_of_what_was_stored_costs_nothing(distance, reduction):
    loss = L.dark_replay(Z, Z.clone(), torch.tensor([3, 4]), reduction=reduction, distance=distance)
    assert loss.item() == pytest.approx(0, abs=1e-12)


@settings(deadline=None)
@given(st.floats(-8, 8))
def test_margin_and_threshold_are_inverse(margin):
    assert L.threshold_to_margin(L.margin_to_threshold(margin)) == pytest.approx(margin, abs=1e-9)


def test_margins_of_the_specification():
    assert L.margin_to_threshold(0) == 0.5
    assert L.margin_to_threshold(1000) == 1
    assert L.margin_to_threshold(-1000) == 0
    for threshold, margin in ((0.1, -2.197), (0.3, -0.847), (0.6, 0.405), (0.95, 2.944)):
        assert L.threshold_to_margin(threshold) == pytest.approx(margin, abs=5e-4)


# Gradients, degenerate batches, precision


def beside(z, teacher):
    """A float64 teacher for a float64 student, else a float32 one."""
    return teacher if z.dtype == torch.float64 else teacher.float()


LOSSES = {
    "cross_entropy": L.cross_entropy,
    "weighted": lambda z, y: L.cross_entropy(z, y, class_weights=L.replay_class_weights(4, OLD, True)),
    "background": lambda z, y: L.background_foreground_cross_entropy(z, y, SEEN, 2.0),
    "background_gamma_half": lambda z, y: L.background_foreground_cross_entropy(z, y, SEEN, 0.5),
    "unbiased": lambda z, y: L.unbiased_cross_entropy(z, y, OLD),
    "unbiased_sequential": lambda z, y: L.unbiased_cross_entropy(z, y, OLD, keep_old_labels=True),
    "bacs": lambda z, y: L.bacs_cross_entropy(z, y, SEEN, OLD),
    "bacs_no_ukd": lambda z, y: L.bacs_cross_entropy(z, y, SEEN, OLD, ukd=False),
    "distillation": lambda z, y: L.unbiased_distillation(z, beside(z, Z_OLD)),
    "focal": lambda z, y: L.focal_loss(z[:, 0], y != 0, mask=y != IGNORE, alpha=0.3),
    "masked_ref": lambda z, y: L.masked_distillation(z, beside(z, Z.flip(0)), y == 0, "ref"),
    "masked_l2": lambda z, y: L.masked_distillation(z, beside(z, Z.flip(0)), y == 0, "l2"),
    "masked_cos": lambda z, y: L.masked_distillation(z, beside(z, Z.flip(0)), y == 0, "cos"),
    "replay_mse": lambda z, y: L.dark_replay(z, Z.flip(0), torch.tensor([3, 1]), reduction="mean_valid"),
    "replay_cos": lambda z, y: L.dark_replay(z, Z.flip(0), torch.tensor([3, 1]), distance="cos"),
}
every_loss = pytest.mark.parametrize("loss_of", LOSSES.values(), ids=LOSSES)


@every_loss
def test_gradients_are_those_of_the_formula(loss_of):
    # A transplanted target follows the student by design, which finite differences would count as a gradient.
    if loss_of in (LOSSES["replay_mse"], LOSSES["replay_cos"]):
        known = torch.tensor([4, 4])
        distance = "mse" if loss_of is LOSSES["replay_mse"] else "cos"

        def loss_of(z, y):
            return L.dark_replay(z, Z.flip(0), known, ignore_background=False, distance=distance)

    assert gradcheck(lambda z: loss_of(z, Y), Z.clone().requires_grad_())


@every_loss
@pytest.mark.parametrize("label", [0, 1, 3, IGNORE])
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_uniform_batches_stay_finite(loss_of, label, scale):
    z = (scale * Z).float().requires_grad_()
    loss = loss_of(z, torch.full_like(Y, label))
    assert loss.isfinite()
    assert grad_of(loss, z).isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("distillation", "replay_mse", "replay_cos")])
def test_ignored_batch_costs_nothing(name):
    z = Z.clone().requires_grad_()
    loss = LOSSES[name](z, torch.full_like(Y, IGNORE))
    assert loss.item() == 0
    assert (grad_of(loss, z) == 0).all()


@pytest.mark.parametrize("reduction", ["mean_all", "mean_valid"])
@pytest.mark.parametrize("distance", ["mse", "cos"])
def test_replay_that_knows_nothing_costs_nothing(reduction, distance):
    z = Z.clone().requires_grad_()
    loss = L.dark_replay(z, Z + 1, torch.tensor([1, 0]), reduction=reduction, distance=distance)
    assert loss.item() == 0
    assert (grad_of(loss, z) == 0).all()


def test_replay_labels_without_old_foreground_cost_nothing():
    z = Z.clone().requires_grad_()
    loss = L.cross_entropy(z, Y, class_weights=L.replay_class_weights(4, OLD, True))
    assert loss.item() == 0
    assert (grad_of(loss, z) == 0).all()


def test_ignored_pixels_have_no_gradient():
    for name in ("cross_entropy", "background", "unbiased", "bacs", "focal"):
        z = Z.clone().requires_grad_()
        gradient = grad_of(LOSSES[name](z, Y), z)
        assert (gradient[0, :, 1, 1] == 0).all(), name


@pytest.mark.parametrize("mode", ["ref", "l2", "cos"])
def test_feature_distillation_at_zero_has_a_finite_gradient(mode):
    for student, teacher in ((Z, Z), (torch.zeros_like(Z), Z), (Z, torch.zeros_like(Z))):
        g = student.clone().requires_grad_()
        loss = L.masked_distillation(g, teacher, torch.ones(2, 2, 2, dtype=torch.bool), mode)
        gradient = grad_of(loss, g)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 10


def test_focal_gradient_is_finite_at_certain_predictions():
    for gamma in (0.0, 0.5, 1.0, 2.0):
        z = torch.tensor([300.0, -300.0, 300.0, 0.0], requires_grad=True)
        loss = L.focal_loss(z, torch.tensor([1, 0, 0, 1]), gamma=gamma)
        assert loss.isfinite()
        assert grad_of(loss, z).isfinite().all()


@every_loss
def test_half_precision_is_computed_in_float32(loss_of):
    half = Z.bfloat16()
    expected = loss_of(half.float(), Y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, from_single = loss_of(half, Y), loss_of(half.float(), Y)
    assert found.dtype == from_single.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(from_single, expected, rtol=1e-6, atol=1e-7)


def test_half_precision_teachers_and_memories_are_computed_in_float32():
    half, features = Z_OLD.bfloat16(), Z.flip(0).half()
    losses = [
        L.unbiased_distillation(Z.bfloat16(), half),
        *(L.masked_distillation(Z.half(), features, Y == 0, mode) for mode in ("ref", "l2", "cos")),
        *(L.dark_replay(Z.half(), features, torch.tensor([3, 4]), distance=d) for d in ("mse", "cos")),
    ]
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert L.transplant(features, Z.half(), torch.tensor([3, 4]))[0].dtype == torch.float32


@every_loss
def test_inputs_are_not_changed(loss_of):
    z, y = Z.clone(), Y.clone()
    loss_of(z, y)
    assert torch.equal(z, Z)
    assert torch.equal(y, Y)


def test_seen_probabilities_and_teachers_get_no_gradient():
    z = Z.clone().requires_grad_()
    seen, teacher = SEEN.clone().requires_grad_(), Z_OLD.clone().requires_grad_()
    features = torch.ones_like(Z).requires_grad_()
    loss = L.bacs_cross_entropy(z, Y, seen, OLD) + L.unbiased_distillation(z, teacher)
    loss = loss + L.masked_distillation(z, features, Y == 0) + L.dark_replay(z, features, torch.tensor([3, 3]))
    loss.backward()
    assert seen.grad is None
    assert teacher.grad is None
    assert features.grad is None


# Wrong requests


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: L.unbiased_cross_entropy(Z, Y, 5), r"old_classes \(5\) must lie in 1..4"),
        (lambda: L.unbiased_cross_entropy(Z, Y, 0), r"old_classes \(0\)"),
        (lambda: L.unbiased_distillation(Z_OLD, Z), r"old_classes \(4\) must lie in 1..3"),
        (lambda: L.replay_class_weights(3, 4, True), r"old_classes \(4\)"),
        (lambda: L.background_foreground_cross_entropy(Z[:, :1], Y, None, 2), r"1 channel"),
        (lambda: L.background_foreground_cross_entropy(Z, Y, SEEN[:1], 2), r"weight \(1, 2, 2\)"),
        (lambda: L.cross_entropy(Z, Y, reduction="avg"), r"reduction \('avg'\)"),
        (lambda: L.cross_entropy(Z, Y, denominator="some"), r"denominator \('some'\)"),
        (lambda: L.masked_distillation(Z, Z, Y == 0, "l1"), r"mode \('l1'\)"),
        (lambda: L.masked_distillation(Z, Z_OLD, Y == 0), r"features \(2, 4, 2, 2\) must have the shape"),
        (lambda: L.masked_distillation(Z, Z, torch.ones(2, 4, 4)), r"mask \(2, 4, 4\)"),
        (lambda: L.focal_loss(Z[:, :1], Y), r"targets \(2, 2, 2\)"),
        (lambda: L.focal_loss(Z[:, 0], Y, mask=torch.ones(2)), r"mask \(2,\)"),
        (lambda: L.dark_replay(Z, Z_OLD, torch.tensor([3, 3])), r"stored_logits \(2, 3, 2, 2\)"),
        (lambda: L.dark_replay(Z, Z, torch.tensor([3, 3]), distance="l1"), r"distance \('l1'\)"),
        (lambda: L.dark_replay(Z, Z, torch.tensor([3, 3]), reduction="mean"), r"reduction \('mean'\)"),
        (lambda: L.threshold_to_margin(1.0), r"threshold \(1.0\)"),
    ],
)
def test_wrong_requests_name_the_value_and_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
