"""Edits of a sweep that exists, without Ray: what goes on, what is refused, and a storage folder that was moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bacs.config import RunConfig
from bacs.errors import RequestError
from bacs.lineage import run_identity
from results.journal import Journal
from results.state import SweepState
from results.tables import render_status
from sweeps.checks import check_request
from sweeps.driver import _open_books
from sweeps.edits import edited, forbidden, settings_of
from sweeps.forecast import make_forecast
from sweeps.ledger import Ledger
from sweeps.settings import SweepConfig, compose_preset
from sweeps.trials import make_trial
from tests.bacs.data.trees import make_folder
from tests.sweeps.conftest import TINY_SWEEP
from tests.sweeps.test_ledger import finish, play

SMALL_SEARCH = ["search.splits=[5-5]", "search.trials=3", "search.references=[finetune]", "search.lag=1"]


def requested(storage: Path, *overrides: str) -> SweepConfig:
    launch = {"storage": str(storage), "name": "books"}
    return check_request(compose_preset("digits", [*TINY_SWEEP, *SMALL_SEARCH, *overrides], launch))


def open_books(sweep: SweepConfig) -> tuple[Journal, Ledger]:
    """As a driver opens them."""
    journal = Journal(sweep.folder / "journal.jsonl")
    ledger = Ledger(sweep, journal, SweepState.load(journal.path))
    _open_books(ledger, journal.repaired_bytes)
    return journal, ledger


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """With a sweep that is over, but for what edits add."""
    journal, ledger = open_books(requested(tmp_path / "runs"))
    with journal:
        assert len(play(ledger)) == 4
        ledger.close()
    return tmp_path / "runs"


def resumed(storage: Path, *overrides: str, **launch: str) -> SweepConfig:
    return edited(SweepState.load(storage / "books" / "journal.jsonl"), storage, overrides, launch)


@pytest.mark.parametrize(
    ("override", "added"),
    [
        ("search.trials=5", 2),
        ("search.seeds=[42,7]", 4),
        ("search.splits=[5-5,2-2]", 4),
        ("search.references=[finetune,joint]", 1),
        ("sweep.time_budget_minutes=90", 0),
        ("resources.max_concurrent=2", 0),
        ("training.num_workers=0", 0),
    ],
)
def test_what_may_change_does_and_is_booked_and_kept(storage, override, added):
    journal, ledger = open_books(resumed(storage, override))
    with journal:
        assert len(play(ledger)) == added
        ledger.close()
    key = override.split("=")[0]
    state = SweepState.load(journal.path)
    assert [list(changes) for changes in state.edits] == [[key]]
    assert all(trial.status == "finished" for trial in state.trials.values())
    again = resumed(storage)
    assert again.resolved == ledger.sweep.resolved, "the edit stays"
    journal, ledger = open_books(again)
    with journal:
        assert len(ledger.state.edits) == 1
        assert ledger.exhausted()
    assert key in _shown(state)


def test_more_trials_are_those_of_a_sweep_that_asked_for_them_at_once(storage, tmp_path):
    journal, ledger = open_books(resumed(storage, "search.trials=5"))
    with journal:
        play(ledger)
    journal, whole = open_books(requested(tmp_path / "whole", "search.trials=5"))
    with journal:
        play(whole)
    found, wanted = ([trial.params for trial in books.state.trials.values()] for books in (ledger, whole))
    assert sorted(map(str, found)) == sorted(map(str, wanted))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.canvas=40", "dataset.canvas: was 32, now 40"),
        ("dataset.seed=1", "dataset.seed: was 0, now 1"),
        ("network.width=8", "network.width: was 4, now 8"),
        ("optimizer.lr=0.5", "optimizer.lr: was"),
        ("search.seed=3", "search.seed: was 0, now 3"),
        ("search.algorithm=random", "search.algorithm: was 'tpe', now 'random'"),
        ("search.seeds=[7]", "search.seeds: was [42], now [7]; it may only grow at its end"),
        ("search.splits=[2-2,5-5]", "search.splits: was ['5-5'], now ['2-2', '5-5']"),
        ("search.references=[]", "search.references: was ['finetune'], now []"),
        ("search.space=bacs_full", "search.space: was 'bacs', now 'bacs_full'"),
        ("loss=mib", "loss: cannot become 'mib'"),
        ("sweep.name=other", "sweep.name: cannot become 'other'"),
        ("sweep.storage=/elsewhere", "move the folder, then name it: --storage"),
        ("training.seed=3", "add to search.seeds"),
        ("~search.trials", "is not an edit"),
        ("search.trials", "is not an edit"),
    ],
)
def test_what_numbers_depend_on_may_not_change(storage, override, words):
    before = (storage / "books" / "journal.jsonl").read_bytes()
    with pytest.raises(RequestError) as caught:
        resumed(storage, override)
    assert words in str(caught.value)
    assert all(fault.remedy for fault in caught.value.faults)
    assert (storage / "books" / "journal.jsonl").read_bytes() == before


def test_fewer_trials_than_there_are_suggestions_are_refused_with_their_number(storage):
    with pytest.raises(RequestError, match=r"search.trials: is 2, but 3 configurations .* were suggested already"):
        resumed(storage, "search.trials=2")


SPACES = {
    "dimensions": "dimensions:\n  loss.lkd: {kind: float, low: 0.1, high: 5}\n",
    "points": "points: [{loss.lkd: 0.1}, {loss.lkd: 5}]\n",
    "methods": "methods: [bacs, mib]\nequal_trials: true\n",
}


@pytest.mark.parametrize("kind", SPACES)
def test_a_sweep_keeps_its_space_whatever_becomes_of_the_file(kind, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(SPACES[kind])
    journal, ledger = open_books(requested(tmp_path / "runs", f"search.space={space}"))
    with journal:
        assert ledger.next_trial() is not None
    space.unlink()
    state = SweepState.load(journal.path)
    for sweep in (resumed(tmp_path / "runs"), settings_of(state, tmp_path / "runs")):
        assert sweep.space == ledger.sweep.space


@pytest.mark.parametrize(
    ("kind", "words"), [("dimensions", r"loss.lkd: was .*5.*, now .*9"), ("points", "points: are not")]
)
def test_run_refuses_a_space_file_that_was_edited(kind, words, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(SPACES[kind])
    journal, ledger = open_books(requested(tmp_path / "runs", f"search.space={space}"))
    with journal:
        assert ledger.next_trial() is not None
    state = SweepState.load(journal.path)
    assert forbidden(state, requested(tmp_path / "runs", f"search.space={space}")) == []
    space.write_text(SPACES[kind].replace("5", "9"))
    with pytest.raises(RequestError, match=words):
        raise RequestError(forbidden(state, requested(tmp_path / "runs", f"search.space={space}")))


def test_a_journal_of_before_that_kept_dimensions_alone_asks_the_file(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(SPACES["dimensions"])
    sweep = requested(tmp_path / "runs", f"search.space={space}")
    state = SweepState()
    state.config, state.space = sweep.resolved, sweep.space.describe()
    assert settings_of(state, tmp_path / "runs").space == sweep.space


def test_a_sweep_goes_on_where_its_dataset_was_moved_to(tmp_path):
    """Also with a trial under way, whose configuration names the old place."""
    root, moved = make_folder(tmp_path / "d"), tmp_path / "e"
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "defaults: [{dataset: folder}, {network: unet}, {optimizer: adamw}, {scheduler: poly}, {loss: bacs}, "
        "{training: default}, {compat: none}, _self_]\n"
        "dataset: {crop_size: 32}\nnetwork: {width: 4}\ntraining: {num_workers: 0}\n"
        "search: {trials: 3, splits: ['[[disc,square],[triangle]]'], references: []}\n"
    )
    launch = {"storage": str(tmp_path / "runs"), "name": "books"}
    journal, ledger = open_books(check_request(compose_preset(str(preset), [f"dataset.root={root}"], launch)))
    with journal:
        begun = ledger.next_trial()
        assert begun is not None
        ledger.book("started", trial=begun.key, attempt=1, host="h", pid=1)
    root.rename(moved)
    with pytest.raises(RequestError, match=r"dataset\.root"):
        resumed(tmp_path / "runs")
    sweep = resumed(tmp_path / "runs", f"dataset.root={moved}")
    assert make_forecast(sweep, SweepState.load(journal.path)).figures.stages > 0
    journal, ledger = open_books(sweep)
    with journal:
        same = ledger.next_trial()
        assert same is not None
        assert same.key == begun.key
        assert ledger.folder_of(same.key).read_config()["dataset"]["root"] == str(moved)
    assert SweepState.load(journal.path).edits == [{"dataset.root": [str(root), str(moved)]}]


def test_a_moved_storage_folder_goes_on_with_the_same_trials(tmp_path):
    old, new = tmp_path / "runs", tmp_path / "elsewhere" / "runs"
    journal, ledger = open_books(requested(old))
    with journal:
        begun = ledger.next_trial()
        assert begun is not None
        ledger.book("started", trial=begun.key, attempt=1, host="h", pid=1)
    new.parent.mkdir()
    shutil.move(old, new)
    journal, ledger = open_books(resumed(new))
    with journal:
        same = ledger.next_trial()
        assert same is not None
        assert same.key == begun.key
        config = ledger.folder_of(same.key).read_config()
        assert ledger.folder_of(same.key).path.is_relative_to(new)
        assert config["dataset"]["cache"] == str(new / "cache")
        assert ledger.state.trials[same.key].config == config
        identities = [run_identity(RunConfig.from_dict(c)) for c in (begun.config, config)]
        assert identities[0] == identities[1], "its checkpoints are accepted"
        assert str(old) not in str(ledger.state.config)
        finish(ledger, same)
        play(ledger)
    assert not old.exists()


def test_a_forged_journal_of_another_sweep_is_a_note(storage):
    forged = storage / "forged" / "journal.jsonl"
    forged.parent.mkdir()
    with Journal(forged) as journal:
        journal.append("created", sweep="forged", uid="u", config={})
        journal.append("finished", trial="../../../victim", final={}, seconds=1.0)
    forecast = make_forecast(requested(storage, "search.trials=1"), None)
    (note,) = forecast.notes
    assert note.startswith("nothing is learned from the sweep forged: ")
    assert str(forged) in note


def test_keys_do_not_depend_on_the_storage(tmp_path):
    what = {"role": "trial", "number": 0, "split": "5-5", "seed": 1, "params": {"loss.lkd": 1.0}}
    keys = {make_trial(requested(tmp_path / name), "uid", **what).key for name in ("a", "b")}
    assert len(keys) == 1
    assert make_trial(requested(tmp_path / "a", "network.width=8"), "uid", **what).key not in keys


def test_a_trial_that_has_begun_keeps_its_threads(tmp_path):
    journal, ledger = open_books(requested(tmp_path / "runs"))
    with journal:
        begun, planned = ledger.next_trial(), ledger.next_trial()
        assert begun is not None
        assert planned is not None
        ledger.book("started", trial=begun.key, attempt=1, host="h", pid=1)
    journal, ledger = open_books(resumed(tmp_path / "runs", "resources.cpus_per_trial=2"))
    with journal:
        again = [ledger.next_trial(), ledger.next_trial()]
        assert {trial.key for trial in again} == {begun.key, planned.key}
        threads = {key: ledger.folder_of(key).read_config()["training"]["threads"] for key in (begun.key, planned.key)}
        assert threads == {begun.key: 1, planned.key: 2}
        for trial in again:
            finish(ledger, trial)
        play(ledger)
        assert {t.config["training"]["threads"] for t in ledger.state.trials.values()} == {1, 2}


def test_a_lost_node_is_never_the_trials_failure(tmp_path):
    journal, ledger = open_books(requested(tmp_path / "runs"))
    with journal:
        trial = ledger.next_trial()
        assert trial is not None
        for number in range(1, 6):
            ledger.book("started", trial=trial.key, attempt=number, host="h", pid=1)
            ledger.book_failure(trial.key, will_retry=False, lost_node=True)
            assert ledger.state.trials[trial.key].status == "pending"
            again = ledger.next_trial()
            assert again is not None
            assert again.key == trial.key
        assert ledger.state.trials[trial.key].reason == "its node was lost"


def _shown(state: SweepState) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render_status(state))
    return capture.get()
