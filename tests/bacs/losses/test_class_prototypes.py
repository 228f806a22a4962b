"""The losses of SDR against loops over classes and locations, their gradients, empty batches and two ranks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import multiprocessing
from torch.autograd import gradcheck

from bacs.losses import functional as L

N_CLASSES = 4


def scene(seed, classes=(0, 1, 2, 3, L.IGNORE), b=2, dtype=torch.float64):
    """Features (b, 3, 2, 3) > 0, labels out of ``classes``, prototypes, known classes (not 3)."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(b, 3, 2, 3, dtype=dtype, generator=generator) + 0.05
    labels = torch.tensor(classes)[torch.randint(len(classes), (b, 2, 3), generator=generator)]
    prototypes = torch.randn(N_CLASSES, 3, dtype=dtype, generator=generator)
    return features, labels, prototypes, torch.tensor([True, True, True, False])


def by_class(features, labels):
    """Class -> its feature vectors, one location at a time."""
    found = {}
    for b in range(features.shape[0]):
        for i in range(features.shape[2]):
            for j in range(features.shape[3]):
                if labels[b, i, j] != L.IGNORE:
                    found.setdefault(int(labels[b, i, j]), []).append(features[b, :, i, j])
    return {label: found[label] for label in sorted(found)}


def mse(x, y):
    return sum(float(a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x)


def mean_of(vectors):
    return torch.stack(vectors).mean(dim=0)


def check(loss_of, values, size):
    """The three reductions follow from the values that are not 0 by absence."""
    assert loss_of(reduction="sum").item() == pytest.approx(sum(values), rel=1e-9, abs=1e-12)
    assert loss_of().item() == pytest.approx(sum(values) / max(len(values), 1), rel=1e-9, abs=1e-12)
    none = loss_of(reduction="none")
    assert none.numel() == size
    assert none.sum().item() == pytest.approx(sum(values), rel=1e-9, abs=1e-12)


CLASSES = st.sampled_from([(0, 1, 2, 3, L.IGNORE), (1, L.IGNORE), (L.IGNORE,), (3,), (0,)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), CLASSES)
def test_every_loss_matches_loops_over_the_classes(seed, classes):
    f, y, p, known = scene(seed, classes)
    groups = by_class(f, y)
    present = [c for c in groups if known[c]]
    attracted = [sum(mse(x, p[c]) for x in groups[c]) / len(groups[c]) for c in present]
    check(lambda **kw: L.attraction(f, y, p, known, **kw), attracted, N_CLASSES)
    check(lambda **kw: L.matching(f, y, p, known, **kw), [mse(mean_of(groups[c]), p[c]) for c in present], N_CLASSES)
    means = [mean_of(vectors) for vectors in groups.values()]
    pairs = [1 / math.dist(means[a].tolist(), means[b].tolist()) for a in range(len(means)) for b in range(a)]
    check(lambda **kw: L.repulsion(f, y, N_CLASSES, **kw), pairs, len(pairs))
    ratios = []
    for vectors in groups.values():
        top = max(x.max().item() for x in vectors)
        ratios += [sum(math.exp(v / top) for v in x.tolist()) / (sum(x.tolist()) / top) for x in vectors]
    check(lambda **kw: L.sparsity(f, y, N_CLASSES, **kw), ratios, y.numel())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_the_decaying_attraction_is_the_running_total_of_the_official_code(seed):
    f, y, p, known = scene(seed)
    per_class = L.attraction(f, y, p, known, reduction="none")
    present = [c for c in by_class(f, y) if known[c]]
    total = 0.0
    for c in present:
        total = (total + per_class[c].item()) / len(present)
    assert L.attraction(f, y, p, known, decaying=True).item() == pytest.approx(total)


LOSSES = {
    "attraction": L.attraction,
    "decaying attraction": lambda f, y, p, known: L.attraction(f, y, p, known, decaying=True),
    "matching": L.matching,
    "repulsion": lambda f, y, p, known: L.repulsion(f, y, N_CLASSES),
    "sparsity": lambda f, y, p, known: L.sparsity(f, y, N_CLASSES),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    f, y, p, known = scene(3)
    assert gradcheck(lambda x: LOSSES[name](x, y, p, known), f.requires_grad_())
    p.requires_grad_()
    assert torch.autograd.grad(LOSSES[name](f, y, p, known), p, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [(L.IGNORE,), (3,), (0,)], ids=["ignored", "no prototype", "one class"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_degenerate_batches_give_finite_losses_and_gradients(name, classes, scale):
    f, y, p, known = scene(5, classes, dtype=torch.float32)
    f = (f * scale).requires_grad_()
    loss = LOSSES[name](f, y, p, known)
    (gradient,) = torch.autograd.grad(loss, f)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_class_means_do_not_depend_on_how_images_are_batched():
    """The official code masks channels and images together: right for one image, wrong for two."""
    f, y, _, _ = scene(1, b=4)
    sums, counts = L.class_sums(f, y, N_CLASSES)
    parts = [L.class_sums(f[i : i + 1], y[i : i + 1], N_CLASSES) for i in range(4)]
    torch.testing.assert_close(sums, sum(part for part, _ in parts))
    assert counts.tolist() == sum(count for _, count in parts).tolist()


def test_labels_are_resized_by_nearest_neighbour():
    labels = torch.tensor([[[1, 1, 2, L.IGNORE], [1, 1, 2, 2], [0, 0, 3, 3], [0, 0, 3, 3]]])
    assert L.resize_labels(labels, (2, 2)).tolist() == [[[1, 2], [0, 3]]]


def of_a_rank(part):
    """Losses of the given images, and their gradients in the features."""
    f, y, p, known = scene(7, b=4)
    y[2] = y[2].masked_fill(y[2] == 2, 1)  # a class that only one of two ranks sees
    f = f[part].requires_grad_()
    losses = [loss(f, y[part], p, known) for loss in LOSSES.values()]
    return torch.stack(losses).detach(), [torch.autograd.grad(loss, f)[0] for loss in losses]


def one_rank(index, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    torch.save(of_a_rank(slice(2 * index, 2 * index + 2)), f"{folder}/{index}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one_big_batch(tmp_path):
    """Gradients are averaged over the ranks, so each rank's is that of the big batch, twice."""
    multiprocessing.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    losses, gradients = of_a_rank(slice(None))
    parts = [torch.load(tmp_path / f"{index}.pt") for index in range(2)]
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, losses)
    for number, whole in enumerate(gradients):
        torch.testing.assert_close(torch.cat([part[1][number] for part in parts]) / 2, whole)
