"""Algorithms, two objectives, one study over all splits, and warm starts, through the books of a sweep without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bacs.errors import RequestError
from results.journal import Journal
from results.rows import pareto_table, winners_table
from results.state import ROBUST, SweepState
from search_spaces.propose import ALGORITHMS
from sweeps.__main__ import app
from sweeps.checks import check_request
from sweeps.driver import JOURNAL, _open_books
from sweeps.edits import edited
from sweeps.ledger import Ledger, planned_total
from sweeps.plan import plan_rows
from sweeps.settings import SweepConfig, compose_preset
from sweeps.trials import Trial
from sweeps.warm_start import warm_start
from tests.sweeps.conftest import TINY_SWEEP
from tests.sweeps.test_ledger import play as play_books

SEARCH = [
    "loss.buffer_size=100",  # so that the default lies in the space
    "search.splits=[5-5,2-2]",
    "search.trials=6",
    "search.references=[]",
    "search.lag=1",
    "search.startup_trials=2",
]
TWO = ["search.algorithm=nsga2", "search.objectives=[final/val_miou,replay/mb]", "search.population_size=2"]


def requested(storage: Path, *overrides: str, name: str = "new") -> SweepConfig:
    launch = {"storage": str(storage), "name": name}
    return check_request(compose_preset("digits", [*TINY_SWEEP, *SEARCH, *overrides], launch))


def open_books(sweep: SweepConfig, path: Path | None = None) -> tuple[Journal, Ledger]:
    """As the command `run` opens them."""
    journal = Journal(path or sweep.folder / JOURNAL)
    ledger = Ledger(sweep, journal, SweepState.load(journal.path))
    is_new = ledger.state.created_at is None
    _open_books(ledger, journal.repaired_bytes, warm_start(sweep) if is_new else [])
    return journal, ledger


def finish(ledger: Ledger, trial: Trial) -> None:
    """A made-up outcome that depends on the configuration, the split and the seed alone."""
    margin, size = trial.params.get("loss.prototype_margin", 0.0), trial.params.get("loss.buffer_size", 300)
    score = 0.5 / (1 + abs(margin - trial.seed % 5)) + (0.4 if trial.split == "5-5" else 0.0)
    ledger.book("started", trial=trial.key, attempt=1, host="h", pid=1)
    points = [["replay/mb", step, size * step / 100, 1e9] for step in range(2)]
    ledger.book("reported", trial=trial.key, step=2, epoch=2, points=points)
    ledger.book("finished", trial=trial.key, final={"final/val_miou": score, "final/miou": score}, seconds=1.0)


def play(ledger: Ledger, at_once: int = 2) -> list[tuple]:
    """Runs to the end; no sweep here has references."""
    order = play_books(ledger, at_once, finish)
    ledger.close()
    return [(number, split, *rest) for _, split, number, *rest in order]


def played(storage: Path, *overrides: str, name: str = "new", at_once: int = 2) -> SweepState:
    journal, ledger = open_books(requested(storage, *overrides, name=name))
    with journal:
        play(ledger, at_once)
    return ledger.state


MODES = {algorithm: [f"search.algorithm={algorithm}"] for algorithm in ALGORITHMS}
MODES |= {"two objectives": TWO, "robust": ["search.robust=true"], "robust, two": [*TWO, "search.robust=true"]}


@pytest.mark.parametrize("mode", MODES)
def test_the_same_journal_leads_to_the_same_suggestions(tmp_path, mode):
    """Whoever finishes first, and wherever the journal was cut."""
    sweep = requested(tmp_path / "runs", *MODES[mode], "search.seeds=[1,2]")
    runs = []
    for at_once in (1, 4):
        shutil.rmtree(sweep.folder, ignore_errors=True)  # where the trials of the journal before lie
        journal, ledger = open_books(sweep, tmp_path / f"{at_once}.jsonl")
        with journal:
            runs.append(sorted(play(ledger, at_once)))
            assert len(runs[-1]) == ledger.total == planned_total(sweep) == 6 * 2 * 2
    assert runs[0] == runs[1]
    lines = (tmp_path / "4.jsonl").read_bytes().splitlines(keepends=True)
    for cut in (len(lines) // 3, 2 * len(lines) // 3):
        (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:cut]))
        shutil.rmtree(sweep.folder, ignore_errors=True)
        journal, ledger = open_books(sweep, tmp_path / "cut.jsonl")
        with journal:
            play(ledger)
        known = ledger.state.trials.values()
        assert sorted((t.number, t.split, t.seed, tuple(t.params.items())) for t in known) == runs[0]


def test_the_sampler_is_told_the_score_and_the_cost(tmp_path):
    state = played(tmp_path, *TWO, "search.seeds=[1,3]")
    sweep = requested(tmp_path, *TWO, "search.seeds=[1,3]")
    journal, ledger = open_books(sweep)
    with journal:
        for split in ("5-5", "2-2"):
            for trials in ledger._suggested(split):
                told = ledger._told(trials)
                scores = [trial.final["final/val_miou"] for trial in trials]
                assert told.value == sum(scores) / 2
                assert told.others == (trials[0].params["loss.buffer_size"] / 100,)
    front = pareto_table(state)
    assert {row["split"] for row in front} == {"5-5", "2-2"}
    for winner in winners_table(state):
        assert winner["trial"] == next(row["trial"] for row in front if row["split"] == winner["split"])


def test_a_robust_study_runs_every_configuration_on_every_split(tmp_path):
    overrides = ["search.robust=true", "search.seeds=[1,3]"]
    state = played(tmp_path, *overrides)
    by_number: dict[int, list] = {}
    for trial in state.trials.values():
        by_number.setdefault(trial.number, []).append(trial)
    assert sorted(by_number) == list(range(6))
    for trials in by_number.values():
        assert sorted((t.split, t.seed) for t in trials) == [("2-2", 1), ("2-2", 3), ("5-5", 1), ("5-5", 3)]
        assert all(trial.params == trials[0].params for trial in trials)
    journal, ledger = open_books(requested(tmp_path, *overrides))
    with journal:
        values = {group[0].number: ledger._told(group).value for group in ledger._suggested(ROBUST)}
        for number, trials in by_number.items():
            assert values[number] == pytest.approx(sum(t.final["final/val_miou"] for t in trials) / 4)
        assert ledger._told(by_number[0][:3]).is_open, "a split is still at work"
    winner = max(values, key=lambda number: (values[number], -number))
    assert [row["trial"] for row in winners_table(state)] == [winner, winner]


@pytest.mark.parametrize(("cause", "fails"), [("diverged", False), ("died", True)])
def test_a_configuration_that_fails_on_one_split_fails(tmp_path, cause, fails):
    journal, ledger = open_books(requested(tmp_path, "search.robust=true"))
    with journal:
        first, second = ledger.next_trial(), ledger.next_trial()
        assert first is not None
        assert second is not None
        assert (first.number, second.number, {first.split, second.split}) == (0, 0, {"5-5", "2-2"})
        finish(ledger, first)
        ledger.book("failed", trial=second.key, cause=cause, reason="x", traceback="", will_retry=False, charged=True)
        (told,) = [ledger._told(group) for group in ledger._suggested(ROBUST)]
        assert (told.value, told.failed, told.worst) == (None, fails, not fails)
        assert ledger.state.best("5-5") is None


def test_a_robust_sweep_grows_by_a_split(tmp_path):
    played(tmp_path, "search.robust=true")
    state = SweepState.load(tmp_path / "new" / JOURNAL)
    sweep = edited(state, tmp_path, ["search.splits=[5-5,2-2,6-2]"], {})
    journal, ledger = open_books(sweep)
    with journal:
        assert sorted((number, split) for number, split, *_ in play(ledger)) == [(n, "6-2") for n in range(6)]
        assert ledger.total == 18
        best = ledger.state.best("6-2")
        assert best is not None
    with pytest.raises(RequestError, match=r"search\.robust: was True, now False"):
        edited(state, tmp_path, ["search.robust=false"], {})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["search.objectives=[final/val_miou,replay/mb]"], "but tpe has one objective.*add search.algorithm=nsga2"),
        (["search.objectives=[replay/mb]"], r"must be \[final/val_miou\]"),
        (["search.objectives=[]"], r"must be \[final/val_miou\]"),
        ([*TWO, "search.objectives=[final/val_miou,final/miou]"], "costs: replay/mb, time/total_seconds"),
        ([*TWO, "search.objectives=[final/val_miou,replay/mb,replay/mb]"], "or that and one cost"),
        (["search.robust=true", "search.splits=[2-2]"], "list two or more splits"),
        (["search.algorithm=nsga2", "search.space=methods"], "each method has its own.*choose tpe"),
        (["search.algorithm=gp", "search.space=methods"], "each method has its own"),
        (["search.algorithm=random", "search.warm_start=[a]"], "random looks at no results"),
        (["search.algorithm=grid", "search.warm_start=[a]"], "grid looks at no results"),
        (["search.warm_start=[a,a]"], "with repetitions"),
        (["search.population_size=1"], "must be >= 2"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, overrides, words):
    with pytest.raises(RequestError, match=r"(?s)" + words) as caught:
        requested(tmp_path, *overrides)
    assert len(caught.value.faults) == 1


def test_a_warm_start_is_told_journalled_and_counts_for_nothing(tmp_path):
    old = played(tmp_path, "search.seeds=[1,2]", "search.trials=4", name="old")
    sweep = requested(tmp_path, "search.warm_start=[old]", "search.seeds=[3]")
    rows = dict(plan_rows(sweep, None))
    assert rows["warm start"] == "8 configurations of old (seeds 1, 2)"
    assert rows["trials"] == "2 splits x 6 configurations x 1 seeds = 12"
    journal, ledger = open_books(sweep)
    with journal:
        told = ledger._warm("5-5")
        best = old.best("5-5")
        assert best is not None
        assert (best.params, best.mean("final/val_miou")) in [(t.params, t.value) for t in told]
        assert len(told) == 4
        shutil.rmtree(tmp_path / "old")  # the new sweep has its own copy
        tried = play(ledger)
        assert len(tried) == ledger.total == 12
    earlier = {(t.split, tuple(t.params.items())) for t in old.trials.values()}
    assert not earlier & {(split, params) for _, split, _, params in tried}, "not even the default runs again"
    state = SweepState.load(tmp_path / "new" / JOURNAL)
    assert state.best("5-5").number in {number for number, *_ in tried}
    assert dict(plan_rows(sweep, state))["warm start"] == rows["warm start"]
    # The journal alone leads to the same trials: from its first record on, without the earlier sweep.
    lines = (tmp_path / "new" / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(lines[0])
    shutil.rmtree(tmp_path / "new" / "trials")
    journal, ledger = open_books(sweep, tmp_path / "cut.jsonl")
    with journal:
        assert sorted(play(ledger, 1)) == sorted(tried)


@pytest.mark.parametrize("mode", ["tpe", "two objectives", "gp"])
def test_a_warm_start_changes_what_is_suggested(tmp_path, mode):
    played(tmp_path, name="old")
    tried = {}
    for name, more in (("cold", []), ("warm", ["search.warm_start=[old]"])):
        state = played(tmp_path, *MODES[mode], "search.trials=3", *more, name=name)
        tried[name] = [trial.params for trial in state.trials.values()]
    assert len(tried["warm"]) == len(tried["cold"]) == 6
    assert tried["warm"] != tried["cold"]
    assert all(len(row["values"]) == (2 if mode == "two objectives" else 1) for row in state.warm)


def test_a_robust_study_takes_what_ran_on_all_its_splits(tmp_path):
    """Of sweeps that searched each split by itself that is the default; of robust ones everything."""
    played(tmp_path, name="each")
    played(tmp_path, "search.robust=true", "search.splits=[2-2,6-2,5-5]", name="all")
    found = warm_start(requested(tmp_path, "search.robust=true", "search.warm_start=[each,all]"))
    assert [row["sweep"] for row in found] == ["each"] + 6 * ["all"]
    assert all(row["splits"] == ["5-5", "2-2"] for row in found)
    assert found[0]["params"] == found[1]["params"] == requested(tmp_path).defaults[0]
    assert found[0]["values"] == pytest.approx(found[1]["values"])


def test_only_finished_configurations_inside_the_space_are_taken(tmp_path):
    sweep = requested(tmp_path, "search.seeds=[1,2]", name="old")
    journal, ledger = open_books(sweep)
    with journal:
        for _ in range(5):  # 5-5: both seeds of the default, one of the next; 2-2: both of the default, of which
            trial = ledger.next_trial()
            assert trial is not None
            if trial.split == "2-2" and trial.seed == 2:  # one fails
                reason = {"cause": "died", "reason": "", "traceback": "", "will_retry": False, "charged": True}
                ledger.book("failed", trial=trial.key, **reason)
            else:
                finish(ledger, trial)
    (row,) = warm_start(requested(tmp_path, "search.warm_start=[old]"))
    assert (row["splits"], row["params"], row["seeds"]) == (["5-5"], sweep.defaults[0], [1, 2])
    space = tmp_path / "narrow.yaml"
    space.write_text("loss: bacs\ndimensions: {loss.buffer_size: {kind: int, low: 300, high: 400}}")
    with pytest.raises(RequestError, match="names old, which has no configuration in narrow that finished"):
        warm_start(requested(tmp_path, "search.warm_start=[old]", f"search.space={space}"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["search.warm_start=[nowhere]"], r"(?s)no such sweep in .*known there: old"),
        (["search.warm_start=[../old]"], "no legal name"),
        (["search.warm_start=[new]"], "the sweep itself"),
        (["search.splits=[6-2]"], "has no configuration in bacs that finished with all seeds on 6-2"),
        (["dataset.canvas=36"], "another run: dataset.canvas was 32 there and is 36 here"),
        (["network.width=8"], "another run: network.width was 4 there and is 8 here"),
        (["training.epochs=3"], "another run: training.epochs was 2 there and is 3 here"),
        (["training.epochs=3", "dataset.canvas=36"], "another run: dataset.canvas"),
    ],
)
def test_a_warm_start_from_another_run_is_refused(tmp_path, overrides, words):
    played(tmp_path, "search.trials=2", name="old")
    with pytest.raises(RequestError, match=words):
        warm_start(requested(tmp_path, "search.warm_start=[old]", *overrides))


def test_what_never_changes_a_result_may_differ(tmp_path):
    played(tmp_path, "search.trials=2", "search.seeds=[7]", name="old")
    others = ["training.num_workers=0", f"dataset.cache={tmp_path}/elsewhere", "training.threads=2", "search.seed=5"]
    assert len(warm_start(requested(tmp_path, "search.warm_start=[old]", *others))) == 4


def test_the_plan_says_how_it_searches(tmp_path):
    rows = dict(plan_rows(requested(tmp_path, *TWO, "search.robust=true"), None))
    assert rows["search"] == "nsga2, robust: one study over all splits, by the mean over them, suggestion seed 0"
    assert rows["objectives"] == "final/val_miou up, replay/mb down"
    assert rows["trials"] == "2 splits x 6 configurations x 1 seeds = 12"
    assert "warm start" not in rows


def test_the_command_line_refuses_a_warm_start_before_it_writes_anything(tmp_path):
    words = ["digits", *TINY_SWEEP, "search.warm_start=[nowhere]", "--name", "new", "--storage", str(tmp_path / "runs")]
    for command in ("plan", "run"):
        answer = CliRunner().invoke(app, [command, *words])
        assert answer.exit_code == 2, answer.output
        assert "names nowhere, but there is no such sweep" in answer.output
    assert not (tmp_path / "runs" / "new").exists()


def test_the_report_shows_the_front(tmp_path):
    played(tmp_path, *TWO)
    answer = CliRunner().invoke(app, ["report", "new", "--storage", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    assert "Pareto front of new: val mIoU in % against replay/mb" in answer.output
    assert (tmp_path / "new" / "report" / "pareto.csv").is_file()
