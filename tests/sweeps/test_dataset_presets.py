"""The presets of the real datasets, through the whole command line, on small trees in the true format."""

from __future__ import annotations

import pytest

from results.state import SweepState
from tests.bacs.data.trees import make_ade20k, make_cityscapes, make_voc
from tests.sweeps.conftest import CommandLine

SMALL_TRIALS = [
    "dataset.crop_size=32",
    "network.depth=50",
    "network.pretrained_backbone=false",
    "network.norm_momentum=0.5",
    "training.debug=true",
    "training.epochs=1",
    "training.batch_size=6",
    "training.accumulate_gradients=1",
    "search.trials=1",
    "resources.gpus_per_trial=0",
    "resources.cpus_per_trial=1",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "split", "references"),
    [("voc", "15-1", ["joint", "finetune"]), ("cityscapes", "13-6", []), ("ade20k", "100-50", [])],
)
def test_preset_runs_on_a_tree_in_the_true_format(sweeps: CommandLine, tmp_path, preset, split, references):
    root = tmp_path / "data"
    make = {
        "voc": lambda: make_voc(root, augmented=60, side=40),
        "cityscapes": lambda: make_cityscapes(root, height=32),
        "ade20k": lambda: make_ade20k(root, train=90, side=40),
    }
    make[preset]()
    asked = [f"dataset.root={root}", f"search.splits=[{split}]", f"search.references=[{','.join(references)}]"]
    code, output = sweeps.run("run", preset, "--name", preset, *asked, *SMALL_TRIALS, timeout=500)
    assert code == 0, output
    state = SweepState.load(sweeps.journal(preset))
    assert {(trial.split, trial.role) for trial in state.trials.values()} == {
        (split, role) for role in ("trial", *references)
    }
    for trial in state.trials.values():
        assert trial.status == "finished"
        assert {"final/miou", "final/val_miou"} <= trial.final.keys()


def test_a_preset_asks_for_its_dataset_and_its_gpu(sweeps: CommandLine):
    code, output = sweeps.look("plan", "voc", "dataset.val_share=0")
    assert code == 2
    assert "dataset.root" in output
    assert "a sweep chooses by validation images" in output
