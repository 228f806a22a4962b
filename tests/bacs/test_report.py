"""What a run leaves behind: right numbers, whole files, the same after an interruption."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score, precision_score, recall_score

from bacs.__main__ import main
from bacs.checkpoints import CheckpointFolder
from bacs.data import DomainSplit
from bacs.evaluation import Scores
from bacs.events import RunEnded, StepEnded, is_per_epoch
from bacs.lineage import run_identity
from bacs.report import History, write_results
from bacs.run import ContinualRun
from tests.conftest import TINY

OPTIONS = ["training.split=4-3", "training.shuffle_classes=true", "training.log_animation=true", "training.val_every=2"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def metrics(folder: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)


def looked_up(run: ContinualRun, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of every test pixel."""
    run.model.eval()
    pairs = []
    with torch.no_grad(), run.numerics.autocast():
        for batch in run.stream.in_order(run.stream.seen_view("test", step), 50):
            pairs.append((batch.labels.flatten().numpy(), run.model(batch.images).logits.argmax(dim=1).flatten()))
    return np.concatenate([truth for truth, _ in pairs]), np.concatenate([guess.numpy() for _, guess in pairs])


@pytest.fixture(scope="module")
def finished(tiny_config, tiny_digits, tmp_path_factory):
    """(folder, run, truth and prediction after each step, final metrics)."""
    folder = tmp_path_factory.mktemp("results")
    run = ContinualRun(tiny_config(*OPTIONS), tiny_digits)
    seen = []
    for event in run.events():
        if isinstance(event, StepEnded):
            write_results(folder, run.history())
            seen.append(looked_up(run, event.step))
            assert len(table(folder / "steps.csv")) == event.step + 1
            assert bool(metrics(folder)["final"]) == (event.step == 2)
    assert isinstance(event, RunEnded)
    return folder, run, seen, event.final


def test_confusion_matrices_count_every_test_pixel(finished):
    folder, run, seen, _ = finished
    names = ["background", *(run.data.class_names[class_id - 1] for class_id in run.split.class_order)]
    for step, (truth, guess) in enumerate(seen):
        rows = table(folder / f"confusion-{step}.csv")
        size = run.split.classes_seen(step)
        assert [row["truth"] for row in rows] == names[:size]
        assert list(rows[0]) == ["truth", *names[:size]]
        counts = np.array([[int(row[name]) for name in names[:size]] for row in rows])
        assert np.array_equal(counts, confusion_matrix(truth, guess, labels=range(size)))


def test_classes_have_the_quality_that_scikit_learn_finds(finished):
    folder, run, seen, _ = finished
    rows = table(folder / "classes.csv")
    assert len(rows) == sum(run.split.classes_seen(step) for step in range(3))
    for row in rows:
        truth, guess = seen[int(row["step"])]
        label = [0, *run.split.class_order].index(int(row["id"]))
        assert row["class"] == ("background" if label == 0 else str(int(row["id"]) - 1))
        steps = [str(step) for step, classes in enumerate(run.split.steps) if int(row["id"]) in classes]
        assert row["since"] == "".join(steps)
        assert int(row["pixels"]) == (truth == label).sum() > 0
        options = {"labels": [label], "average": None, "zero_division": np.nan}
        assert float(row["iou"]) == pytest.approx(jaccard_score(truth == label, guess == label))
        assert float(row["recall"]) == pytest.approx(recall_score(truth, guess, **options)[0])
        precision = precision_score(truth, guess, **options)[0]
        assert row["precision"] == "" if math.isnan(precision) else float(row["precision"]) == pytest.approx(precision)


def test_summaries_follow_from_the_table_of_classes(finished):
    folder, _, _, final = finished
    found = metrics(folder)
    rows = table(folder / "classes.csv")

    def mean(step: int, since: int) -> float:
        return np.mean([float(r["iou"]) for r in rows if r["step"] == str(step) and r["since"] == str(since)])

    for i in range(3):
        assert [value is None for value in found["step_matrix"][i]] == [j < i for j in range(3)]
        for j in range(i, 3):
            assert found["step_matrix"][i][j] == pytest.approx(mean(j, i))
    last = found["steps"][-1]
    assert last["backward_transfer"] == pytest.approx(np.mean([mean(2, i) - mean(i, i) for i in (0, 1)]))
    drops = {}
    for name in {row["class"] for row in rows if row["since"] in ("0", "1")}:
        course = [float(row["iou"]) for row in rows if row["class"] == name]
        drops[name] = max(course[:-1]) - course[-1]
    assert found["forgetting_by_class"] == pytest.approx(drops)
    assert last["forgetting"] == pytest.approx(np.mean(list(drops.values())))
    assert found["final"] == final
    assert final["final/forgetting"] == last["forgetting"]


