"""Every configuration file that ships composes, says how it is run, and trains."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bacs.compose import CONF_DIR, compose
from bacs.config import RunConfig
from bacs.events import EpochEnded, RunEnded
from bacs.run import ContinualRun
from tests.conftest import TINY

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
SPLITS = {"voc": "19-1", "cityscapes": "18-1", "cityscapes_domain": "18-3", "ade20k": "149-1"}
"""Two steps each, so that a run is short."""

CHOICES = [
    (group, path.stem)
    for group in ("dataset", "network", "optimizer", "scheduler", "loss", "training", "compat")
    for path in sorted((CONF_DIR / group).glob("*.yaml"))
]


def dataset_of(experiment: str) -> str:
    text = (CONF_DIR / "experiment" / f"{experiment}.yaml").read_text()
    found = re.search(r"override /dataset: (\w+)", text)
    assert found
    return found[1]


def small(dataset: str, roots: dict[str, Path], cache: Path) -> list[str]:
    """What makes a shipped configuration a run of seconds, and leaves what it is about."""
    if dataset == "digits":
        keys = ("dataset.", "network.", "training.threads", "training.device", "training.batch_size")
        return [*(text for text in TINY if text.startswith(keys)), f"dataset.cache={cache}", "training.debug=true"]
    return [
        f"dataset.root={roots[dataset.removesuffix('_domain')]}",
        f"dataset.cache={cache}",
        "dataset.crop_size=32",
        "network.pretrained_backbone=false",  # tests have no network
        "network.norm_momentum=0.5",  # so that three iterations make running statistics fit for eval mode
        f"training.split={SPLITS[dataset]}",
        "training.debug=true",
        "training.epochs=1",
        "training.batch_size=6",
        "training.num_workers=0",
        "training.threads=1",
        "training.device=cpu",
        "training.mixed_precision=false",
    ]


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids="/".join)
def test_every_choice_of_every_group_composes(group, choice, tmp_path):
    values = compose("config", [f"{group}={choice}"])
    assert values[group] is not None
    if group in ("optimizer", "scheduler", "loss", "compat"):
        RunConfig.from_dict(compose("config", [f"{group}={choice}", f"dataset.cache={tmp_path}"]))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_is_headed_by_its_command(experiment):
    lines = (CONF_DIR / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    commands = [line.lstrip("# ").split() for line in lines if "python -m bacs" in line]
    assert commands
    for command in commands:
        assert command[:4] == ["python", "-m", "bacs", f"+experiment={experiment}"]
        values = compose("config", command[3:])
        assert values["training"].get("mode", "overlap") == ("joint" if "joint" in experiment else "overlap")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains(experiment, roots, tmp_path):
    overrides = [f"+experiment={experiment}", *small(dataset_of(experiment), roots, tmp_path)]
    run = ContinualRun(RunConfig.from_dict(compose("config", overrides)))
    events = list(run.events())
    assert isinstance(events[-1], RunEnded)
    assert 0 <= events[-1].final["final/miou"] <= 1
    lengths = [run._lengths[event.step] for event in events if isinstance(event, EpochEnded)]
    assert lengths
    assert all(1 <= n <= 3 for epochs in lengths for n in epochs)


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("norm", ["bn", "abn", "iabn", "iabn_sync"])
@pytest.mark.parametrize("network", ["deep_lab", "transformer"])
def test_every_norm_and_output_stride_trains_two_steps_of_voc(network, norm, output_stride, roots, tmp_path):
    chosen = [f"network={network}", f"network.norm={norm}", f"network.output_stride={output_stride}"]
    overrides = ["+experiment=voc_bacs", *chosen, *small("voc", roots, tmp_path), "training.split=15-5"]
    config = RunConfig.from_dict(compose("config", overrides))
    assert config.network.settings.depth == 101
    run = ContinualRun(config)
    grown = []
    for event in run.events():
        if isinstance(event, EpochEnded):
            grown.append(run.model.network.n_classes)
            assert all(np.isfinite(point.value) for point in event.points)
        last = event
    assert grown == [16, 21]
    assert isinstance(last, RunEnded)
    assert 0 <= last.final["final/miou"] <= 1
