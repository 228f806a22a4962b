"""What journals know of the code behind their trials, and what follows where it changes: no Ray, real journals."""

from __future__ import annotations

from pathlib import Path

import pytest

from bacs.errors import RequestError
from bacs.origin import UNKNOWN
from results.journal import Journal
from results.projection import ProjectedState, sweep_tags, trial_tags
from results.rows import codes_table, trials_table
from results.state import SweepState
from results.tables import render_codes, render_winners
from sweeps.checks import check_request
from sweeps.code import is_anything_left, refuse_other_code, sweep_code
from sweeps.driver import JOURNAL, _open_books
from sweeps.ledger import Ledger
from sweeps.settings import SweepConfig, compose_preset
from tests.sweeps.conftest import TINY_SWEEP
from trainables.causes import OTHER_CODE

FEW = ["search.splits=[5-5]", "search.references=[]", "search.algorithm=random", "search.trials=3"]
OTHER = {"fingerprint": "0" * 12, "commit": "f" * 40, "dirty": True, "code": {"bacs.run": "x"}, "libraries": {}}


@pytest.fixture
def sweep(tmp_path: Path) -> SweepConfig:
    launch = {"storage": str(tmp_path / "runs"), "name": "some"}
    return check_request(compose_preset("digits", [*TINY_SWEEP, *FEW], launch))


def opened(sweep: SweepConfig, journal: Journal, **options) -> Ledger:
    ledger = Ledger(sweep, journal, SweepState.load(journal.path))
    _open_books(ledger, 0, **options)
    return ledger


def start(ledger: Ledger) -> str:
    trial = ledger.next_trial()
    assert trial is not None
    origin = {
        "fingerprint": "a" * 12,
        "commit": "c" * 40,
        "dirty": False,
        "devices": ["cpu AVX2"],
        "mixed": [],
    }
    place = {"host": "h", "pid": 1, "stage.0": "s", "notes": [], "origin": origin}
    ledger.book_report(trial.key, {"kind": "started", "step": 0, "epoch": 0, "points": [], **place})
    return trial.key


def finish(ledger: Ledger, key: str) -> None:
    final = {"final/val_miou": 0.5}
    ledger.book_report(key, {"kind": "final", "step": 2, "epoch": 4, "points": [], "final": final})


def as_by_other_code(path: Path) -> None:
    """The journal that a driver with other code would have written."""
    records = list(SweepState().refresh(path))
    path.unlink()
    with Journal(path) as journal:
        for record in records:
            fields = {name: value for name, value in record.items() if name not in ("seq", "time", "kind")}
            journal.append(record["kind"], **fields | ({"code": OTHER} if "code" in fields else {}))


def test_the_journal_knows_code_commit_and_libraries_and_trials_tell_theirs(sweep):
    path = sweep.folder / JOURNAL
    with Journal(path) as journal:
        ledger = opened(sweep, journal)
        finish(ledger, start(ledger))
    state = ProjectedState.load(path)
    code = state.code
    assert code.keys() == {"fingerprint", "commit", "dirty", "code", "libraries"}
    assert {"bacs.run", "bacs.losses.bacs", "bacs.losses.crossentropy"} <= code["code"].keys()
    assert "bacs.losses.plop" not in code["code"]
    assert {"torch", "torchvision", "numpy"} <= code["libraries"].keys()
    trial = next(trial for trial in state.trials.values() if trial.attempts)
    assert trial.codes == [code["fingerprint"]]
    assert trial_tags(state, trial, "p")["code"] == "a" * 12
    assert sweep_tags(state)["code"] == code["fingerprint"]
    row = next(row for row in trials_table(state) if row["key"] == trial.key)
    assert (row["code"], row["commit"], row["dirty"], row["mixed_code"]) == ("a" * 12, "c" * 40, False, None)
    assert not state.is_mixed
    assert codes_table(state)[0]["trials"] == [trial.key]
    assert code["fingerprint"] in str(render_codes(state))


def test_a_trial_that_meets_edited_code_is_not_charged_and_stops_the_sweep(sweep):
    with Journal(sweep.folder / JOURNAL) as journal:
        ledger = opened(sweep, journal)
        first = start(ledger)
        ledger.book_report(first, {"kind": "step", "step": 1, "epoch": 2, "points": []})  # now others may share it
        second = ledger.next_trial()
        ledger.folder_of(second.key).write_error(OTHER_CODE, "OtherCodeError: bacs/losses/bacs.py", "trace")
        ledger.book_failure(second.key)
        assert ledger.next_trial() is None
        assert ledger.exhausted()
        finish(ledger, first)
        ledger.close()
    state = SweepState.load(sweep.folder / JOURNAL)
    assert (state.end_status, state.edited_code) == ("interrupted", "bacs/losses/bacs.py")
    assert state.trials[second.key].status == "pending"
    assert state.trials[second.key].charged == 0
    assert state.trials[first].status == "finished"


