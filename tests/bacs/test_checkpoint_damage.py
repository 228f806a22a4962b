"""Checkpoints that are damaged, replaced, left half written: what is found, what is fallen back to."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys

import pytest
import torch
from hypothesis import given, settings

from bacs.bundle import BundleError, clean_bundles, load_bundle, load_meta, save_bundle
from bacs.checkpoints import CheckpointFolder, Snapshot
from bacs.run import ContinualRun
from tests.damage import damaged

TENSORS = {"x": torch.arange(200), "deep": [{"y": torch.ones(3), "n": 2.5, "name": "a"}]}
META = {"n": 1, "points": [["miou/all", 0, 0.1 + 0.2, 1.7e9]], "iou": [float("nan")]}


def same(one, other):
    """Nested equality, bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


@pytest.mark.parametrize("name", ["tensors.pt", "meta.json"])
def test_every_corruption_of_a_bundle_is_found_or_changes_no_value(tmp_path, name):
    folder = tmp_path / "bundle"
    save_bundle(folder, TENSORS, META)
    whole = (folder / name).read_bytes()

    @settings(max_examples=400, deadline=None, database=None)
    @given(damaged(whole))
    def check(data):
        (folder / name).write_bytes(data)
        try:
            tensors, meta = load_bundle(folder)
        except BundleError as error:
            assert name in str(error)
            return
        assert name == "meta.json" or data == whole  # JSON may change in blanks alone
        assert same(tensors, TENSORS)
        assert same(meta, META)

    check()


