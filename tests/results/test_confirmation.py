"""What a confirmation came to, in tables, sentences and MLflow."""

import csv

import pytest
from rich.console import Console
from tracking_servers import dump

from results import SweepState, Tracker
from results.confirmation import comparisons_table, contestants_table
from results.tables import render_confirmation, write_csvs

NOISE = [0.004, -0.004, 0.002, -0.002, 0.003, -0.003, 0.001, -0.001]
POINTS = {"2-2": {"trial 7": {"loss.lkd": 0.5}, "trial 3": {"loss.lkd": 0.6}, "default": {"loss.lkd": 1.0}}}


@pytest.fixture
def confirmed(scribe):
    """Writes a confirmation: trial 7 is as good as trial 3, two points above the default, far above fine-tuning."""

    def write(seeds=8):
        search = {"points": POINTS, "confirms": "digits", "confirms_uid": "fedcba"}
        scribe.journal.append("created", sweep="digits-confirm", uid="0123", config={"search": search}, versions={})
        for seed in range(seeds):
            level = 0.6 + 0.05 * seed  # what the seeds of a pair share
            for number, test in enumerate((level, level + NOISE[seed], level - 0.02 + NOISE[seed])):
                scribe.run_trial(number, seed=seed, val=0.5 - number / 100, test=test)
            scribe.run_trial(10 + seed, role="finetune", seed=seed, val=0.1, test=0.2 + NOISE[seed] / 2 + 0.05 * seed)
        scribe.end()
        return SweepState.load(scribe.path)

    return write


def text(renderable):
    console = Console(width=160)
    with console.capture() as capture:
        console.print(renderable, soft_wrap=True)
    return capture.get()


def test_sentences_say_who_wins_and_who_does_not(confirmed):
    state = confirmed()
    rows = comparisons_table(state)
    assert [(row["a"], row["b"], row["pairs"], row["family"]) for row in rows] == [
        ("trial 7", "trial 3", 8, 3),
        ("trial 7", "default", 8, 3),
        ("trial 7", "finetune", 8, 3),
    ]
    assert [row["verdict"] for row in rows] == ["tie", "win", "win"]
    assert rows[0]["sentence"].startswith("tie: trial 7 and trial 3 differ by ")
    assert rows[1]["sentence"].startswith("trial 7 beats default by 2.0 mIoU [1.8, 2.2] (p = 0.023, Holm)")
    assert rows[1]["difference"] == pytest.approx(0.02)
    assert rows[1]["p_holm"] == pytest.approx(3 * 2 / 2**8), "all eight say the same"
    best = contestants_table(state)[0]
    assert (best["configuration"], best["seeds"], best["val_miou"]) == ("trial 7", 8, pytest.approx(0.5))
    assert "2-2: trial 7 beats finetune by 40.0 mIoU" in text(render_confirmation(state))


def test_too_few_seeds_are_called_so_and_how_many_would_do(confirmed):
    state = confirmed(seeds=5)
    shown = text(render_confirmation(state))
    assert "undecided: trial 7 leads default by 1.9 mIoU" in shown
    assert "5 pairs cannot give a p below 0.19 (Holm)" in shown
    assert "7 seeds can decide it" in shown
    assert "beats" not in shown


def test_only_seeds_that_both_have_are_compared(confirmed, scribe):
    confirmed()
    key = scribe.suggest(0, seed=8)
    scribe.start(key)
    scribe.finish(key, test=0.0)
    broken = scribe.suggest(2, seed=8)
    scribe.start(broken)
    scribe.journal.append("failed", trial=broken, reason="diverged", traceback="", will_retry=False)
    rows = comparisons_table(SweepState.load(scribe.path))
    assert {row["pairs"] for row in rows} == {8}
    assert rows[1]["difference"] == pytest.approx(0.02)


def test_the_better_one_is_named_first(scribe):
    scribe.journal.append(
        "created", sweep="c", uid="0123", config={"search": {"points": POINTS, "confirms": "d"}}, versions={}
    )
    for seed in range(8):
        scribe.run_trial(0, seed=seed, test=0.5)
        scribe.run_trial(2, seed=seed, test=0.51 + seed / 1000)
    (row,) = comparisons_table(SweepState.load(scribe.path))
    assert row["verdict"] == "loss"
    assert row["sentence"].startswith("default beats trial 7 by 1.4 mIoU [1.")
    assert row["difference"] < 0


def test_a_sweep_that_confirms_nothing_has_no_comparisons(scribe):
    scribe.sweep_of_every_kind()
    state = SweepState.load(scribe.path)
    assert (state.confirms, comparisons_table(state)) == ("", [])


def test_the_table_is_written_beside_the_others(confirmed, tmp_path):
    written = {path.name: path for path in write_csvs(confirmed(), tmp_path / "report")}
    rows = list(csv.DictReader(written["confirm.csv"].open()))
    assert [row["verdict"] for row in rows] == ["tie", "win", "win"]
    assert float(rows[1]["low"]) < 0.02 < float(rows[1]["high"])


def test_mlflow_gets_numbers_and_sentences_once(confirmed, scribe, uri):
    confirmed()
    for _ in range(2):
        Tracker(uri, "digits", scribe.path).sync_once()
        held = dump(uri)["sweep"]
        tags, points = held["tags"], held["points"]
        assert (tags["confirms"], tags["confirms_uid"]) == ("digits", "fedcba")
        assert tags["verdict/2-2/default"].startswith("trial 7 beats default by 2.0 mIoU")
        assert len(points["confirm/2-2/default/difference"]) == 1
        assert {"confirm/2-2/finetune/low", "confirm/2-2/trial 3/high", "confirm/2-2/default/p_holm"} <= points.keys()


def test_mlflow_is_told_the_bound_until_the_sweep_goes_on(scribe, uri):
    scribe.created()
    scribe.run_trial(0)
    scribe.journal.append("ended", status="interrupted", bound="sweep.budget_hours")
    Tracker(uri, "digits", scribe.path).sync_once()
    assert dump(uri)["sweep"]["tags"]["bound"] == "sweep.budget_hours"
    scribe.journal.append("resumed", driver={})
    Tracker(uri, "digits", scribe.path).sync_once()
    assert "bound" not in dump(uri)["sweep"]["tags"]
