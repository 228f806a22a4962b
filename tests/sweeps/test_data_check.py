"""What `plan` and `run` find out about the images before anything is started. No Ray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeps.__main__ import app
from tests.bacs.data.trees import make_folder

PRESET = """
defaults: [{dataset: folder}, {network: unet}, {optimizer: adamw}, {scheduler: poly}, {loss: bacs},
  {training: default}, {compat: none}, _self_]
dataset: {crop_size: 16}
network: {width: 2}
training: {epochs: 1, iterations_per_epoch: 2, batch_size: 4, num_workers: 0}
search: {space: bacs, trials: 2, splits: [2-1], references: []}
"""


@pytest.fixture
def command(tmp_path):
    """Runs a command on a tree of 8 training images; returns its exit code and all its words."""
    root = make_folder(tmp_path / "data", train=8, val=4, side=24)
    (tmp_path / "p.yaml").write_text(PRESET)

    def start(name: str, *overrides: str) -> tuple[int, str]:
        place = [f"dataset.root={root}", "--storage", str(tmp_path / "runs"), "--name", "s"]
        done = CliRunner().invoke(app, [name, str(tmp_path / "p.yaml"), *place, *overrides])
        return done.exit_code, re.sub(r"\s+", " ", done.output)

    start.root = root  # type: ignore[attr-defined]
    return start


@pytest.mark.parametrize("name", ["plan", "run"])
@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("dataset.val_share=0.001", "dataset.val_share: is 0.001, which holds out 0 of 8 training images"),
        ("network.num_layers=6", "network: is bacs.networks.unet.UNet, which cannot be trained on"),
    ],
)
def test_what_cannot_work_is_refused(command, tmp_path: Path, name, override, told):
    code, words = command(name, override)
    assert code == 2
    assert told in words
    assert "nothing was started" in words
    assert not (tmp_path / "runs" / "s").exists()


def test_broken_files_are_refused(command):
    (command.root / "images/val_1.png").write_bytes(b"")
    code, words = command("run")
    assert code == 2
    assert "val_1.png: cannot be read: it is empty" in words


def test_a_plan_tells_the_classes_without_pixels(command):
    (command.root / "classes.txt").write_text("disc\nsquare\ntriangle\nstar\n")
    code, words = command("plan", "search.splits=[2-2]", "training.mode=overlap")
    assert code == 0
    assert words.count("no test pixel of star") == 1