class Code:
    """What an attacker would pickle."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return (os.system, (self.command,))


@pytest.mark.parametrize("writer", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_bundle_that_holds_code_is_refused_although_its_checksums_are_right(tmp_path, writer):
    folder, proof = tmp_path / "bundle", tmp_path / "ran"
    save_bundle(folder, {}, META)
    writer({"x": Code(f"touch {proof}")}, folder / "tensors.pt")
    _sign(folder)
    assert load_meta(folder)["meta"]["n"] == 1
    with pytest.raises(BundleError, match="not loaded"):
        load_bundle(folder)
    assert not proof.exists()


def test_signed_nonsense_is_refused(tmp_path):
    folder = tmp_path / "bundle"
    save_bundle(folder, TENSORS, META)
    (folder / "tensors.pt").write_bytes(b"no tensors")
    _sign(folder)
    with pytest.raises(BundleError):
        load_bundle(folder)
    for text in ("[]", "3", '"x"', "null", "{", "[" * 100_000, '{"check": []}', '{"format": 2}', "\ud800x"):
        (folder / "meta.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(BundleError):
            load_bundle(folder)


def _sign(folder):
    """Makes the checksums right for what lies there."""
    from bacs import bundle

    record = json.loads((folder / "meta.json").read_text())
    del record["check"]
    record["sha256"] = bundle._digest(folder / "tensors.pt")
    (folder / "meta.json").write_text(json.dumps(record | {"check": bundle._check(record)}))


def _truncate(path):
    os.truncate(path / "tensors.pt", (path / "tensors.pt").stat().st_size // 2)


def _flip(path):
    data = bytearray((path / "tensors.pt").read_bytes())
    data[len(data) // 2] ^= 4
    (path / "tensors.pt").write_bytes(data)


def _meta_of_another(path):
    shutil.copy(path.parent.parent / "other" / "stage-007" / "meta.json", path / "meta.json")


def _whole_other(path):
    shutil.rmtree(path)
    shutil.copytree(path.parent.parent / "other" / "stage-007", path)


def _a_file_instead(path):
    shutil.rmtree(path)
    path.write_text("x")


DAMAGES = {
    "truncated": _truncate,
    "bit flipped": _flip,
    "tensors missing": lambda path: (path / "tensors.pt").unlink(),
    "meta missing": lambda path: (path / "meta.json").unlink(),
    "tensors empty": lambda path: (path / "tensors.pt").write_bytes(b""),
    "meta empty": lambda path: (path / "meta.json").write_bytes(b""),
    "meta of another bundle": _meta_of_another,
    "another bundle under its name": _whole_other,
    "empty folder": lambda path: [file.unlink() for file in path.iterdir()],
    "a file instead": _a_file_instead,
}


@pytest.fixture
def filled(tmp_path):
    """Three stages and two epochs of the fourth step, each with its place as its tensor."""
    CheckpointFolder(tmp_path / "other", "id").save(Snapshot(7, None, {"x": torch.tensor([7, 0])}, {}))
    folder = CheckpointFolder(tmp_path / "checkpoints", "id")
    for step in range(3):
        folder.save(Snapshot(step, None, {"x": torch.tensor([step, 0])}, {}))
    for epoch in (1, 2):
        folder.save(Snapshot(3, epoch, {"x": torch.tensor([3, epoch])}, {}))
    return folder.folder


def places(folder):
    found = CheckpointFolder(folder, "id")
    snapshots = found.latest()
    assert all(s.tensors["x"].tolist() == [s.step, s.epoch or 0] for s in snapshots)
    return [(s.step, s.epoch) for s in snapshots], found.notes


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_fallback_to_the_one_before_whatever_the_damage(filled, damage):
    """Epoch, epoch before, stage, stage before, from nothing; each loss is told."""
    assert places(filled) == ([(2, None), (3, 2)], [])
    expected = {
        "epoch-003-00002": [(2, None), (3, 1)],
        "epoch-003-00001": [(2, None)],
        "stage-002": [(1, None)],
        "stage-001": [(0, None)],
        "stage-000": [],
    }
    for count, (name, left) in enumerate(expected.items(), start=1):
        damage(filled / name)
        found, notes = places(filled)
        assert found == left
        told = [note for note in notes if "passed over" in note]
        assert any(name in note for note in told)
        assert len(told) <= count
    shutil.rmtree(filled)
    assert places(filled) == ([], [])


def test_junk_beside_the_bundles_is_no_bundle(filled):
    for name in ("stage-x", "epoch-003-", "notes.txt", ".stage-003.0123abcd.tmp", "stage-003~", "results"):
        (filled / name).mkdir()
    assert places(filled) == ([(2, None), (3, 2)], [])


def test_after_a_step_back_the_new_bundles_stay_and_the_stale_ones_go(filled):
    _flip(filled / "stage-002")
    folder = CheckpointFolder(filled, "id")
    assert [s.step for s in folder.latest()] == [1]
    assert "trains step 2 again" in folder.notes[-1]
    folder.save(Snapshot(2, 1, {"x": torch.tensor([2, 1])}, {}))
    assert places(filled)[0] == [(1, None), (2, 1)]
    assert sorted(path.name for path in filled.glob("epoch-*")) == ["epoch-002-00001"]
    folder.save(Snapshot(2, None, {"x": torch.tensor([2, 0])}, {}))
    assert places(filled) == ([(2, None)], [])


def _killed_before_operation(number, work):
    """Runs ``work`` in a child that is killed before its n-th file-system operation. Returns: whether it was."""
    child = os.fork()
    if child == 0:
        seen = [0]

        def count(event, _):
            if event.startswith(("os.", "open", "shutil.")):
                seen[0] += 1
                if seen[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_writer_killed_at_any_operation_leaves_a_complete_bundle_and_nothing_after_cleaning(tmp_path):
    for number in range(1, 200):
        parent = tmp_path / str(number)
        save_bundle(parent / "b", {"x": torch.tensor(1)}, {"n": 1})
        killed = _killed_before_operation(number, lambda: save_bundle(parent / "b", {"x": torch.tensor(2)}, {"n": 2}))  # noqa: B023
        tensors, meta = load_bundle(parent / "b")
        assert tensors["x"].item() == meta["n"]
        clean_bundles(parent)
        assert load_bundle(parent / "b")[1] == meta
        assert [path.name for path in parent.iterdir()] == ["b"]
        if not killed:
            assert meta["n"] == 2
            break
    else:
        raise AssertionError("no save was ever finished")
    assert number > 10


def test_a_writer_killed_at_any_operation_never_goes_back_by_more_than_the_save_it_was_at(tmp_path):
    before = CheckpointFolder(tmp_path / "before", "id")
    for place in ((0, None), (1, 1), (1, 2)):
        before.save(Snapshot(*place, {"x": torch.tensor([place[0], place[1] or 0])}, {}))
    for number in range(1, 400):
        folder = CheckpointFolder(shutil.copytree(before.folder, tmp_path / str(number)), "id")

        def work(folder=folder):
            folder.save(Snapshot(1, 3, {"x": torch.tensor([1, 3])}, {}))
            folder.save(Snapshot(1, None, {"x": torch.tensor([1, 0])}, {}))

        killed = _killed_before_operation(number, work)
        found, notes = places(folder.folder)
        assert found in ([(0, None), (1, 2)], [(0, None), (1, 3)], [(1, None)])
        assert notes == []
        if not killed:
            assert found == [(1, None)]
            break
    else:
        raise AssertionError("no save was ever finished")


@pytest.fixture(scope="module")
def recorded(tiny_config, tiny_digits, tmp_path_factory):
    """An undisturbed run of two steps of two epochs, and its checkpoints as they were after each event."""
    base = tmp_path_factory.mktemp("recorded")
    config = tiny_config("training.split=5-5")
    run = ContinualRun(config, tiny_digits)
    folder = CheckpointFolder(base / "checkpoints", "id")
    for number, event in enumerate(run.events()):
        if number < 6:
            folder.save(run.snapshot())
            shutil.copytree(folder.folder, base / f"after-{number}")
        else:
            final = event.final
    return config, base, final, run


@pytest.mark.parametrize(
    ("after", "broken"),
    [
        (1, ["epoch-000-00002"]),
        (4, ["epoch-001-00002"]),
        (4, ["epoch-001-00002", "epoch-001-00001"]),
        (4, ["stage-000"]),
        (5, ["stage-001"]),
    ],
    ids=str,
)
def test_a_run_that_falls_back_ends_with_the_same_numbers(recorded, tiny_digits, tmp_path, after, broken):
    config, base, final, whole = recorded
    shutil.copytree(base / f"after-{after}", tmp_path / "checkpoints")
    for name in broken:
        _flip(tmp_path / "checkpoints" / name)
    folder = CheckpointFolder(tmp_path / "checkpoints", "id")
    run = ContinualRun(config, tiny_digits)
    run.restore(folder.latest())
    for name in broken:
        assert any(name in note for note in folder.notes)
    for event in run.events():
        if not hasattr(event, "final"):
            folder.save(run.snapshot())
    assert event.final == final
    assert untimed(run) == untimed(whole)
    one, other = run.model.state_dict(), whole.model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(path.name for path in folder.folder.iterdir()) == ["stage-000", "stage-001"]
    assert CheckpointFolder(folder.folder, "id").latest()[0].step == 1


def untimed(run):
    return [(p.metric, p.x, p.value) for p in run.points if not p.metric.startswith("time/")]
