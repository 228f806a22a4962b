"""A trial keeps its pictures and results in its own folder, and reports nothing more for them."""

from __future__ import annotations

import json

import trainables.trial
from bacs.origin import Origin
from bacs.run import ContinualRun
from trainables.folder import TrialFolder


def test_pictures_lie_in_the_folder_of_the_trial(tiny_config, tiny_digits, tmp_path, monkeypatch):
    reports = []
    monkeypatch.setattr(trainables.trial.tune, "report", lambda metrics, checkpoint=None: reports.append(metrics))
    fixed = ["loss=crossentropy", "training.mode=joint", "training.epochs=1", "training.log_images=2"]
    config = tiny_config(*fixed)
    trainables.trial._drive(ContinualRun(config, tiny_digits), Origin.of(config), TrialFolder(tmp_path))
    assert [report["kind"] for report in reports] == ["started", "epoch", "step", "final"]
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert len(files) == 2
    assert all(name.startswith("pictures/step-0/image-") for name in files)
    results = {path.name for path in (tmp_path / "results").iterdir()}
    assert results == {"metrics.json", "origin.json", "steps.csv", "classes.csv", "confusion-0.csv"}
    assert json.loads((tmp_path / "results/metrics.json").read_text())["final"] == reports[-1]["final"]
