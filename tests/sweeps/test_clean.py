"""What `clean` removes, and what it never does: real runs in a real store, journals without Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bacs.bundle import copy_bundle, load_meta
from bacs.checkpoints import CheckpointFolder
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.events import EpochEnded, StepEnded
from bacs.lineage import key_of, run_identity
from bacs.origin import Origin
from bacs.run import ContinualRun
from bacs.stages import StageStore, begin
from results.errors import ResultsError
from results.journal import Journal
from results.state import SweepState
from sweeps.__main__ import app
from sweeps.checks import check_request
from sweeps.clean import Cleaning, checkpoints_to_clean, clean, stages_to_clean
from sweeps.ledger import Ledger
from sweeps.settings import compose_preset
from tests.sweeps.conftest import TINY_SWEEP
from trainables.folder import TrialFolder


def reasons(cleaning: Cleaning) -> dict[str, str]:
    return {removal.path.name: removal.reason for removal in cleaning.removals}


FEW = ["search.splits=[5-5]", "search.references=[]", "search.algorithm=random", "training.epochs=1"]


def train(config: dict, folder: TrialFolder) -> ContinualRun:
    run = ContinualRun(RunConfig.from_dict(config))
    origin = Origin.of(run.config)
    checkpoints = CheckpointFolder(folder.checkpoints, run_identity(run.config), origin=origin.state)
    shared = begin(run, checkpoints, origin, print)
    for event in run.events():
        if isinstance(event, EpochEnded | StepEnded):
            checkpoints.save(run.snapshot())
        if isinstance(event, StepEnded):
            shared.give(event.step)
    return run


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A sweep of two trials: one has finished, one is not over and has been given its first step."""
    root = tmp_path / "runs"
    sweep = check_request(compose_preset("digits", [*TINY_SWEEP, *FEW], {"storage": str(root), "name": "some"}))
    with Journal(sweep.folder / "journal.jsonl") as journal:
        ledger = Ledger(sweep, journal, SweepState())
        ledger.book("created", sweep="some", uid="u", config=sweep.resolved)
        trial = ledger.next_trial()
        train(trial.config, ledger.folder_of(trial.key))
        place = {"host": "h", "pid": 1, "stage.0": "s", "notes": []}
        ledger.book_report(trial.key, {"kind": "started", "step": 2, "epoch": 2, "points": [], **place})
        ledger.book_report(
            trial.key, {"kind": "final", "step": 2, "epoch": 2, "points": [], "final": {"final/val_miou": 0.5}}
        )
        assert ledger.next_trial() is not None
    return root


def test_stages_that_no_trial_consists_of_go_and_those_of_unfinished_trials_stay(storage):
    store = StageStore(storage / "stages")
    shared, last = store.keys()
    foreign = RunConfig.from_dict(SweepState.load(storage / "some/journal.jsonl").trials.popitem()[1].config).resolved
    foreign["training"]["seed"] = 7
    train(foreign, TrialFolder(storage / "elsewhere"))
    assert len(store.keys()) == 4
    (store.root / shared / "tensors.pt").stat()

    found = stages_to_clean(storage, None)
    assert reasons(found).keys() == set(store.keys()) - {shared, last}
    assert set(reasons(found).values()) == {"no trial here consists of it"}
    clean(storage, found)
    assert set(store.keys()) == {shared, last}
    assert stages_to_clean(storage, None).removals == []
    assert stages_to_clean(storage, store.size(shared) + store.size(last)).removals == []
    assert reasons(stages_to_clean(storage, 0)) == {last: "used longest ago"}  # the first step waits for a trial


def test_old_drafts_go_and_stages_that_cannot_be_read_stay_and_are_told(storage):
    store = StageStore(storage / "stages")
    first, last = store.keys()
    (store.root / last / "meta.json").write_text("{")
    draft, foreign = store.root / f".{last}.00000000.tmp", store.root / ".mine.tmp"
    for folder in (draft, foreign):
        folder.mkdir()
    found = stages_to_clean(storage, None)
    clean(storage, found)
    assert set(store.keys()) == {first, last}
    assert "no record that can be read" in found.left[store.root / last]
    assert draft.exists()
    for folder in (draft, foreign):
        os.utime(folder, (0, 0))
    clean(storage, stages_to_clean(storage, None))
    assert not draft.exists()
    assert foreign.exists()


def test_stages_of_earlier_versions_and_on_request_those_of_other_code_go(storage):
    store = StageStore(storage / "stages")
    first, last = store.keys()
    with_other_record(store, first, lambda preimage: preimage | {"code": preimage["code"] | {"bacs.run": "other"}})
    old = with_other_record(store, last, lambda preimage: {"version": "0.1.0"} | {
        name: value for name, value in preimage.items() if name not in ("code", "libraries")
    })  # fmt: skip
    assert reasons(stages_to_clean(storage, None)) == {old: "of an earlier version, found by nobody"}
    found = reasons(stages_to_clean(storage, None, other_code=True))
    assert sorted(found.values()) == ["of an earlier version, found by nobody", "of other code: bacs/run.py"]