def test_records_say_what_was_run_and_hold_every_point_once(finished):
    folder, run, _, _ = finished
    found = metrics(folder)
    told = {key: found[key] for key in ("identity", "split", "mode", "seed")}
    assert told == {"identity": run_identity(run.config), "split": "4-3", "mode": "overlap", "seed": 42}
    assert [entry["id"] for entry in found["classes"]] == [0, *run.split.class_order]
    points = {(name, row["step"]): value for row in found["steps"] for name, value in row.items() if name != "step"}
    points |= {(name, row["epoch"]): value for row in found["epochs"] for name, value in row.items() if name != "epoch"}
    assert points == {(point.metric, point.x): point.value for point in run.points}
    assert [row["epoch"] for row in found["epochs"]] == [1, 2, 3, 4, 5, 6]
    steps = table(folder / "steps.csv")
    assert [float(row["miou/all"]) for row in steps] == [row["miou/all"] for row in found["steps"]]
    assert steps[0]["forgetting"] == ""
    assert not [name for name in steps[0] if name.startswith("class_iou/")]


def test_axes_of_all_metrics_are_known(finished):
    _, run, _, _ = finished
    by_epoch = {point.metric for point in run.points if is_per_epoch(point.metric)}
    assert {"lr", "val/miou", "train/loss"} <= by_epoch
    assert {point.metric for point in run.points if point.x > 2} <= by_epoch
    assert "val/miou_all" not in by_epoch


def untimed(folder: Path) -> dict[str, object]:
    """The content of every file but for the time that things took."""
    contents: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir()}
    contents["metrics.json"] = found = metrics(folder)
    contents["steps.csv"] = rows = table(folder / "steps.csv")
    for row in [*found["steps"], *rows]:
        assert float(row.pop("time/step_seconds")) > 0
        assert float(row.pop("time/step_cpu_seconds")) > 0
    return contents


def test_interrupted_at_every_epoch_leaves_the_same_files(finished, tiny_digits, tmp_path):
    folder, run, _, _ = finished
    last = None
    while not isinstance(last, RunEnded):
        again = ContinualRun(run.config, tiny_digits)
        checkpoints = CheckpointFolder(tmp_path / "checkpoints", "same")
        again.restore(checkpoints.latest())
        last = next(again.events())
        if isinstance(last, StepEnded | RunEnded):
            write_results(tmp_path / "results", again.history())
        if not isinstance(last, RunEnded):
            checkpoints.save(again.snapshot())
    expected = untimed(folder)
    assert set(expected) >= {"metrics.json", "steps.csv", "classes.csv", "confusion-2.csv", "confusion.gif"}
    assert untimed(tmp_path / "results") == expected


def test_domains_have_their_own_miou_in_the_matrix_and_no_background(tiny_config, tmp_path):
    split = DomainSplit(((1, 2), (3,)), "2-1", 2)
    nan = math.nan
    first = Scores([0.8, 0.6], [[8, 1], [3, 6]], [[0.8, 0.6]])
    second = Scores([0.5, nan], [[4, 4], [0, 0]], [[0.4, 0.2], [nan, 0.9]])
    history = History(tiny_config(), split, ("road", "wall"), [first, second], [], {}, [])
    write_results(tmp_path, history)
    found = metrics(tmp_path)
    assert found["step_matrix"] == [pytest.approx([0.7, 0.3]), [None, 0.9]]
    assert found["forgetting_by_class"] == {}
    assert found["classes"] == [{"class": "road", "id": 0, "since": 0}, {"class": "wall", "id": 1, "since": 0}]
    row = table(tmp_path / "classes.csv")[-1]
    assert row == {"step": "1", "class": "wall", "id": "1", "since": "0", "iou": "", "precision": "0.0", "recall": "",
                   "pixels": "0"}  # fmt: skip


def test_files_of_another_run_go_and_other_files_stay(finished, tmp_path):
    _, run, _, _ = finished
    history = run.history()
    for name in ("confusion-7.csv", "confusion.gif", "notes.txt", "metrics.json"):
        (tmp_path / name).write_text("old")
    write_results(tmp_path, History(run.config, run.split, run.class_names, history.tested[:1], [], {}, []))
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.json", "steps.csv", "classes.csv", "confusion-0.csv", "notes.txt"
    }  # fmt: skip
    assert metrics(tmp_path)["steps"] == []


@pytest.mark.parametrize("checkpoints", [True, False])
def test_command_line_leaves_results_beside_the_checkpoints_or_under_runs(
    tmp_path, digits_cache, monkeypatch, capsys, checkpoints
):
    monkeypatch.chdir(tmp_path)
    small = [text for text in TINY if not text.startswith("loss.")]
    options = ["loss=crossentropy", "training.mode=joint", "training.epochs=1", "training.exp_name=mine"]
    asked = ["training.ckpt_dir=kept"] if checkpoints else []
    arguments = [*small, f"dataset.cache={digits_cache}", *options, *asked]
    folder = tmp_path / ("kept/mine/results" if checkpoints else "runs/results/mine")
    assert main(arguments) == 0
    assert str(folder.relative_to(tmp_path)) in capsys.readouterr().out
    expected = {"metrics.json", "origin.json", "steps.csv", "classes.csv", "confusion-0.csv"}
    assert {path.name for path in folder.iterdir()} == expected
    before = metrics(folder)
    assert before["mode"] == "joint"
    if checkpoints:  # a run that had ended before it could write
        shutil.rmtree(folder)
        assert main(arguments) == 0
        assert metrics(folder) == before
