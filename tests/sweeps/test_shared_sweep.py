"""Whole sweeps that share steps come to the numbers of those that do not."""

from __future__ import annotations

import json

import pytest

from results.state import SweepState
from tests.sweeps.conftest import TINY_SWEEP, CommandLine
from tests.sweeps.test_sweep import assert_tracked_completely, tracked

SEARCH = ["search.splits=[6-2]", "search.trials=2", "search.algorithm=random", "search.references=[]"]


def outcomes(line: CommandLine, name: str) -> dict[int, tuple]:
    trials = SweepState.load(line.journal(name)).trials.values()
    points = {
        trial.number: {place: value for place, (value, _) in trial.points.items() if not place[0].startswith("time/")}
        for trial in trials
    }
    return {trial.number: (trial.params, trial.final, points[trial.number]) for trial in trials}


@pytest.mark.slow
def test_a_sweep_that_shares_steps_has_the_numbers_of_one_that_does_not(sweeps: CommandLine):
    code, output = sweeps.run("run", "digits", "--name", "shared", *TINY_SWEEP, *SEARCH)
    assert code == 0, output
    assert output.count("finished: trial") == 2, "each is told when it ends"
    trials = sorted(SweepState.load(sweeps.journal("shared")).trials.values(), key=lambda trial: trial.number)
    assert [trial.tags["reused_steps"] for trial in trials] == [0, 1]
    assert len({trial.tags["stage.0"] for trial in trials}) == 1
    assert_tracked_completely(sweeps, "shared")
    runs = [run["tags"] for run in tracked(sweeps.storage).values() if "trial" in run["tags"]]
    assert sorted(tags["reused_steps"] for tags in runs) == ["0", "1"]

    code, output = sweeps.run("run", "digits", "--name", "alone", *TINY_SWEEP, *SEARCH, "+training.stages=null")
    assert code == 0, output
    assert {trial.tags["reused_steps"] for trial in SweepState.load(sweeps.journal("alone")).trials.values()} == {0}
    assert outcomes(sweeps, "alone") == outcomes(sweeps, "shared")

    code, output = sweeps.run("run", "digits", "--name", "later", *TINY_SWEEP, *SEARCH)
    assert code == 0, output
    trials = SweepState.load(sweeps.journal("later")).trials.values()
    assert {trial.tags["reused_steps"] for trial in trials} == {3}  # all of it
    assert outcomes(sweeps, "later") == outcomes(sweeps, "shared")
    code, output = sweeps.look("clean", "--dry-run")
    assert code == 0
    assert "0 stages would go" in output


@pytest.mark.slow
def test_two_sweeps_at_the_same_time_compute_each_step_once(sweeps: CommandLine):
    names = ("one", "other")
    processes = [sweeps.start("run", "digits", "--name", name, *TINY_SWEEP, *SEARCH) for name in names]
    for process in processes:
        output, _ = process.communicate(timeout=480)
        assert process.returncode == 0, output
    states = [SweepState.load(sweeps.journal(name)) for name in names]
    trials = [trial for state in states for trial in state.trials.values()]
    computed = [trial.tags["stage.0"] for trial in trials if trial.tags["reused_steps"] == 0]
    assert len(computed) == 1, "step 0 is the same in all of them"
    chains = {json.dumps(trial.params, sort_keys=True) for trial in trials}
    assert sum(3 - trial.tags["reused_steps"] for trial in trials) == 1 + 2 * len(chains)
    for name in names:
        assert_tracked_completely(sweeps, name)
    assert not (sweeps.storage / "stages" / ".leases").exists()
