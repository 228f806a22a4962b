"""Two objectives: the Pareto front against brute force, its table and file; winners of a robust sweep."""

import csv
import math
import random

import pytest
from rich.console import Console
from tracking_servers import dump

from results import SweepState, Tracker
from results.objectives import COSTS, mean_objective, pareto_front
from results.tables import (
    methods_table,
    pareto_table,
    render_pareto,
    render_status,
    render_winners,
    status_json,
    winners_table,
    write_csvs,
)


def beaten(point, points):
    return any(o[0] >= point[0] and o[1] <= point[1] and o != point for o in points)


@pytest.mark.parametrize("values", [3, 10, 1000])
def test_the_front_is_what_nothing_beats(values):
    rng = random.Random(values)
    for number in (0, 1, 2, 5, 40):
        points = [(rng.randrange(values) / values, float(rng.randrange(values))) for _ in range(number)]
        front = pareto_front(points)
        assert sorted(front) == [i for i, point in enumerate(points) if not beaten(point, points)]
        assert [points[i][0] for i in front] == sorted((points[i][0] for i in front), reverse=True)


def created(scribe, **search):
    scribe.journal.append("created", sweep="two", uid="u", config={"search": search}, versions={})


def run(scribe, number, val, mb, split="2-2", seed=0):
    key = scribe.suggest(number, split=split, seed=seed + 16 * len(split), **{"loss.lkd": float(number)})
    scribe.start(key)
    scribe.report(key, 1, **{"replay/mb": 99.0, "time/step_seconds": 3.0, "time/step_cpu_seconds": 4.0})
    scribe.report(key, 2, **{"replay/mb": mb, "time/step_seconds": 5.0, "time/step_cpu_seconds": 7.0})
    scribe.finish(key, val=val)
    return key


def test_costs_of_a_trial(scribe):
    created(scribe)
    key = run(scribe, 0, 0.5, 2.0)
    state = SweepState.load(scribe.path)
    found = {cost: mean_objective([state.trials[key]], cost) for cost in COSTS}
    assert found == {"replay/mb": 2.0, "time/total_seconds": 8.0, "time/total_cpu_seconds": 11.0}
    assert mean_objective([state.trials[key]], "final/val_miou") == 0.5
    assert mean_objective([], "replay/mb") is None
    silent = scribe.run_trial(1, val=math.nan)
    state = SweepState.load(scribe.path)
    names = ["final/val_miou", *COSTS]
    assert [mean_objective([state.trials[key], state.trials[silent]], name) for name in names] == [None] * 4


def test_the_front_of_every_split(scribe, tmp_path):
    created(scribe, objectives=["final/val_miou", "replay/mb"])
    for seed in (0, 1):
        for number, (val, mb) in enumerate([(0.5, 4.0), (0.6, 8.0), (0.4, 5.0), (0.3, 1.0)]):
            run(scribe, number, val + 0.01 * seed, mb, seed=seed)
    run(scribe, 4, 0.9, 0.5)  # with one seed, where others have two
    run(scribe, 0, 0.2, 3.0, split="15-1")
    state = SweepState.load(scribe.path)
    rows = pareto_table(state)
    assert [(r["split"], r["trial"], r["runs"], r["cost"]) for r in rows] == [
        ("2-2", 1, 2, 8.0), ("2-2", 0, 2, 4.0), ("2-2", 3, 2, 1.0), ("15-1", 0, 1, 3.0),
    ]  # fmt: skip
    assert rows[0]["val_miou"] == pytest.approx(0.605)
    assert rows[0]["trial"] == winners_table(state)[0]["trial"], "the winner stays who has the best val mIoU"
    console = Console(width=160, record=True, quiet=False)
    with console.capture() as capture:
        console.print(render_pareto(state))
    assert "replay/mb" in capture.get()
    paths = {path.name: path for path in write_csvs(state, tmp_path / "report")}
    with paths["pareto.csv"].open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["trial"], row["objective"], row["params/loss.lkd"]) for row in written] == [
        ("1", "replay/mb", "1.0"), ("0", "replay/mb", "0.0"), ("3", "replay/mb", "3.0"), ("0", "replay/mb", "0.0"),
    ]  # fmt: skip


