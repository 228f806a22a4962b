"""The switches of ``compat`` in whole runs: each acts from the step it declares."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from bacs.bundle import load_bundle
from bacs.compat import CompatConfig
from bacs.compose import compose
from bacs.config import RunConfig
from bacs.events import EpochEnded, StepEnded
from bacs.run import ContinualRun
from bacs.schema import acts_from
from tests.conftest import TINY

NO_EFFECT_ON_TINY_DIGITS = {
    "all_pixel_mean",  # no pixel is ignored
    "replay_autocontrast",  # nothing is left to stretch
    "token_bias_from_weights",  # no tokens
    "normalised_replay_logits",
    "sdr_official",  # of other methods
    "plop_official",
    "absent_classes_score_zero",  # changes metrics alone
}

OVERRIDES = [
    "training.split=5-5",
    "loss.buffer_policy=loss_balanced",
    "loss.buffer_size=10",
]


def outcome(run: ContinualRun) -> dict[str, dict[str, torch.Tensor]]:
    """Weights at the last epoch and at the end of each step."""
    found = {}
    for event in run.events():
        if isinstance(event, EpochEnded | StepEnded):
            name = f"{type(event).__name__} {event.step}"
            found[name] = {key: value.clone() for key, value in run.model.state_dict().items()}
    return found


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def run_with(tiny_config, tiny_digits):
    """A tiny run with the given switches on."""

    def make(*switches: str) -> ContinualRun:
        overrides = [f"compat.{name}=true" for name in switches]
        return ContinualRun(tiny_config(*OVERRIDES, *overrides), tiny_digits)

    return make


@pytest.fixture(scope="module")
def plain(run_with):
    return outcome(run_with())


@pytest.mark.parametrize(("switch", "declared"), acts_from(CompatConfig).items())
def test_a_switch_acts_from_the_step_it_declares(run_with, plain, switch, declared):
    changed = outcome(run_with(switch))
    if switch in NO_EFFECT_ON_TINY_DIGITS:
        assert same(changed["StepEnded 1"], plain["StepEnded 1"])
        return
    assert same(changed["StepEnded 0"], plain["StepEnded 0"]) == (declared == 1)
    assert not same(changed["StepEnded 1"], plain["StepEnded 1"])


def test_labels_of_shuffled_replay_belong_to_their_own_images(run_with, tiny_digits):
    run = run_with("shuffled_label_replay")
    next(event for event in run.events() if event.step == 1)  # the memory is filled where step 1 begins
    state = run.memory.state_dict()
    scenes, table = tiny_digits.train, run.stream.training_view(0).table
    at = {image.tobytes(): i for i, image in enumerate(scenes.images)}
    others = [at[image.numpy().tobytes()] for image in state["label_images"]]
    assert [at[image.numpy().tobytes()] for image in state["images"]] == state["index"].tolist()
    assert sum(a != b for a, b in zip(others, state["index"].tolist(), strict=True)) >= len(others) - 2
    assert (state["labels"].numpy() == table[scenes.labels[others]]).all()


def test_collection_in_train_mode_moves_the_statistics_and_nothing_else(run_with, plain):
    run = run_with("train_mode_collection")
    found = outcome(run)
    for states, moved in (plain, False), (found, True):
        before, after = states["EpochEnded 0"], states["StepEnded 0"]
        network = [key for key in before if key.startswith("network.")]
        changed = {key for key in network if not torch.equal(before[key], after[key])}
        assert bool(changed) == moved
        assert all(key.rsplit(".", 1)[1] in {"running_mean", "running_var", "num_batches_tracked"} for key in changed)
    assert not run.model.training


def test_collection_in_train_mode_does_not_depend_on_the_evaluation_batch(tiny_config, tiny_digits):
    states = []
    for size in (7, 50):
        config = tiny_config(*OVERRIDES, "compat.train_mode_collection=true", f"training.eval_batch_size={size}")
        run = ContinualRun(config, tiny_digits)
        next(event for event in run.events() if isinstance(event, StepEnded))
        states.append(run.memory.state_dict() | run.model.state_dict())
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[1][key])


@pytest.mark.slow
def test_collection_in_train_mode_leaves_two_ranks_alike(tmp_path, digits_cache):
    """Statistics are summed over ranks in train mode: were only one to collect, it would wait for ever."""
    exact = ["training.mixed_precision=false", "loss.detector_dropout=0", "loss.replay_batch_size=6"]
    losses = {}
    for n in (1, 2):
        place = [f"dataset.cache={digits_cache}", f"training.ckpt_dir={tmp_path}", f"training.exp_name=ranks{n}"]
        changes = ["compat.train_mode_collection=true", "training.split=5-5", f"training.n_gpus={n}"]
        command = [sys.executable, "-m", "bacs", *TINY, *exact, *place, *changes]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        _, meta = load_bundle(tmp_path / f"ranks{n}" / "stage-001")
        losses[n] = {(name, x): value for name, x, value, _ in meta["points"] if name.startswith("train/")}
    assert losses[2] == pytest.approx(losses[1], rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("compat", ["none", "reference"])
def test_switches_reach_the_transformer_of_a_run(digits_cache, tiny_digits, compat):
    sizes = {"depth": 50, "crop_size": 32, "hidden_dim": 16, "nhead": 2, "dim_feedforward": 16}
    network = ["network=transformer", *(f"network.{name}={size}" for name, size in sizes.items())]
    values = compose("config", [*network, f"compat={compat}", f"dataset.cache={digits_cache}", "training.threads=1"])
    built = ContinualRun(RunConfig.from_dict(values), tiny_digits).model.network
    assert built.decoder.classes.compat_mean_bias == (compat == "reference")
    assert built.replays_cosines == (compat == "none")


def test_absent_classes_enter_the_means_of_a_run(run_with):
    assert run_with("absent_classes_score_zero").evaluator.absent == 0
    assert math.isnan(run_with().evaluator.absent)
