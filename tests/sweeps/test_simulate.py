"""Sweeps in virtual time: against a computation by hand, and at the size of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bacs.errors import RequestError
from bacs.randomness import generator
from results.journal import Journal
from results.state import SweepState
from search_spaces.propose import Told
from search_spaces.space import Params, load_space
from search_spaces.stopping import StoppingSettings
from sweeps.curves import Curve, coordinates, matcher, recorded_curves
from sweeps.settings import SweepConfig, compose_preset
from sweeps.simulate import Outcome, Scenario, Simulation, acting_in_step_0, render_simulation
from tests.sweeps.conftest import TINY_SWEEP

CURVES = [
    Curve({"recorded": number}, (10.0, 10.0), (after_first, final), (), final)
    for number, (after_first, final) in enumerate([(0.5, 0.5), (0.4, 0.4), (0.6, 0.7), (0.3, 0.9)])
]


def simulated(algorithm: str = "none", *, sharing: bool = False, lag: int = 3, **more) -> Outcome:
    """The four curves in order, on two workers; one key of step 0."""
    stopping = StoppingSettings(algorithm=algorithm, reduction_factor=2, audit_share=more.pop("audit_share", 0.0))
    scenario = Scenario(stopping, sharing, 4, 2, lag, **more)

    def suggest(number: int, told: Callable[[], list[Told]]) -> Params:
        assert [known.params for known in told()] == [{"x": earlier} for earlier in range(number)]
        assert not any(known.is_open for known in told()[: max(0, number - lag)])
        return {"x": number}

    return Simulation(scenario, suggest, lambda n, _: CURVES[n], lambda _: "one").run()


def test_without_stopping_all_trials_run_to_their_end():
    outcome = simulated()
    assert outcome.finals == [(20, 0.5), (20, 0.4), (40, 0.7), (40, 0.9)]
    assert (outcome.worker_seconds, outcome.seconds, outcome.stopped) == (80, 40, 0)
    assert (outcome.time_to(0.65), outcome.time_to(0.95), outcome.possible) == (40, None, 0.9)


def test_halving_frees_workers_at_once():
    outcome = simulated("halving")  # 1 stops at 10, 2 runs from 10 to 30, 3 from 20 until it stops at 30
    assert outcome.finals == [(20, 0.5), (30, 0.7)]
    assert (outcome.worker_seconds, outcome.seconds, outcome.stopped) == (60, 30, 2)
    assert outcome.possible == 0.9, "the best was stopped, and the table says so"


def test_a_shared_first_step_is_paid_once_and_waited_for():
    outcome = simulated(sharing=True)
    assert outcome.finals == [(20, 0.5), (20, 0.4), (30, 0.7), (30, 0.9)]
    assert outcome.worker_seconds == 50
    outcome = simulated("halving", sharing=True)  # 1 stops at 10 for nothing, 2 at once goes on from step 1
    assert outcome.finals == [(20, 0.5), (20, 0.7)]
    assert (outcome.worker_seconds, outcome.seconds, outcome.stopped) == (30, 20, 2)


def test_defaults_and_audited_trials_go_on():
    assert [final for _, final in simulated("halving", defaults=[{"x": 3}]).finals] == [0.5, 0.7, 0.9]
    outcome = simulated("halving", audit_share=1.0)
    assert len(outcome.finals) == 4
    assert outcome.stopped == 0


def test_a_suggestion_waits_for_the_results_it_looks_at():
    outcome = simulated(lag=0)
    assert [at for at, _ in outcome.finals] == [20, 40, 60, 80]


def make_sweep(folder: Path, *overrides: str) -> SweepConfig:
    words = [*TINY_SWEEP, "search.splits=[2-2]", "search.references=[]", *overrides]
    return SweepConfig.from_dict(compose_preset("digits", words, {"storage": str(folder), "name": "virtual"}))


def record(folder: Path, sweep: SweepConfig, trials: int = 30) -> SweepState:
    """A made-up earlier sweep, whose best trial has a small margin."""
    path = folder / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("created", sweep="earlier", uid="u", config=sweep.resolved)
        for number in range(trials):
            rng = generator("recorded", number)
            margin = float(rng.uniform(-2.2, 2.95))
            params = {"loss.prototype_margin": margin, "loss.lkd": float(rng.uniform(0.005, 2.5))}
            params["loss.buffer_size"] = int(rng.integers(50, 600))
            journal.append(
                "suggested", trial=str(number), number=number, role="trial", split="2-2", seed=1, params=params,
                config=sweep.base, tags={},
            )  # fmt: skip
            values = [0.9, *(0.8 - step / 20 - abs(margin) / 10 - rng.uniform(0, 0.03) for step in range(1, 5))]
            points = [["val/miou_all", step, value, 0.0] for step, value in enumerate(values)]
            points += [["time/step_seconds", step, 3600.0 * (8 if step == 0 else 1), 0.0] for step in range(5)]
            journal.append("reported", trial=str(number), step=5, epoch=10, points=points)
            journal.append("finished", trial=str(number), final={"final/val_miou": values[-1]}, seconds=1.0)
    return SweepState.load(path)


def test_curves_come_from_the_nearest_recorded_configuration(tmp_path):
    sweep, space = make_sweep(tmp_path), load_space("bacs")
    curves = recorded_curves(record(tmp_path, sweep), "2-2", "val/miou_all")
    curve_of, words = matcher(space, curves, "2-2")
    assert "nearest of 30 recorded configurations" in words
    for number, curve in enumerate(curves):
        assert curve_of(number, curve.params) is curve
    low = {"loss.buffer_size": 50, "loss.prototype_margin": -2.2, "loss.lkd": 0.005}
    high = {"loss.buffer_size": 600, "loss.prototype_margin": 2.95, "loss.lkd": 2.5}
    assert list(coordinates(space, low)) == [0, 0, 0]
    assert list(coordinates(space, high)) == [1, 1, 1]
    curve_of, words = matcher(space, curves[:3], "2-2")
    assert "drawn at random" in words
    assert {id(curve_of(number, low)) for number in range(50)} == {id(curve) for curve in curves[:3]}


def test_only_what_acts_in_the_first_step_divides_it(tmp_path):
    stage_of = acting_in_step_0(make_sweep(tmp_path))
    default = {"loss.buffer_size": 50, "loss.prototype_margin": 0.0, "loss.lkd": 0.1}
    assert stage_of(default) == stage_of(default | {"loss.buffer_size": 600, "loss.lkd": 1.0})
    space = tmp_path / "space.yaml"
    space.write_text(
        "dimensions: {optimizer.lr: {kind: float, low: 0.001, high: 0.1}, loss.lkd: {kind: float, low: 0, high: 1}}"
    )
    stage_of = acting_in_step_0(make_sweep(tmp_path, f"search.space={space}"))
    assert stage_of({"optimizer.lr": 0.01, "loss.lkd": 0.5}) == stage_of({"optimizer.lr": 0.01, "loss.lkd": 0.7})
    assert stage_of({"optimizer.lr": 0.01, "loss.lkd": 0.5}) != stage_of({"optimizer.lr": 0.02, "loss.lkd": 0.5})


def shown(sweep: SweepConfig, recorded: SweepState, workers: int) -> str:
    with (console := Console(width=140)).capture() as text:
        console.print(render_simulation(sweep, recorded, workers))
    return text.get()


def test_the_table_compares_six_ways_and_says_what_the_curves_are(tmp_path):
    sweep = make_sweep(tmp_path, "search.trials=20")
    text = shown(sweep, record(tmp_path, sweep), workers=6)
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    hours = {(row[0].strip(), row[1].strip()): float(row[4]) for row in rows}
    assert hours["none", "own"] == 20 * 12
    assert hours["none", "shared"] == 20 * 12 - 19 * 8
    assert len(hours) == 6
    for algorithm in ("halving", "median"):
        assert hours[algorithm, "shared"] < hours["none", "shared"]
    assert "nearest of 30 recorded configurations" in text
    assert "search.algorithm=tpe" in text
    assert "this is search.lag=5" in text
    with pytest.raises(RequestError, match="no finished trial of split 5-5"):
        render_simulation(make_sweep(tmp_path, "search.splits=[5-5]"), record(tmp_path / "b", sweep), 6)


@pytest.mark.slow
def test_ten_thousand_trials_on_a_thousand_workers(tmp_path):
    sweep = make_sweep(tmp_path, "search.trials=10000")
    recorded = record(tmp_path, sweep)
    text = shown(sweep, recorded, workers=1000)
    assert text.count("│  10000 │") == 6
    assert "at random, without tpe" in text
