"""The sweep that confirms another's winners, through the ledger without Ray; one whole one with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bacs.data.splits import parse_split
from bacs.errors import RequestError
from results.confirmation import comparisons_table
from results.journal import Journal
from results.state import SweepState
from sweeps.__main__ import app
from sweeps.confirm import confirmation, fresh_seeds
from sweeps.edits import edited
from sweeps.ledger import Ledger, planned_total
from sweeps.plan import plan_rows
from sweeps.settings import SweepConfig
from tests.sweeps.conftest import TINY_SWEEP
from tests.sweeps.test_edits import open_books, requested
from tests.sweeps.test_ledger import play
from tests.sweeps.test_sweep import assert_tracked_completely

SEARCHED = ["search.splits=[5-5,2-2]", "search.trials=4", "search.seeds=[0,2]", "search.references=[finetune]"]


def searched(storage: Path, *overrides: str) -> SweepState:
    """A sweep that is over."""
    journal, ledger = open_books(requested(storage, *SEARCHED, *overrides))
    with journal:
        play(ledger)
        ledger.close()
    return ledger.state


def asked(state: SweepState, storage: Path, **wanted: int) -> SweepConfig:
    return confirmation(state, storage, {"name": "books-confirm"}, **({"top": 2, "seeds": 3} | wanted))


def reopened(sweep: SweepConfig) -> tuple[Journal, Ledger]:
    return open_books(edited(SweepState.load(sweep.folder / "journal.jsonl"), sweep.folder.parent, [], {}))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_each_split_runs_its_own_winners_its_default_and_references_on_fresh_seeds(storage):
    state = searched(storage)
    sweep = asked(state, storage)
    journal, ledger = open_books(sweep)
    with journal:
        for _ in range(4):
            assert ledger.next_trial() is not None
    journal, ledger = reopened(sweep)  # its driver was killed; the journal says all
    with journal:
        play(ledger)
        ledger.close()
    found = ledger.state
    assert found.end_status == "finished"
    for split in ("5-5", "2-2"):
        wanted = [c.params for c in state.ranked(split)[:2]]
        default = next(c.params for c in state.configurations(split) if c.number == 0)
        wanted += [] if default in wanted else [default]
        mine = [t for t in found.trials.values() if t.split == split]
        tried = {t.number: t.params for t in mine if t.role == "trial"}
        assert [tried[number] for number in sorted(tried)] == wanted
        assert "default" in found.points[split]
        assert {t.number: t.tags["configuration"] for t in mine if t.role == "trial"} == dict(
            enumerate(found.points[split])
        )
        for role, number in [("finetune", 0), *(("trial", number) for number in tried)]:
            assert [t.seed for t in mine if (t.role, t.number) == (role, number)] == [1, 3, 4]
    assert len(found.trials) == planned_total(sweep) == ledger.total
    assert (found.confirms, found.config["search"]["confirms_uid"]) == ("books", state.uid)
    assert {row["b"] for row in comparisons_table(found) if row["split"] == "5-5"} >= {"finetune"}


def test_test_images_choose_nothing(storage):
    state = searched(storage)
    before = asked(state, storage).search.points
    for trial in state.trials.values():
        trial.final["final/miou"] = 1 - trial.final["final/val_miou"]
    assert asked(state, storage).search.points == before


def test_class_orders_come_with_seeds_of_their_own(storage):
    sweep = asked(searched(storage, "search.splits=[5-5]"), storage, class_orders=2)
    assert sweep.search.seeds == [1, 3, 4, 5, 6, 7]
    assert sweep.base["training"]["shuffle_classes"] is True
    journal, ledger = open_books(sweep)
    names = [f"c{i}" for i in range(10)]
    with journal:
        configs = [trial.config["training"] for trial in iter(ledger.next_trial, None)]
        orders = {parse_split(c["split"], names, shuffle=c["shuffle_classes"], seed=c["seed"]).steps for c in configs}
    assert len(orders) == 6


def test_the_default_of_each_method_that_is_among_the_best(storage, tmp_path):
    (tmp_path / "two.yaml").write_text("equal_trials: true\nmethods: [mib, er]\n")
    state = searched(storage, "search.splits=[5-5]", f"search.space={tmp_path}/two.yaml")
    names = asked(state, storage, top=4).search.points["5-5"].keys()
    assert {"default mib", "default er"} <= names
    assert len(names) == 4, "the defaults are two of the four that were tried"


def test_the_plan_counts_what_each_split_runs(storage):
    sweep = asked(searched(storage), storage)
    points = dict(sweep.search.points)
    points["2-2"] = dict(list(points["2-2"].items())[:1])
    sweep = SweepConfig.from_dict(sweep.resolved | {"search": sweep.resolved["search"] | {"points": points}})
    rows = dict(plan_rows(sweep, None))
    most = len(points["5-5"])
    assert rows["trials"] == f"{most} + 1 configurations of 2 splits x 3 seeds = {3 * (most + 1)}"
    assert rows["together"] == f"{3 * (most + 1) + 6} runs"


def test_what_cannot_be_confirmed_is_refused_with_a_remedy(storage):
    journal, ledger = open_books(requested(storage, *SEARCHED))
    with journal:
        with pytest.raises(RequestError, match="has not ended"):
            asked(ledger.state, storage)
        ledger.close()
    with pytest.raises(RequestError, match="no configuration has finished"):
        asked(ledger.state, storage)
    journal, ledger = reopened(ledger.sweep)
    with journal:
        play(ledger)
        ledger.close()
    journal, confirming = open_books(asked(ledger.state, storage))
    with journal:
        confirming.close()
    with pytest.raises(RequestError, match="confirms books itself"):
        asked(confirming.state, storage)


def test_points_are_checked(storage):
    sweep = asked(searched(storage, "search.splits=[5-5]"), storage)
    for points, words in [
        ({"2-2": {"a": {}}}, "has none for the split 5-5"),
        ({"5-5": {"a": {}}, "2-2": {"a": {}}}, "which search.splits does not list"),
        ({"5-5": {}}, "no configurations by name"),
        ({"5-5": [{"loss.lkd": 1.0}]}, "no configurations by name"),
        ({"5-5": {"a": {"loss.lkd": 1.0}, "b": {"loss.lkd": 1.0}}}, "with repetitions"),
        ({"5-5": {"a": {"loss.lkd": -1.0}}}, "loss.lkd"),
        ({"5-5": {"a": {"training.seed": 1}}}, "not searched but enumerated"),
    ]:
        with pytest.raises(RequestError, match=words):
            SweepConfig.from_dict(sweep.resolved | {"search": sweep.resolved["search"] | {"points": points}})


def test_fresh_seeds_are_the_smallest_that_are_left():
    assert fresh_seeds({0, 2, 42}, 4) == [1, 3, 4, 5]


def test_the_command_line_tells_the_verdicts_of_what_is_over(storage, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    journal, ledger = open_books(asked(searched(storage, "search.splits=[5-5]"), storage))
    with journal:
        play(ledger)
        ledger.close()
    runner, where = CliRunner(env={"COLUMNS": "300"}), ["--storage", str(storage)]
    result = runner.invoke(app, ["confirm", "books", "--top", "2", "--seeds", "3", *where])
    assert result.exit_code == 0, result.output
    assert "confirmation of books on fresh seeds" in result.output
    wanted = [row["sentence"] for row in comparisons_table(ledger.state)]
    assert wanted
    result = runner.invoke(app, ["report", "books-confirm", *where])
    assert all(f"5-5: {sentence}" in result.output for sentence in wanted), result.output
    assert "confirm.csv" in result.output
    for arguments in (["--seeds", "4"], ["--class-orders", "2"], ["--top", "0"]):
        result = runner.invoke(app, ["confirm", "books", "--top", "2", "--seeds", "3", *arguments, *where])
        assert result.exit_code == 2, result.output


@pytest.mark.slow
def test_a_whole_confirmation(sweeps):
    splits = ["search.splits=[5-5]", "search.seeds=[0]", "search.references=[finetune]"]
    code, output = sweeps.run("run", "digits", "--name", "demo", *TINY_SWEEP, *splits)
    assert code == 0, output
    for _ in range(2):  # a second time runs nothing
        code, output = sweeps.run("confirm", "demo", "--top", "1", "--seeds", "2")
        assert code == 0, output
        assert "confirmation of demo on fresh seeds" in output
    state = SweepState.load(sweeps.journal("demo-confirm"))
    assert {t.seed for t in state.trials.values()} == {1, 2}
    assert {t.attempts for t in state.trials.values()} == {1}
    assert {t.status for t in state.trials.values()} == {"finished"}
    assert state.cpu_seconds > 0
    assert_tracked_completely(sweeps, "demo-confirm")
    code, output = sweeps.look("confirm", "demo", "--top", "1", "--seeds", "3")
    assert code == 2, output
    assert "search.seeds" in output
    code, output = sweeps.run("resume", "demo-confirm", "search.seeds=[1,2,3]")
    assert code == 0, output
    code, output = sweeps.look("report", "demo-confirm")
    assert code == 0, output
    assert "finetune" in output
    assert (sweeps.storage / "demo-confirm" / "report" / "confirm.csv").is_file()
    code, output = sweeps.look("status", "demo-confirm", "--json")
    assert json.loads(output)["counts"]["finished"] == len(state.trials) * 3 // 2