def with_other_record(store: StageStore, key: str, change) -> str:
    """Puts a stage under the key of another pre-image; returns it."""
    meta = load_meta(store.root / key)["meta"]
    preimage = change(meta["preimage"])
    copy_bundle(store.root / key, store.root / key_of(preimage), meta | {"preimage": preimage})
    store.remove(key)
    return key_of(preimage)


def finished_checkpoints(storage: Path) -> Path:
    trials = SweepState.load(storage / "some/journal.jsonl").trials.values()
    return next(storage / "some/trials" / trial.key / "checkpoints" for trial in trials if trial.is_over)


def test_of_finished_trials_the_last_step_stays(storage):
    folder = finished_checkpoints(storage)
    assert sorted(path.name for path in folder.iterdir()) == ["stage-000", "stage-001"]
    found = checkpoints_to_clean(storage / "some")
    assert [removal.path for removal in found.removals] == [folder / "stage-000"]
    clean(storage, found)
    assert sorted(path.name for path in folder.iterdir()) == ["stage-001"]
    assert len(StageStore(storage / "stages").keys()) == 2
    with Journal(storage / "some/journal.jsonl"), pytest.raises(RequestError, match="runs just now"):
        checkpoints_to_clean(storage / "some")


def test_what_may_be_somebody_elses_stays_and_is_listed(storage, tmp_path):
    folder, store = finished_checkpoints(storage), StageStore(storage / "stages")
    home = tmp_path / "home"
    for place in (folder / "my-notes", folder / "stage-7", folder / "epoch-000-00001", store.root / "results", home):
        place.mkdir()
        (place / "notes.txt").write_text("x")
    (store.root / "results/meta.json").write_text("{}")
    (folder / "stage-003").symlink_to(home)
    (store.root / ("0" * 16)).symlink_to(home)
    (store.root / ("1" * 16)).mkdir()
    (store.root / ("1" * 16) / "meta.json").write_text((store.root / store.keys()[0] / "meta.json").read_text())
    everything = {path for path in storage.rglob("*") if path.name != "stage-000"}

    checkpoints, stages = checkpoints_to_clean(storage / "some"), stages_to_clean(storage, None)
    assert [removal.path.name for removal in checkpoints.removals] == ["stage-000"]
    assert stages.removals == []
    assert {path.name for path in checkpoints.left} == {"my-notes", "stage-7", "epoch-000-00001", "stage-003"}
    assert {path.name for path in stages.left} == {"results", "0" * 16, "1" * 16}
    assert stages.left[store.root / ("1" * 16)] == "has the record of another stage"
    for cleaning in (checkpoints, stages):
        clean(storage, cleaning)
    gone = {path for path in everything if not path.exists() and not path.is_symlink()}
    assert {path.parent.name for path in gone} <= {"stage-000"}
    assert (home / "notes.txt").exists()


@pytest.mark.parametrize("link", ["checkpoints", "trial", "sweep", "stages"])
def test_no_link_is_followed(storage, tmp_path, link):
    checkpoints, outside = finished_checkpoints(storage), tmp_path / "outside"
    place = {"checkpoints": checkpoints, "trial": checkpoints.parent, "sweep": storage / "some"}
    path = place.get(link, storage / "stages")
    path.rename(outside)
    path.symlink_to(outside)
    before = sorted(outside.rglob("*"))
    found = checkpoints_to_clean(storage / "some") if link != "stages" else stages_to_clean(storage, 0)
    assert found.removals == []
    assert found.left == {path: "is a link"}
    clean(storage, found)
    assert sorted(outside.rglob("*")) == before


def test_beside_a_lost_journal_nothing_goes(storage):
    (storage / "some/journal.jsonl").write_text("")
    with pytest.raises(ResultsError, match="empty or missing, but there are trials"):
        stages_to_clean(storage, 0)


@pytest.mark.parametrize("command", ["status", "report", "sync", "clean", "resume", "confirm"])
def test_a_name_is_no_path(tmp_path, command):
    (tmp_path / "outside/some").mkdir(parents=True)
    (tmp_path / "outside/some/journal.jsonl").write_text("")
    before = sorted(tmp_path.rglob("*"))
    for name in ("../outside/some", "a/b", "..", ".", "", "stages", "/tmp/x", "a\0b", "x" * 300, "-h x"):
        result = CliRunner().invoke(app, [command, "--storage", str(tmp_path / "empty"), "--", name])
        assert result.exit_code == 2, result.output
        assert "no legal name" in result.output or "a folder that sweeps share" in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_tells_every_path_and_size_and_removes_nothing(storage):
    folder = finished_checkpoints(storage)
    result = CliRunner(env={"COLUMNS": "60"}).invoke(app, ["clean", "some", "--storage", str(storage), "--dry-run"])
    assert result.exit_code == 0
    assert f"{folder / 'stage-000'}  " in result.output
    assert " MB: not the last step" in result.output
    assert "1 checkpoints would go" in result.output
    assert (folder / "stage-000").exists()


@pytest.mark.parametrize("name", ["stages", "cache"])
def test_names_of_shared_folders_are_no_names_of_sweeps(tmp_path, name):
    with pytest.raises(RequestError, match="a folder that sweeps share"):
        check_request(compose_preset("digits", TINY_SWEEP, {"storage": str(tmp_path), "name": name}))
