"""The detector on a dataset it never meets: right numbers, on one rank or two, under the names of the group."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import accuracy_score, f1_score
from torch import multiprocessing

from bacs.compose import CONF_DIR, compose
from bacs.config import RunConfig
from bacs.data import Digits, normalise
from bacs.errors import RequestError
from bacs.events import StepEnded, by_name
from bacs.media.features import class_means
from bacs.ood import OodTest, ood_metrics
from bacs.run import ContinualRun
from tests.bacs.data.trees import make_voc
from tests.conftest import TINY

NAMES = {"ood/f1", "ood/accuracy", "ood/seen_mean", "ood/seen_var"}


def as_ood(values: list[str]) -> list[str]:
    """The overrides of the group ``dataset`` again, for the group ``ood``."""
    return [text.replace("dataset.", "ood.", 1) for text in values if text.startswith("dataset.")]


def expected_metrics(seen: np.ndarray) -> dict[str, float]:
    """Every pixel is unseen in truth."""
    truth, called = np.ones(len(seen), dtype=bool), seen <= 0.5
    return {
        "ood/f1": f1_score(truth, called, zero_division=0),
        "ood/accuracy": accuracy_score(truth, called),
        "ood/seen_mean": seen.mean(),
        "ood/seen_var": seen.var(),
    }


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_metrics_are_those_of_the_pixels(share):
    seen = np.random.default_rng(0).random(1000)
    seen = np.where(np.arange(1000) < share * 1000, seen / 2, 0.5 + seen / 2)
    told = ood_metrics(1000, (seen <= 0.5).sum(), seen.sum(), (seen**2).sum())
    assert told == pytest.approx(expected_metrics(seen))
    assert ood_metrics(0, 0, 0, 0) == {}


def test_last_head_judges_every_test_image_normalised_like_the_training_images(tiny_config, tiny_digits, digits_cache):
    data = copy.copy(tiny_digits)
    data.mean, data.std = (0.2,), (0.5,)
    scenes = ["ood.canvas=24", "ood.test_scenes=7", "ood.seed=9", f"ood.cache={digits_cache}"]
    small = ["ood.digit_size=10", "ood.train_scenes=3", "ood.val_scenes=3"]
    fixed = ["training.split=5-5", "training.mixed_precision=false", "training.eval_batch_size=3"]
    run = ContinualRun(tiny_config(*fixed, "+ood=digits", *scenes, *small), data)
    other = Digits(run.config.ood.settings).test
    assert len(other) == 7
    told = []
    for event in run.events():
        if not isinstance(event, StepEnded):
            continue
        images, _ = other.read(np.arange(7), None)
        detector = run.model.detector
        with torch.no_grad():
            projected = detector.project(run.model(normalise(images, (0.2,), (0.5,))).bottleneck)
            seen = torch.sigmoid(detector.logits(projected, event.step, (24, 24)))
        told.append({name: value for name, value in by_name(event.points).items() if name.startswith("ood/")})
        assert told[-1].keys() == NAMES
        assert told[-1] == pytest.approx(expected_metrics(seen.double().flatten().numpy()), rel=1e-5)
    assert told[0] != told[1]


def test_ignored_pixels_of_an_image_in_colour_do_not_count(tmp_path):
    roots = {"dataset": make_voc(tmp_path / "voc", side=40), "ood": make_voc(tmp_path / "other", side=40, seed=1)}
    files = [
        text
        for group, root in roots.items()
        for text in (f"{group}.root={root}", f"{group}.cache={tmp_path}", f"{group}.crop_size=32")
    ]
    fixed = ["training.device=cpu", "training.threads=1", "training.mixed_precision=false", "training.num_workers=0"]
    overrides = ["dataset=voc", "+ood=voc", *files, *fixed, "training.split=15-5", "network.width=4"]
    run = ContinualRun(RunConfig.from_dict(compose("config", overrides)))
    run.model.grow(run.split.heads[0], "random")
    torch.nn.init.normal_(run.model.detector.heads[0].weight, std=2000)  # so that the pixels are not all called alike
    run.model.eval()
    scenes = run.ood.images.scenes
    found = []
    for row in range(len(scenes)):
        image, mask = scenes.read(np.array([row]), None)
        with torch.no_grad():
            projected = run.model.detector.project(run.model(run.stream.to_device(image)).bottleneck)
            seen = torch.sigmoid(run.model.detector.logits(projected, 0, (32, 32)))
        found.append(seen[mask != 255].double().numpy())
    counted = np.concatenate(found)
    assert 0 < len(counted) < len(scenes) * 32 * 32
    expected = expected_metrics(counted)
    assert 0 < expected["ood/accuracy"] < 1
    assert run.ood.measure(run.model, 0) == pytest.approx(expected, rel=1e-4)


def measured(cache: str) -> dict[str, float]:
    """What this rank is told of an untrained model; a pure function of the seed."""
    values = [*TINY, f"dataset.cache={cache}", "training.mixed_precision=false", "training.eval_batch_size=5"]
    run = ContinualRun(RunConfig.from_dict(compose("config", [*values, "+ood=digits", *as_ood(values)])))
    run.model.grow(run.split.heads[0], "random")
    told = OodTest(run.config.ood, run.stream).measure(run.model, 0)
    found = class_means(run.stream, run.model, 0, 5)
    return told | {f"mean {index}": value for index, value in enumerate(found.means.flatten().tolist())}


def one_rank(index: int, meeting: str, cache: str, told: Path) -> None:
    dist.init_process_group("gloo", init_method=meeting, rank=index, world_size=2)
    try:
        told.write_text(json.dumps(measured(cache)))
    finally:
        dist.destroy_process_group()


def other_rank(_: int, *arguments: str) -> None:
    meeting, cache, told = arguments
    one_rank(1, meeting, cache, Path(told))


def test_two_ranks_are_told_what_one_is(tmp_path, digits_cache, tiny_digits):
    alone = measured(str(digits_cache))
    assert alone.keys() > NAMES
    meeting, files = f"file://{tmp_path}/meet", [tmp_path / "0.json", tmp_path / "1.json"]
    other = multiprocessing.spawn(other_rank, args=(meeting, str(digits_cache), str(files[1])), nprocs=1, join=False)
    one_rank(0, meeting, str(digits_cache), files[0])
    assert other.join(60)
    for file in files:
        assert json.loads(file.read_text()) == pytest.approx(alone, rel=1e-5, abs=1e-7)


# ---------------------------------------------------------------------- configuration


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONF_DIR / "ood").glob("*.yaml")))
def test_every_choice_is_the_dataset_of_that_name_and_takes_its_keys(choice):
    values = compose("config", [f"+ood={choice}", "ood.root=/data/there", "dataset.cache=elsewhere"])
    plain = compose("config", [f"dataset={choice}", "dataset.root=/data/there"])
    assert values["ood"] == plain["dataset"]
    assert values["dataset"]["cache"] == "elsewhere"


def test_faults_of_the_dataset_carry_the_name_of_the_group(tmp_path):
    with pytest.raises(RequestError) as caught:
        RunConfig.from_dict(compose("config", ["dataset=voc", f"dataset.cache={tmp_path}", "+ood=voc", "ood.nope=1"]))
    assert {"ood.root", "dataset.root", "ood.nope"} == {fault.where for fault in caught.value.faults}
    assert not any("dataset." in str(fault) for fault in caught.value.faults if fault.where.startswith("ood"))


def test_faults_that_only_opening_shows_carry_it_too(tmp_path, tiny_config, tiny_digits):
    voc = make_voc(tmp_path / "voc", side=40)
    lists = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    config = tiny_config("+ood=digits", f"ood.cache={tmp_path}")
    lists.write_text("")
    values = compose("config", ["dataset=voc", f"dataset.root={voc}", f"dataset.cache={tmp_path}"])
    broken = RunConfig.from_dict(values).dataset
    with pytest.raises(RequestError) as caught:
        OodTest(broken, ContinualRun(config, tiny_digits).stream)
    assert not any("dataset." in str(fault) for fault in caught.value.faults)


def test_it_needs_a_detector_and_images_of_the_same_kind(tiny_values):
    with pytest.raises(RequestError, match=r"ood: asks what the detector makes of it, but .*CrossEntropy has none"):
        RunConfig.from_dict(tiny_values("loss=crossentropy", "+ood=digits"))
    with pytest.raises(RequestError, match="another number of channels"):
        RunConfig.from_dict(tiny_values("+ood=folder"))


def test_own_experiments_may_bring_groups_that_the_defaults_lack(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [{/ood: digits}, {override /loss: crossentropy}]\nood: {canvas: 40}\n"
    )
    (tmp_path / "base.yaml").write_text((CONF_DIR / "config.yaml").read_text())
    values = compose("base", ["+experiment=mine", "ood.digit_size=9", "training.epochs=7"], tmp_path)
    assert values["loss"]["_target_"] == "bacs.losses.crossentropy.CrossEntropy"
    assert (values["ood"]["canvas"], values["ood"]["digit_size"], values["training"]["epochs"]) == (40, 9, 7)
    with pytest.raises(RequestError, match=r"ood: is 'nope'.*\n.*ade20k, cityscapes, digits"):
        compose("base", ["+ood=nope"], tmp_path)