def test_going_on_under_other_code_is_refused_unless_nothing_was_computed_or_nothing_is_left(sweep):
    path = sweep.folder / JOURNAL
    with Journal(path) as journal:
        ledger = opened(sweep, journal)
        assert ledger.next_trial() is not None
    as_by_other_code(path)
    refuse_other_code(SweepState.load(path), sweep)  # nothing was started yet
    with Journal(path) as journal:
        ledger = Ledger(sweep, journal, SweepState.load(path))
        key = start(ledger)
    with pytest.raises(RequestError, match=r"bacs/run\.py") as caught:
        refuse_other_code(SweepState.load(path), sweep)
    assert "run PRESET --name OTHER" in str(caught.value)
    assert "resume some --allow-other-code" in str(caught.value)
    with Journal(path) as journal:
        ledger = Ledger(sweep, journal, SweepState.load(path))
        finish(ledger, key)
        while not ledger.exhausted():
            finish(ledger, start(ledger))
    refuse_other_code(SweepState.load(path), sweep)
    with Journal(path) as journal:
        left = is_anything_left(SweepState.load(path), sweep)
        opened(sweep, journal, computes=left)  # nothing, so what follows is still judged by the code of before
    assert not left
    longer = SweepConfig.from_dict(sweep.resolved | {"search": sweep.resolved["search"] | {"trials": 4}})
    with pytest.raises(RequestError, match=r"bacs/run\.py"):
        refuse_other_code(SweepState.load(path), longer)


def test_a_journal_of_before_is_read_and_refused_only_to_go_on(sweep):
    path = sweep.folder / JOURNAL
    with Journal(path) as journal:
        ledger = Ledger(sweep, journal, SweepState())
        ledger.book("created", sweep="some", uid="u", config=sweep.resolved)
        start(ledger)
    state = SweepState.load(path)
    assert state.code == {}
    assert not state.is_mixed
    assert codes_table(state)[0]["fingerprint"] == ""
    assert "not recorded" in str(render_codes(state))
    with pytest.raises(RequestError, match=UNKNOWN):
        refuse_other_code(state, sweep)


def test_what_goes_on_all_the_same_is_marked_and_shares_nothing_of_before(sweep):
    path = sweep.folder / JOURNAL
    with Journal(path) as journal:
        ledger = opened(sweep, journal)
        old = start(ledger)
        finish(ledger, old)
    as_by_other_code(path)
    with Journal(path) as journal:
        ledger = opened(sweep, journal, allow_other_code=True)
        assert ledger.state.allows_other_code
        assert ledger._done() == set(), "steps of other code are of no use"
        config = ledger.next_config()
        assert config["allow_other_code"] is True
        key = config["trial"]
        assert ledger.folder_of(key).read_code()["code"]["bacs.run"] != "x"
        origin = {"fingerprint": "b" * 12, "commit": None, "dirty": None, "devices": [], "mixed": ["bacs/run.py"]}
        place = {"host": "h", "pid": 1, "stage.0": "s", "notes": [], "origin": origin}
        ledger.book_report(key, {"kind": "started", "step": 0, "epoch": 0, "points": [], **place})
        finish(ledger, key)
    state = ProjectedState.load(path)
    assert state.is_mixed
    assert state.trials[key].tags["mixed_code"] == "bacs/run.py"
    assert sweep_tags(state)["mixed_code"] == "true"
    assert "MIXED CODE" in str(render_winners(state).title)
    first, second = codes_table(state)
    assert (first["trials"], second["trials"]) == ([old], [key])
    assert first["fingerprint"] == OTHER["fingerprint"]
    assert "bacs.run" in second["changes"]
    assert sweep_code(sweep)["fingerprint"] == second["fingerprint"]


def test_settings_that_ask_for_more_modules_are_no_other_code(sweep):
    path = sweep.folder / JOURNAL
    with Journal(path) as journal:
        finish(ledger := opened(sweep, journal), start(ledger))
    measuring = dict(sweep.resolved["training"], log_drift=True)
    more = SweepConfig.from_dict(sweep.resolved | {"training": measuring})
    with Journal(path) as journal:
        ledger = opened(more, journal)
        finish(ledger, start(ledger))
    state = SweepState.load(path)
    assert not state.is_mixed
    assert len(state.codes) == 1
    assert "bacs.media.drift" in state.code["code"]
