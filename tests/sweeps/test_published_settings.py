"""Presets that bear the name of a dataset run what was published for it; the digits keep what was tuned on them."""

from __future__ import annotations

import pytest

from bacs.compose import compose
from bacs.config import RunConfig
from search_spaces.propose import Params
from sweeps.settings import SECTIONS, compose_preset, lookup, nested

RELEASED_BACS: Params = {  # conf/experiments of the released code; "Code default" where these say nothing
    "loss._target_": "bacs.losses.bacs.Bacs",
    "loss.lkd": 0.25,
    "loss.lkd_mode": "ref",
    "loss.lkd_threshold": None,  # follows the threshold of the detector, 0.5
    "loss.prototype_margin": 0.0,
    "loss.alpha": 0.8,
    "loss.beta": 0.5,
    "loss.logit_reduction": "mean_all",
    "loss.dark_plus_plus": True,
    "loss.ignore_rep_bg": True,
    "loss.buffer_size": 300,
    "loss.buffer_policy": "loss_balanced",
    "loss.bg_weighted_ce": True,
    "loss.seen_gamma": 2.0,
    "loss.seen_ukd": True,
    "loss.seen_focal_alpha": None,
    "loss.prototypes": "step",
    "loss.prototype_decay": 1.0,
    "loss.detector_source": "student_eval",
    "loss.det_lr_factor": 1.0,
    "loss.det_weight": 1.0,
    "loss.detector_dropout": 0.1,
    "loss.replay_batch_size": None,  # as many as new images
}
PROTOCOL: Params = {  # MiB, PLOP and BACS: SGD with Nesterov's momentum, poly, 24 images at 512x512, overlapped
    "optimizer._target_": "torch.optim.SGD",
    "optimizer.lr": 0.01,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 1e-4,
    "scheduler._target_": "bacs.schedules.Poly",
    "scheduler.power": 0.9,
    "dataset.crop_size": 512,
    "network.pretrained_backbone": True,
    "network.depth": 101,
    "network.output_stride": 16,
    "training.mode": "overlap",
    "training.lr_next": 1e-3,
    "training.next_epochs": None,
    "training.iterations_per_epoch": None,
    "training.gradient_clip_val": 2.0,
    "training.gradient_clip_algorithm": "value",
}
EPOCHS = {"voc": 30, "cityscapes": 50, "ade20k": 60}
SPLITS = {"voc": "15-1", "cityscapes": "14-1", "ade20k": "100-10"}
DIGITS: Params = {
    "loss.lkd": 0.05,
    "loss.alpha": 0.05,
    "loss.beta": 0.4,
    "loss.logit_reduction": "mean_valid",
    "loss.buffer_policy": "class_balanced",
    "loss.detector_source": "teacher",
    "loss.det_lr_factor": 10,
    "loss.prototype_decay": 0.99,
    "loss.head_init": "mib_noise",
    "optimizer._target_": "torch.optim.AdamW",
    "optimizer.lr": 0.003,
}


def of_run(values: dict) -> dict:
    return {key: value for key, value in values.items() if key not in SECTIONS}


def heads(run: RunConfig) -> str:
    return run.training.new_head_init or run.loss.factory.heads_start(run.loss.settings)


def wrong(run: RunConfig, wanted: Params) -> dict[str, object]:
    return {key: found for key, value in wanted.items() if (found := lookup(run.resolved, key)) != value}


def composed(dataset: str, values: dict, tmp_path) -> RunConfig:
    """Parsed where no such dataset lies: on the digits, with the keys of the dataset put back."""
    digits = compose("config", ["dataset=digits"])["dataset"]
    run = RunConfig.from_dict(nested({**values, "dataset": digits}, {"training.split": "2-2"}))
    run.resolved["dataset"] = values["dataset"]
    return run


@pytest.mark.parametrize("dataset", EPOCHS)
@pytest.mark.parametrize("suffix", ["bacs", "bacs_transformer", "finetune"])
def test_experiments_of_a_dataset(dataset, suffix, tmp_path):
    values = compose("config", [f"+experiment={dataset}_{suffix}"])
    run = composed(dataset, values, tmp_path)
    batch = {"training.epochs": EPOCHS[dataset], "training.batch_size": 24, "training.accumulate_gradients": 1}
    assert wrong(run, PROTOCOL | batch | (RELEASED_BACS if suffix != "finetune" else {})) == {}
    assert values["training"]["split"] == SPLITS[dataset]
    if suffix == "bacs":
        assert heads(run) == "mib"


@pytest.mark.parametrize("dataset", EPOCHS)
def test_sweeps_of_a_dataset(dataset, tmp_path):
    values = compose_preset(dataset, [], {"storage": str(tmp_path)})
    run = composed(
        dataset, {key: values[key] for key in values if key not in ("search", "sweep", "resources")}, tmp_path
    )
    assert wrong(run, PROTOCOL | RELEASED_BACS | {"training.epochs": EPOCHS[dataset]}) == {}
    assert run.training.batch_size * run.training.accumulate_gradients == 24
    assert heads(run) == "mib"


def test_the_reference_has_the_same_numbers_and_every_defect(tmp_path):
    run = composed("voc", compose("config", ["+experiment=voc_bacs_ref"]), tmp_path)
    assert wrong(run, RELEASED_BACS | PROTOCOL) == {}
    assert heads(run) == "mib"
    assert all(run.resolved["compat"].values())


@pytest.mark.parametrize("preset", ["digits", "digits60"])
def test_sweeps_of_the_digits_keep_what_was_tuned_on_them(preset, tmp_path):
    values = compose_preset(preset, [], {"storage": str(tmp_path)})
    run = RunConfig.from_dict(of_run(values))
    assert wrong(run, DIGITS | {"loss.replay_batch_size": 8}) == {}
    other = compose_preset(preset, ["loss=mib", "search.space=mib"], {"storage": str(tmp_path)})
    assert other["loss"] == {"_target_": "bacs.losses.mib.MiB"}, "another method is not touched"


@pytest.mark.parametrize("overrides", [[], ["loss=bacs"], ["+experiment=digits_bacs"]])
def test_runs_on_the_digits_keep_what_was_tuned_on_them(overrides):
    assert wrong(RunConfig.from_dict(compose("config", overrides)), DIGITS) == {}
