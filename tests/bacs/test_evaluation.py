"""Scores: on crops, on whole images with a sliding window, and domain by domain."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from bacs.compose import compose
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.evaluation import window_starts
from bacs.events import EpochEnded, RunEnded, StepEnded, by_name
from bacs.metrics import domain_metrics
from bacs.run import ContinualRun
from tests.bacs.data.trees import make_cityscapes, make_voc

CPU = ["training.threads=1", "training.device=cpu", "training.mixed_precision=false", "training.num_workers=0"]
TINY_UNET = ["network=unet", "network.width=4", "training.batch_size=4", "training.epochs=1"]


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return make_voc(tmp_path_factory.mktemp("voc"), side=40)


@pytest.fixture(scope="module")
def cities(tmp_path_factory):
    return make_cityscapes(tmp_path_factory.mktemp("cities"), per_city=5, height=32)


def run_of(tmp_path, *overrides: str) -> ContinualRun:
    fixed = [*CPU, *TINY_UNET, "training.iterations_per_epoch=4", f"dataset.cache={tmp_path}"]
    return ContinualRun(RunConfig.from_dict(compose("config", [*fixed, *overrides])))


@pytest.mark.parametrize(("size", "window"), [(10, 10), (11, 10), (40, 16), (100, 32), (5, 5), (33, 1)])
def test_windows_cover_every_pixel_and_overlap(size, window):
    starts = window_starts(size, window)
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] == size - window
    assert all(after - before <= max(1, window * 2 / 3) for before, after in itertools.pairwise(starts))


def test_full_evaluation_scores_every_original_pixel(tmp_path, voc):
    dataset = ["dataset=voc", f"dataset.root={voc}", "dataset.crop_size=32", "training.split=15-5"]
    run = run_of(tmp_path, *dataset, "loss=crossentropy", "dataset.evaluation=full")
    list(run.events())
    matrix = run.evaluator.matrix(run.model, "test", 1)
    masks = [np.array(Image.open(path)) for path in sorted((voc / "VOCdevkit/VOC2012/SegmentationClass").glob("2008*"))]
    truth = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)[:21]
    order = [0, *run.split.class_order]
    assert matrix.matrix.sum(dim=1).tolist() == [int(truth[c]) for c in order]
    image = run.stream.seen_view("test", 1).whole(0)[0]
    with torch.no_grad():
        batch = next(run.stream.whole(run.stream.seen_view("test", 1)))
        mean = run.evaluator.over(batch.images, lambda images: run.model(images).logits)
    assert mean.shape == (1, 21, *image.shape[-2:])
    top, left = 0, 0
    with torch.no_grad():
        alone = run.model(batch.images[..., :32, :32]).logits
    assert torch.allclose(mean[..., top, left], alone[..., top, left], atol=1e-5), "only one window reaches the corner"


def test_crop_val_scores_the_deterministic_view(tmp_path, voc):
    dataset = ["dataset=voc", f"dataset.root={voc}", "dataset.crop_size=32", "training.split=15-5"]
    run = run_of(tmp_path, *dataset, "loss=crossentropy")
    run._begin_step(0)
    counted = run.evaluator.matrix(run.model, "test", 0).matrix.sum()
    view = run.stream.seen_view("test", 0)
    labels = view.batch(np.arange(len(view)))[1]
    assert counted == (labels != 255).sum()
    assert labels.shape == (len(view), 32, 32)


def test_without_held_out_images_nothing_is_measured_on_them(tmp_path, voc):
    dataset = ["dataset=voc", f"dataset.root={voc}", "dataset.crop_size=32", "training.split=19-1"]
    run = run_of(tmp_path, *dataset, "loss=bacs", "dataset.val_share=0", "loss.buffer_size=8")
    *events, last = run.events()
    assert isinstance(last, RunEnded)
    names = {name for event in events for name in by_name(event.points)}
    assert not [name for name in names if name.startswith("val/")]
    assert "final/val_miou" not in last.final
    assert "final/miou" in last.final


def test_domain_stream(tmp_path, cities):
    dataset = ["dataset=cityscapes_domain", f"dataset.root={cities}", "dataset.crop_size=[16,32]"]
    run = run_of(tmp_path, *dataset, "training.split=11-5", "loss=crossentropy")
    assert run.split.n_steps == 3
    sizes = [run.split.classes_seen(step) for step in range(3)]
    assert sizes == [19, 19, 19], "no background, nothing grows"
    shown = [set(run.data.train.group[run.stream.training_view(step).indices].tolist()) for step in range(3)]
    assert shown == [set(range(11)), set(range(11, 16)), set(range(16, 21))]
    labels = run.stream.training_view(1).batch(np.arange(4))[1]
    assert set(labels.unique().tolist()) <= {*range(19), 255}
    epochs, steps = [], []
    for event in run.events():
        (steps if isinstance(event, StepEnded) else epochs).append(event)
    assert run.model.network.n_classes == 19
    assert "road" in steps[0].class_iou
    assert "background" not in steps[0].class_iou
    last = by_name(steps[-1].points)
    assert {"miou/all", "miou/base", "miou/novel", "miou/old", "miou/new", "forgetting"} <= last.keys()
    total = sum(run.evaluator.matrix(run.model, "test", step).matrix for step in range(3))
    views = [run.stream.seen_view("test", step) for step in range(3)]
    pixels = sum(int((view.batch(np.arange(len(view)))[1] != 255).sum()) for view in views)
    assert total.sum() == pixels, "all domains seen so far are measured"
    assert [type(event) for event in epochs] == [EpochEnded] * 3 + [RunEnded]


def test_domain_metrics_by_hand():
    iou = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
    history = [[iou(0.8, 0.6)], [iou(0.5, 0.5), iou(0.9, math.nan)], [iou(0.4, 0.2), iou(0.7, math.nan), iou(1.0, 0.0)]]
    found = domain_metrics(history, iou(0.6, 0.2), 2)
    expected = {"all": 0.4, "base": 0.3, "novel": (0.7 + 0.5) / 2, "old": (0.3 + 0.7) / 2, "new": 0.5}
    assert {name: found[f"miou/{name}"] for name in expected} == pytest.approx(expected)
    assert found["forgetting"] == pytest.approx(((0.7 - 0.3) + (0.9 - 0.7)) / 2)
    assert found["backward_transfer"] == pytest.approx(((0.3 - 0.7) + (0.7 - 0.9)) / 2)
    first = domain_metrics(history, iou(0.8, 0.6), 0)
    assert first == pytest.approx({"miou/all": 0.7, "miou/base": 0.7, "miou/new": 0.7})


def test_losses_that_need_a_background_are_refused_on_domains(tmp_path, cities):
    with pytest.raises(RequestError, match="need a background class"):
        run_of(tmp_path, "dataset=cityscapes_domain", f"dataset.root={cities}", "training.split=11-5", "loss=bacs")
    with pytest.raises(RequestError, match="counts new classes"):
        run_of(
            tmp_path, "dataset=cityscapes_domain", f"dataset.root={cities}", "training.split=11-5",
            "loss=crossentropy", "training.steps_per_class=3",
        )  # fmt: skip