def test_one_objective_has_no_front(scribe, tmp_path):
    created(scribe, objectives=["final/val_miou"])
    run(scribe, 0, 0.5, 4.0)
    state = SweepState.load(scribe.path)
    assert pareto_table(state) == []
    assert "pareto.csv" not in {path.name for path in write_csvs(state, tmp_path / "report")}


def test_the_winner_of_a_robust_sweep_is_best_on_the_mean_over_splits(scribe):
    created(scribe, robust=True)
    scores = {0: (0.50, 0.40), 1: (0.95, 0.05), 2: (0.52, 0.41), 3: (0.10, 0.80)}
    for number, by_split in scores.items():
        for split, val in zip(("2-2", "5-11"), by_split, strict=True):
            run(scribe, number, val, 1.0, split=split)
    run(scribe, 4, 0.99, 1.0)  # the other split is still to come
    state = SweepState.load(scribe.path)
    assert [row["trial"] for row in winners_table(state)] == [1, 1]
    run(scribe, 5, 0.60, 1.0)
    run(scribe, 5, 0.55, 1.0, split="5-11")
    state = SweepState.load(scribe.path)
    rows = winners_table(state)
    assert [(row["split"], row["trial"], row["val_miou"]) for row in rows] == [("2-2", 5, 0.60), ("5-11", 5, 0.55)]
    assert [row["robust_val_miou"] for row in rows] == pytest.approx([0.575, 0.575])
    assert [row["params"]["loss.lkd"] for row in methods_table(state)] == [5.0, 5.0]
    with (console := Console(width=160)).capture() as capture:
        console.print(render_winners(state))
    assert "mean over splits (it was chosen by)" in capture.get()


def test_a_robust_winner_has_as_many_seeds_on_every_split(scribe):
    created(scribe, robust=True)
    for number, val in ((0, 0.5), (1, 0.6)):
        for split in ("2-2", "5-11"):
            run(scribe, number, val, 1.0, split=split)
    run(scribe, 0, 0.99, 1.0, seed=1)  # second seed, on one split so far
    state = SweepState.load(scribe.path)
    best = state.best("2-2")
    assert best is not None
    assert best.number == 1
    run(scribe, 0, 0.1, 1.0, split="5-11", seed=1)
    best = SweepState.load(scribe.path).best("5-11")
    assert best is not None
    assert (best.number, len(best.trials)) == (0, 2)
    assert SweepState().best("2-2") is None


def test_mlflow_and_status_show_the_front_its_costs_and_the_warm_start(scribe, uri):
    created(scribe, objectives=["final/val_miou", "time/total_cpu_seconds"], warm_start=["earlier", "other"])
    first, second = (run(scribe, number, val, 4.0) for number, val in ((0, 0.5), (1, 0.6)))
    scribe.end()
    Tracker(uri, "digits", scribe.path).sync_once()
    held = dump(uri)
    for key in (first, second):
        assert [(x, value) for x, value, _ in held[key]["points"]["objective/time/total_cpu_seconds"]] == [(0, 11.0)]
    tags = held["sweep"]["tags"]
    assert tags["pareto/2-2"] == "trial 1: val mIoU 0.6000, time/total_cpu_seconds 11"
    assert tags["warm_start"] == "earlier, other"
    state = SweepState.load(scribe.path)
    told = status_json(state)
    assert [row["trial"] for row in told["pareto"]] == [1]
    assert told["warm_start"] == ["earlier", "other"]
    with (console := Console(width=160)).capture() as capture:
        console.print(render_status(state))
    assert "Pareto front" in capture.get()
    assert "warm start: 0 configurations of earlier, other" in capture.get()
