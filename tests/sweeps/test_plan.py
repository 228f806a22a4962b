"""What `plan` tells before a sweep, against what the sweep's own parts then do. No Ray."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from bacs.bundle import save_bundle
from bacs.config import RunConfig
from bacs.events import StepEnded
from bacs.lineage import stage_key
from bacs.run import ContinualRun
from results.journal import Journal
from results.state import SweepState
from sweeps.__main__ import app
from sweeps.checks import check_request
from sweeps.footprint import outcome_bytes
from sweeps.forecast import Forecast, make_forecast, real_figures
from sweeps.ledger import Ledger, planned_total
from sweeps.plan import cost_rows, plan_rows, render_outcome, render_plan
from sweeps.planned_trials import planned_trials
from sweeps.probe import FewerScenes, fewer_images
from sweeps.settings import SweepConfig, compose_preset
from sweeps.trials import open_data
from tests.sweeps.conftest import TINY_SWEEP
from tests.sweeps.test_dataset_presets import SMALL_TRIALS

RATES = (0.01, 0.015, 0.008, 0.002, 0.003)


def sweep_of(tmp_path: Path, *overrides: str, name: str = "plan", preset: str = "digits") -> SweepConfig:
    launch = {"storage": str(tmp_path / "runs"), "name": name}
    return check_request(compose_preset(preset, [*TINY_SWEEP, *overrides], launch))


def shown(renderable: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(renderable)
    return console.export_text()


def play(sweep: SweepConfig, forecast: Forecast, path: Path) -> SweepState:
    """A whole sweep in which every step takes what a linear law says; one trial after the other, 3 s between."""
    works = {}
    for planned, steps in zip(forecast.trials, forecast.works, strict=True):
        trial = planned.trial
        works[trial.role, trial.split, trial.number, trial.seed] = steps
    clock = [1000.0]
    with Journal(path, clock=lambda: clock[0]) as journal:
        ledger = Ledger(sweep, journal, SweepState.load(path))
        ledger.book("created", sweep="past", uid="u", config=sweep.resolved)
        while (trial := ledger.next_trial()) is not None:
            clock[0] += 3
            ledger.book("started", trial=trial.key, attempt=1, host="h", pid=1)
            for step, work in enumerate(works[trial.role, trial.split, trial.number, trial.seed]):
                seconds = sum(rate * amount for rate, amount in zip(RATES, work.amounts, strict=True))
                clock[0] += seconds
                points = [["time/step_seconds", step, seconds, 1.0], ["time/step_cpu_seconds", step, seconds / 2, 1.0]]
                ledger.book("reported", trial=trial.key, step=step + 1, epoch=step + 1, points=points)
            score = 1 / (1 + abs(trial.params.get("loss.prototype_margin", 9.0) - trial.seed))
            ledger.book("finished", trial=trial.key, final={"final/val_miou": score}, seconds=1.0)
        ledger.close()
        return ledger.state


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
def test_planned_trials_are_those_that_are_handed_out(tmp_path, algorithm):
    sweep = sweep_of(
        tmp_path, "search.splits=[5-5,2-2]", "search.trials=9", "search.seeds=[1,2]", "search.lag=1",
        f"search.algorithm={algorithm}", "search.startup_trials=4",
    )  # fmt: skip
    forecast = make_forecast(sweep, None)
    planned = forecast.trials
    state = play(sweep, forecast, tmp_path / "journal.jsonl")
    assert len(planned) == len(state.trials) == planned_total(sweep)
    for expected, real in zip(planned, state.trials.values(), strict=True):
        trial = expected.trial
        assert (trial.role, trial.split, trial.number, trial.seed) == (real.role, real.split, real.number, real.seed)
        if expected.is_known:
            assert trial.config == real.config
    unknown = {p.trial.number for p in planned if not p.is_known}
    # TPE needs four results. The default lies outside the space, so its result counts for nothing, and the newest
    # suggestion is never looked at: number 6 is the first that results decide.
    assert unknown == ({6, 7, 8} if algorithm == "tpe" else set())

    again = planned_trials(sweep, state)
    assert [p.trial.key for p in again] == list(state.trials)
    assert all(p.is_over for p in again)
    assert make_forecast(sweep, state).tree.needed == []


def test_a_plan_says_how_long_each_step_is(tmp_path):
    assert dict(plan_rows(sweep_of(tmp_path), None))["mode"] == "overlap, 2 epochs of 12 iterations per step"
    later = dict(plan_rows(sweep_of(tmp_path, "training.next_epochs=1"), None))["mode"]
    assert later == "overlap, 2 epochs of 12 iterations in step 0, 1 in each later step"


def test_keys_are_those_of_the_trials_and_the_tree_that_of_brute_force(tmp_path):
    overrides = ["search.splits=[5-5,2-2,2-4]", "search.algorithm=random", "search.trials=4", "search.seeds=[1,2]"]
    forecast = make_forecast(sweep_of(tmp_path, *overrides), None)
    keys = []
    for planned in forecast.trials:
        run = ContinualRun(RunConfig.from_dict(planned.trial.config))
        keys.append([stage_key(run.config, t, run.data.manifest, run.numerics) for t in range(run.split.n_steps)])
    assert [list(chain.keys) for chain in forecast.tree.chains] == keys
    assert forecast.tree.naive == sum(map(len, keys))
    assert forecast.tree.distinct == len({key for chain in keys for key in chain})
    stored = set(random.Random(0).sample(sorted({chain[0] for chain in keys}), 3))
    left = make_forecast(sweep_of(tmp_path, *overrides), None, stored.__contains__).tree
    assert len(left.needed) == forecast.tree.distinct - 3
    assert "reused" in shown(
        render_plan(forecast.sweep, None, make_forecast(forecast.sweep, None, stored.__contains__))
    )


def test_suggestions_that_are_not_known_share_what_no_swept_key_can_change(tmp_path):
    overrides = ["search.splits=[5-5]", "search.trials=12", "search.references=[]"]
    forecast = make_forecast(sweep_of(tmp_path, *overrides), None)
    assert forecast.first_swept == {"5-5": 1}
    assert forecast.tree.distinct == 1 + 12
    space = tmp_path / "space.yaml"
    space.write_text("dimensions:\n  optimizer.weight_decay: {kind: float, low: 0.0, high: 0.1}\n")
    forecast = make_forecast(sweep_of(tmp_path, *overrides, f"search.space={space}"), None)
    assert forecast.first_swept == {"5-5": 0}
    assert forecast.tree.distinct == 24


def test_costs_come_from_the_journals_of_the_storage_folder(tmp_path):
    past = sweep_of(tmp_path, "search.splits=[5-5,6-1]", name="past")
    empty = make_forecast(past, None)
    assert empty.unknown == len(empty.tree.needed)
    assert "--probe" in dict(cost_rows(empty))["time"]
    state = play(past, empty, past.folder / "journal.jsonl")
    broken = tmp_path / "runs" / "broken" / "journal.jsonl"
    broken.parent.mkdir()
    broken.write_text("no journal\n{}\n{}\n")

    sweep = sweep_of(tmp_path, "search.splits=[2-2,5-5]", "training.epochs=5", "search.trials=6")
    forecast = make_forecast(sweep, None)
    law = sum(
        sum(
            rate * amount
            for rate, amount in zip(RATES, forecast.works[stage.trials[0]][stage.step].amounts, strict=True)
        )
        for stage in forecast.tree.needed
    )
    assert forecast.past.sweeps == ["past"]
    assert forecast.past.pause_seconds == pytest.approx(3, abs=0.01)
    assert forecast.figures.held_hours == pytest.approx(law / 3600, rel=0.02)
    assert forecast.figures.cpu_hours == pytest.approx(law / 7200, rel=0.02)
    assert law / 3 < forecast.figures.wall_seconds < law + 4 * len(forecast.trials)
    text = shown(render_plan(sweep, None, forecast, budget_hours=forecast.figures.held_hours / 2))
    assert "learned from" in text and "runs, in the order" in text
    fits = forecast.fitting(forecast.figures.held_hours / 2)
    assert 0 < fits < len(forecast.trials)
    assert forecast.fitting(forecast.figures.held_hours * 1.001) == len(forecast.trials)

    assert "saved by stopping" not in dict(cost_rows(forecast))
    assert forecast.stopped_seconds() == pytest.approx(forecast.tree.total(forecast.seconds))
    halved = ["stopping.algorithm=halving", "stopping.reduction_factor=2", "stopping.audit_share=0"]
    stopping = make_forecast(sweep_of(tmp_path, "search.splits=[2-2]", "search.trials=6", *halved), None)
    total, left = stopping.tree.total(stopping.seconds), stopping.stopped_seconds()
    assert total / 2 < left < 0.9 * total
    assert f"{total / left:.2f}x more in time" in dict(cost_rows(stopping))["saved by stopping"]

    real = real_figures(past, None, state, 0.0)
    planned = make_forecast(past, None).figures
    assert real.stages == sum(map(len, empty.works))
    assert real.held_hours == pytest.approx(empty_total(empty) / 3600)
    assert planned.held_hours < real.held_hours, "nothing was shared"
    assert shown(render_outcome(planned, real, past)).count("CPU-hours") == 1
    assert real_figures(past, state, state, 0.0).stages == 0


def empty_total(forecast: Forecast) -> float:
    works = [work for works in forecast.works for work in works]
    return sum(rate * amount for work in works for rate, amount in zip(RATES, work.amounts, strict=True))


def test_a_probe_tells_the_cost_of_everything(tmp_path):
    sweep = sweep_of(tmp_path, "search.splits=[5-5]", "training.threads=1")
    forecast = make_forecast(sweep, None, probing=True)
    assert forecast.unknown == 0
    assert 0 < forecast.figures.held_hours < 1
    assert not list((tmp_path / "runs").rglob("checkpoints"))


def test_the_size_of_an_outcome_is_that_of_a_bundle(tmp_path, tiny_config):
    config = tiny_config("training.split=5-5", "training.iterations_per_epoch=1", "training.epochs=1")
    run = ContinualRun(config)
    for event in run.events():
        if isinstance(event, StepEnded):
            snapshot = run.snapshot()
            save_bundle(tmp_path / "bundle", snapshot.tensors, snapshot.meta)
    size = sum(path.stat().st_size for path in (tmp_path / "bundle").iterdir())
    assert outcome_bytes(config, open_data(config)) == pytest.approx(size, rel=0.15)


@pytest.mark.parametrize(("preset", "naive", "distinct"), [("digits", 42, 36), ("digits60", 46, 39)])
def test_shipped_presets_are_planned(tmp_path, preset, naive, distinct):
    """digits: 4 trials on 2-2 (5 steps) and 6-2 (3), each with joint (1 step) and fine-tuning; step 0 is shared by the
    trials of a split. digits60: 8 trials on 2-2."""
    arguments = [
        "plan",
        preset,
        "--storage",
        str(tmp_path),
        "--budget",
        "1",
        "--tracking-uri",
        f"sqlite:///{tmp_path}/t.db",
    ]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert f"{naive} if every trial trained all of its own, {distinct} distinct" in result.output
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_datasets_in_files_and_trials_on_a_gpu_that_is_not_here(tmp_path, roots):
    overrides = [f"dataset.root={roots['voc']}", *SMALL_TRIALS, "search.splits=[15-5,15-1]", "search.trials=3"]
    launch = {"storage": str(tmp_path / "runs"), "name": "voc"}
    sweep = SweepConfig.from_dict(compose_preset("voc", [*overrides, "resources.gpus_per_trial=1"], launch))
    forecast = make_forecast(sweep, None)
    assert forecast.tree.naive == 3 * (2 + 6) + 2 * 1 + (2 + 6)
    # One step 0 for all trials of both splits, one for both fine-tunings; joint training takes as long as all steps.
    assert forecast.tree.distinct == (1 + 3 * (1 + 5)) + 2 + (1 + 1 + 5)
    assert json.loads(forecast.works[0][0].kind)["device"] == "cuda"
    assert forecast.unknown == len(forecast.tree.needed)
    run = RunConfig.from_dict(forecast.trials[0].trial.config)
    data = open_data(run)
    rows = np.array([3, 1])
    fewer = FewerScenes(data.train, rows)
    assert len(fewer) == 2
    for ours, theirs in zip(fewer.read(np.array([1, 0]), None), data.train.read(rows[::-1].copy(), None), strict=True):
        assert torch.equal(ours, theirs)


def test_a_probe_looks_at_some_images_of_every_step(tmp_path):
    sweep = sweep_of(tmp_path, "dataset.train_scenes=400", "dataset.test_scenes=200", "search.splits=[5-1]")
    run = RunConfig.from_dict(make_forecast(sweep, None).trials[0].trial.config)
    data = open_data(run)
    fewer = fewer_images(run, data)
    assert 64 <= len(fewer.test) < len(data.test)
    assert len(fewer.train) < len(data.train)
    assert all(fewer.train.presence[:, 1:].sum(axis=0) >= run.training.batch_size)
