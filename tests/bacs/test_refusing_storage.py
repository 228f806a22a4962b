"""A run on storage that refuses writes: it waits, loses nothing, and gives up with one clear error."""

from __future__ import annotations

import errno
import threading
import time

import pytest
import torch

import bacs.patience
from bacs.atomic import remove_drafts, replacing
from bacs.bundle import load_bundle
from bacs.checkpoints import CheckpointFolder, Snapshot
from bacs.events import Picture, StepEnded
from bacs.outputs import Outputs
from bacs.patience import StorageRefusedError, patiently
from bacs.run import ContinualRun


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(bacs.patience, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(bacs.patience, "LONGEST_PAUSE_SECONDS", 0.1)


def snapshot(epoch):
    return Snapshot(0, epoch, {"x": torch.full((30_000,), float(epoch))}, {})  # 120 kB


def saved_while_refused(folder, told, refuse, allow):
    """Saves three epochs, storage refusing before the second; returns once all are saved."""
    folder.save(snapshot(1))
    refuse()
    thread = threading.Thread(target=lambda: [folder.save(snapshot(epoch)) for epoch in (2, 3)])
    thread.start()
    while not told:
        assert thread.is_alive()
        time.sleep(0.05)
    time.sleep(0.3)
    assert thread.is_alive()
    assert [s.epoch for s in CheckpointFolder(folder.folder, "id").latest()] == [1]  # what was there stays
    allow()
    thread.join(60)
    assert not thread.is_alive()


def test_a_full_disk_is_waited_for_and_every_checkpoint_arrives(small_disk):
    told = []
    folder = CheckpointFolder(small_disk.folder / "checkpoints", "id", told.append)
    saved_while_refused(folder, told, small_disk.fill, small_disk.free)
    assert sorted(path.name for path in folder.folder.iterdir()) == ["epoch-000-00002", "epoch-000-00003"]
    for epoch in (2, 3):
        tensors, _ = load_bundle(folder.folder / f"epoch-000-0000{epoch}")
        assert torch.equal(tensors["x"], snapshot(epoch).tensors["x"])
    assert len(told) == 2
    assert "waiting to write the checkpoint epoch-000-00002" in told[0]
    assert "No space left on device), 0 MiB" in told[0]
    assert "after waiting" in told[1]


def test_storage_that_turns_read_only_is_waited_for(small_disk):
    told = []
    folder = CheckpointFolder(small_disk.folder / "checkpoints", "id", told.append)
    saved_while_refused(folder, told, lambda: small_disk.remount("ro"), lambda: small_disk.remount("rw"))
    assert "Read-only file system" in told[0]
    assert [s.epoch for s in CheckpointFolder(folder.folder, "id").latest()] == [3]


def test_the_patience_ends_and_the_old_checkpoint_is_still_there(small_disk, monkeypatch):
    monkeypatch.setattr(bacs.patience, "PATIENCE_SECONDS", 0.3)
    folder = CheckpointFolder(small_disk.folder / "checkpoints", "id")
    folder.save(snapshot(1))
    small_disk.fill()
    with pytest.raises(StorageRefusedError) as caught:
        folder.save(snapshot(2))
    for words in (
        "gave up",
        str(folder.folder),
        "No space left",
        "0 MiB and",
        "inodes free",
        "free or repair",
        "resume",
    ):
        assert words in str(caught.value)
    assert [s.epoch for s in CheckpointFolder(folder.folder, "id").latest()] == [1]
    assert not list(folder.folder.glob(".*"))


@pytest.mark.parametrize("code", sorted(bacs.patience.REFUSALS))
def test_refusals_are_tried_again(tmp_path, code):
    failures, told = [OSError(code, "refused")] * 3, []

    def action():
        if failures:
            raise failures.pop()
        return "done"

    assert patiently(action, "it", tmp_path, told.append) == "done"
    assert len(told) == 2


def test_other_errors_are_raised_at_once(tmp_path):
    calls = []

    def action():
        calls.append(1)
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        patiently(action, "it", tmp_path, calls.append)
    assert calls == [1]


def test_results_and_pictures_that_cannot_be_written_come_with_the_next_step(small_disk, tiny_config, tiny_digits):
    told = []
    outputs = Outputs(small_disk.folder / "results", small_disk.folder / "pictures", told.append)
    run = ContinualRun(tiny_config("training.split=5-5", "training.log_images=2", "training.epochs=1"), tiny_digits)
    small_disk.fill()
    drawn = []
    for event in run.events():
        if isinstance(event, Picture):
            drawn.append(f"step-{event.step}/{event.name}.png")
        outputs.after(event, run)
        if isinstance(event, StepEnded) and event.step == 0:
            assert not list(small_disk.folder.rglob("*.png"))
            assert any("pictures are not written" in text for text in told)
            assert any("results are not written" in text for text in told)
            assert len(told) <= 3
            small_disk.free()
    assert len(drawn) > 4
    assert {path.relative_to(outputs.pictures).as_posix() for path in small_disk.folder.rglob("*.png")} == set(drawn)
    names = {path.name for path in (small_disk.folder / "results").iterdir()}
    assert names == {"metrics.json", "steps.csv", "classes.csv", "confusion-0.csv", "confusion-1.csv"}
    assert "NaN" not in (small_disk.folder / "results" / "metrics.json").read_text()


def test_drafts_of_killed_writers_can_be_told_from_files(tmp_path):
    with replacing(tmp_path / "a.json", durable=True) as draft:
        left_over = draft.with_name(draft.name.replace("a.json", "b.json"))
        draft.write_text("{}")
        left_over.write_text("half")
    (tmp_path / ".hidden").touch()
    remove_drafts(tmp_path, "a.json")
    assert left_over.exists()
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.json"]
