"""Every defect of the original behind its switch: it does what it says, and nothing else changes."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bacs.compat import CompatConfig
from bacs.compose import compose
from bacs.config import RunConfig
from bacs.data import parse_split
from bacs.detector import Detector
from bacs.errors import RequestError
from bacs.losses import functional
from bacs.losses.bacs import Bacs, BacsConfig
from bacs.losses.base import Batch, MethodOptions, StepContext
from bacs.losses.detection import Detection, DetectionSettings
from bacs.metrics import ConfusionMatrix
from bacs.model import Model
from bacs.networks import NetworkOutput, TranSeg, TranSegConfig
from bacs.prototypes import foreground_sum, rounded_steps, scrambled_sum

SWITCHES = [field.name for field in dataclasses.fields(CompatConfig)]


def wave(shape, a, b, s):
    """The generator of Annex A: element k of the flattened tensor is s sin(a k + b)."""
    count = int(np.prod(shape))
    return (s * torch.sin(a * torch.arange(count, dtype=torch.float64) + b)).reshape(shape)


Z, Z_OLD = wave((2, 4, 2, 2), 0.7, 0.3, 2), wave((2, 3, 2, 2), 1.1, -0.4, 2)
Y = torch.tensor([[[0, 3], [0, 255]], [[3, 0], [0, 0]]])
S = torch.tensor([[[0.2, 0.9], [0.6, 0.1]], [[0.4, 0.05], [0.5, 0.51]]], dtype=torch.float64)


def bacs(*switches: str, **knobs) -> Bacs:
    return Bacs(BacsConfig(**knobs), MethodOptions(compat=CompatConfig(**dict.fromkeys(switches, True))))


# ---------------------------------------------------------------- configuration


def test_reference_turns_every_switch_on_and_none_turns_all_off():
    cache = "dataset.cache=/tmp"
    on = RunConfig.from_dict(compose("config", ["compat=reference", "loss=bacs_ref", cache]))
    assert all(getattr(on.compat, name) for name in SWITCHES)
    assert on.notes == ["compat.train_mode_detection: used in the place of loss.detector_source"]
    numbers = on.loss.settings
    assert (numbers.alpha, numbers.beta, numbers.lkd) == (0.8, 0.5, 0.25)
    assert (numbers.buffer_policy, numbers.buffer_size, numbers.seen_gamma) == ("loss_balanced", 300, 2.0)
    off = RunConfig.from_dict(compose("config", [cache]))
    assert not any(getattr(off.compat, name) for name in SWITCHES)
    assert off.notes == []


@pytest.mark.parametrize(
    ("overrides", "where", "words"),
    [
        (
            ["compat.rounded_step_map=true", "training.split=[[0,1,2,3,4],[5],[6,7,8,9]]"],
            "rounded_step_map",
            "unequal numbers",
        ),
        (
            ["compat.token_bias_from_weights=true", "network=transformer", "network.class_norm=none"],
            "token_bias_from_weights",
            "class_norm=none has no weights",
        ),
    ],
)
def test_switches_that_cannot_act_are_refused(overrides, where, words):
    with pytest.raises(RequestError) as caught:
        RunConfig.from_dict(compose("config", ["dataset.cache=/tmp", *overrides]))
    (fault,) = caught.value.faults
    assert fault.where == f"compat.{where}"
    assert words in fault.problem


@pytest.mark.parametrize("split", ["5-1", "2-2", "[[0,1],[2,3],[4,5],[6,7],[8,9]]"])
def test_the_rounded_map_is_legal_where_later_steps_are_equal(split):
    RunConfig.from_dict(compose("config", ["dataset.cache=/tmp", "compat=reference", f"training.split={split}"]))


# ---------------------------------------------------------------- prototypes


def test_scrambled_prototype_of_the_example():
    """Channel means 0, 1, 2, 3 with one foreground location in the first image and two in the second."""
    features = torch.arange(4.0)[None, :, None, None].expand(2, 4, 1, 2)
    labels = torch.tensor([[[1, 0]], [[1, 1]]])
    steps = np.array([-1, 0])
    total, count = scrambled_sum(features, labels, steps, 0)
    assert count == 3
    torch.testing.assert_close(total / count, torch.tensor([1, 1, 4 / 3, 8 / 3], dtype=torch.float64))
    total, count = foreground_sum(features, labels, steps, 0)
    assert (total / count).tolist() == [0, 1, 2, 3]


def test_scrambling_leaves_one_image_alone():
    features, labels = torch.randn(1, 5, 4, 4), torch.randint(0, 3, (1, 4, 4))
    steps = np.array([-1, 0, 0])
    for wrong, right in zip(*(f(features, labels, steps, 0) for f in (scrambled_sum, foreground_sum)), strict=True):
        torch.testing.assert_close(wrong, right)


def test_the_scrambled_prototype_is_not_recomputed():
    features = torch.randn(3, 8, 4, 4).abs()
    for switches, kept in ([], False), (["scrambled_prototypes"], True):
        detection, context = detection_at(0, parse_split("2-2", "abcd"), *switches)
        batch = Batch(features, torch.randint(0, 3, (3, 4, 4)))
        detection.observe(context, batch, output_of(features))
        before = context.model.detector.prototypes.values.clone()
        context.model.eval()
        detection.finish_step(context, [batch])
        assert torch.equal(before, context.model.detector.prototypes.values) == kept


@pytest.mark.parametrize(
    ("split", "early"),
    [("15-5", {16, 17}), ("5-3", {6, 9, 12, 15, 18}), ("10-5", {11, 12, 16, 17}), ("15-1", set()), ("10-10", None)],
)
def test_rounded_map_puts_some_classes_one_step_early(split, early):
    """Section 9.1, item 2, and Annex A.10 for the right map."""
    right = parse_split(split, [str(i) for i in range(20)]).step_of_class()
    wrong = rounded_steps(right)
    moved = np.flatnonzero(wrong != right)
    assert set(moved) == (set(range(11, 16)) if early is None else early)
    assert (wrong[moved] == right[moved] - 1).all()
    assert wrong[0] == -1


def test_rounded_map_pollutes_the_prototype_before():
    split = parse_split("15-5", [str(i) for i in range(20)])
    labels = torch.full((2, 4, 4), 16)
    labels[:, 2:] = 20
    features = torch.randn(2, 8, 4, 4)
    for switches, polluted in ([], False), (["rounded_step_map"], True):
        detection, context = detection_at(1, split, *switches)
        prototypes = context.model.detector.prototypes
        prototypes.replace(0, torch.full((2,), 700.0, dtype=torch.float64), torch.tensor(100.0))
        detection.observe(context, Batch(features, labels), output_of(features))
        assert prototypes.counts.tolist() == ([116, 16] if polluted else [100, 32])
        assert (prototypes.values[0] == 7).all() != polluted


# ---------------------------------------------------------------- detector


def output_of(features: torch.Tensor) -> NetworkOutput:
    return NetworkOutput(features, features, features, features, [features])


class Plain(torch.nn.Module):
    """A network whose bottleneck is its input."""

    bottleneck_channels = 8

    def forward(self, images):
        return output_of(images)

    def grow(self, n_new, init):
        pass


def detection_at(step: int, split, *switches: str) -> tuple[Detection, StepContext]:
    compat = CompatConfig(**dict.fromkeys(switches, True))
    detection = Detection(DetectionSettings(prototype_decay=0.9), compat)
    torch.manual_seed(0)
    model = Model(Plain(), detection.build(Plain()))
    for _ in range(step + 1):
        model.grow(1, "random")
    model.train()
    return detection, StepContext(
        step=step,
        epoch=0,
        epochs=30,
        model=model,
        teacher=model.snapshot() if step else None,
        n_classes=split.classes_seen(step),
        old_classes=split.old_classes(step),
        step_of_class=split.step_of_class()[: split.classes_seen(step)],
        old_labels_shown=False,
    )


def test_fading_weight_of_annex_a11():
    fading, steady = (
        Detection(DetectionSettings(), CompatConfig(fading_detector_weight=fades)) for fades in (True, False)
    )
    weights = [fading.weight(epoch, 30) for epoch in (0, 25, 27, 28, 29)]
    assert weights == pytest.approx([1.0, 0.9933, 0.9502, 0.8647, 0.6321], abs=5e-5)
    assert {steady.weight(epoch, 30) for epoch in range(30)} == {1.0}


def test_aligned_maps_keep_the_corners():
    r = torch.rand(1, 8, 2, 2)
    maps = {}
    for aligned in (True, False):
        torch.manual_seed(0)
        detector = Detector(8, 8, compat=CompatConfig(aligned_detector_maps=aligned))
        detector.append_head()
        maps[aligned] = detector.logits(r, 0, (5, 5))
        small = detector.logits(r, 0, (2, 2))
    torch.testing.assert_close(maps[True][:, ::4, ::4], small)
    torch.testing.assert_close(maps[True][:, 2, 2], small.mean(dim=(1, 2)))
    assert not torch.allclose(maps[True][:, 1], maps[False][:, 1])


def test_train_mode_detection_moves_the_projector_and_looks_at_the_training_pass():
    split = parse_split("2-2", "abcd")
    images = torch.randn(2, 8, 4, 4) + 1
    batch = Batch(images, torch.randint(0, 5, (2, 8, 8)))
    for switches, moves in ([], False), (["train_mode_detection"], True):
        detection, context = detection_at(1, split, *switches)
        norm = context.model.detector.projector[1]
        before = norm.running_mean.clone()
        projected = detection.observe(context, batch, output_of(images))
        assert torch.equal(before, norm.running_mean) != moves
        assert not any(p.requires_grad for p in context.model.detector.projector.parameters())
        votes = bacs(*switches)._votes(context, batch, output_of(images), projected)
        torch.testing.assert_close(votes, context.model.detector.seen(projected, 1, (8, 8)))


@pytest.mark.parametrize("source", ["teacher", "student_eval"])
def test_the_current_head_votes_but_does_not_excuse_itself(source):
    split = parse_split("2-2", "abcd")
    images = torch.randn(2, 8, 4, 4)
    batch = Batch(images, torch.zeros(2, 8, 8, dtype=torch.int64))
    detection, context = detection_at(1, split)
    detector = context.model.detector
    with torch.no_grad():
        for head, bias in zip(detector.heads, (-9.0, 9.0), strict=True):
            head.bias.fill_(bias)
    context = dataclasses.replace(context, teacher=context.model.snapshot())
    projected = detection.observe(context, batch, output_of(images))
    detector.prototypes.counts.fill_(1)
    for switches, heads in ([], 1), (["current_head_votes"], 2):
        method = bacs(*switches, detector_source=source)
        votes = method._votes(context, batch, output_of(images), projected)
        assert votes.shape == (2, heads, 8, 8)
        assert bool((votes.amax(dim=1) > 0.99).all()) == (heads == 2)
        # Background that only the current head calls foreground must stay its negative.
        assert method._detection(context, batch, projected, votes)["detector"] > 5


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("gamma", "ukd", "mean"), [(1, True, 1.408272), (2, True, 1.321604), (1, False, 1.086064), (2, False, 0.999396)]
)
def test_all_pixel_mean_of_annex_a2(gamma, ukd, mean):
    context = SimpleNamespace(old_classes=3, old_labels_shown=False)
    output, batch = SimpleNamespace(logits=Z), Batch(Z, Y)
    for switches, share in (["all_pixel_mean"], 1), ([], 8 / 7):
        method = bacs(*switches, seen_gamma=gamma, seen_ukd=ukd)
        loss = method._classification(context, batch, output, S)
        assert float(loss) == pytest.approx(share * mean, abs=2e-6)


def test_single_transplant_of_annex_a5():
    stored = torch.cat([Z_OLD, torch.zeros(2, 1, 2, 2, dtype=torch.float64)], dim=1)
    valid = torch.tensor([3, 3])
    assert float(functional.dark_replay(Z, stored, valid, one_per_count=True)) == pytest.approx(3.178052, abs=1e-6)
    assert float(functional.dark_replay(Z, stored, valid)) == pytest.approx(2.912144, abs=1e-6)


def test_single_transplant_may_pick_a_sample_of_another_group():
    """Of counts 3 and 5 the original picks the samples 0 (right) and 0 (wrong: it was stored with 3)."""
    logits, stored = torch.ones(3, 6, 1, 1), torch.zeros(3, 6, 1, 1)
    _, kept = functional.transplant(stored, logits, torch.tensor([3, 3, 5]), one_per_count=True)
    assert kept.sum(dim=1).flatten().tolist() == [2, 5, 5]
    _, kept = functional.transplant(stored, logits, torch.tensor([5, 3, 3]), one_per_count=True)
    assert kept.sum(dim=1).flatten().tolist() == [4, 2, 5]


def test_label_term_reads_the_images_that_the_labels_belong_to():
    seen = []

    def model(images):
        seen.append(images)
        return SimpleNamespace(logits=images[:, :1] * Z[:, :, :1, :1].float(), replay_logits=Z)

    one, other = torch.ones(2, 1, 1, 1), 2 * torch.ones(2, 1, 1, 1)
    labels = torch.tensor([[[1]], [[2]]])
    context = SimpleNamespace(model=model, n_classes=4, old_classes=3)
    losses = {}
    for others in (None, other):
        replay = SimpleNamespace(images=one, labels=labels, logits=Z, n_logits=torch.full((2,), 3), label_images=others)
        losses[others is None] = bacs(beta=1.0, alpha=1.0)._replay(context, replay)
    assert [float(images[0]) for images in seen] == [1, 1, 2]
    assert losses[True]["replay_logits"] == losses[False]["replay_logits"] == 0
    expected = functional.cross_entropy(2 * Z[:, :, :1, :1], labels)
    assert float(losses[False]["replay_labels"]) == pytest.approx(float(expected), abs=1e-6)
    assert losses[True]["replay_labels"] != losses[False]["replay_labels"]


# ---------------------------------------------------------------- networks and metrics


def test_switches_reach_the_transformer():
    config = TranSegConfig(depth=50, crop_size=32, hidden_dim=16, dim_feedforward=16, nhead=2)
    for normalised in (True, False):
        torch.manual_seed(0)
        network = TranSeg(config, n_channels=1, compat_normalised_replay=normalised).eval()
        network.grow(2, "random")
        with torch.no_grad():
            output = network(torch.randn(1, 1, 32, 32))
        assert torch.equal(output.replay_logits, output.sem_logits) == normalised


def test_absent_classes_score_zero():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 1, 0]]]))
    assert matrix.iou(0.0).tolist() == pytest.approx([2 / 3, 0.5, 0])
    assert math.isnan(matrix.iou()[2])
