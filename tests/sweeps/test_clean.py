"""What `clean` removes, and what it never does: real runs in a real store, journals without Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bacs.checkpoints import CheckpointFolder
from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.events import EpochEnded, StepEnded
from bacs.lineage import run_identity
from bacs.origin import Origin
from bacs.run import ContinualRun
from bacs.stages import StageStore, begin
from results.journal import Journal
from results.state import SweepState
from sweeps.checks import check_request
from sweeps.clean import checkpoints_to_clean, clean, stages_to_clean
from sweeps.ledger import Ledger
from sweeps.settings import compose_preset
from tests.sweeps.conftest import TINY_SWEEP
from trainables.folder import TrialFolder

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
    assert set(found.stages) == set(store.keys()) - {shared, last}
    assert set(found.stages.values()) == {"no trial here consists of it"}
    clean(storage, found)
    assert set(store.keys()) == {shared, last}
    assert stages_to_clean(storage, None).stages == {}
    assert stages_to_clean(storage, store.size(shared) + store.size(last)).stages == {}
    assert stages_to_clean(storage, 0).stages == {last: "used longest ago"}  # the first step waits for a trial


def test_damaged_stages_and_old_drafts_go(storage):
    store = StageStore(storage / "stages")
    first, last = store.keys()
    (store.root / last / "meta.json").write_text("{")
    draft = store.root / ".x.0.tmp"
    draft.mkdir()
    clean(storage, stages_to_clean(storage, None))
    assert store.keys() == [first]
    assert draft.exists()
    os.utime(draft, (0, 0))
    clean(storage, stages_to_clean(storage, None))
    assert not draft.exists()


def test_of_finished_trials_the_last_step_stays(storage):
    trials = SweepState.load(storage / "some/journal.jsonl").trials.values()
    folder = next(storage / "some/trials" / trial.key / "checkpoints" for trial in trials if trial.is_over)
    assert sorted(path.name for path in folder.iterdir()) == ["stage-000", "stage-001"]
    found = checkpoints_to_clean(storage / "some")
    assert found.folders == [folder / "stage-000"]
    clean(storage, found)
    assert sorted(path.name for path in folder.iterdir()) == ["stage-001"]
    assert len(StageStore(storage / "stages").keys()) == 2
    with Journal(storage / "some/journal.jsonl"), pytest.raises(RequestError, match="runs just now"):
        checkpoints_to_clean(storage / "some")


@pytest.mark.parametrize("name", ["stages", "cache"])
def test_names_of_shared_folders_are_no_names_of_sweeps(tmp_path, name):
    with pytest.raises(RequestError, match="a folder that sweeps share"):
        check_request(compose_preset("digits", TINY_SWEEP, {"storage": str(tmp_path), "name": name}))
