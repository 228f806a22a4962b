"""A real sweep whose disk is really full for a while."""

from __future__ import annotations

import time

import pytest

from bacs.config import RunConfig
from bacs.events import RunEnded
from bacs.run import ContinualRun
from results.state import SweepState
from tests.sweeps.conftest import TINY_SWEEP
from tests.sweeps.test_sweep import assert_tracked_completely

SETTINGS = [*TINY_SWEEP, "training.iterations_per_epoch=6", "search.splits=[5-5]", "search.references=[finetune]"]
FULL_SECONDS = 6.0


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [64], indirect=True)
def test_a_sweep_stands_still_while_its_disk_is_full_and_loses_nothing(small_disk, sweeps):
    sweeps.storage = small_disk.folder / "runs"
    process = sweeps.start("run", "digits", "--name", "full", *SETTINGS)
    sweeps.wait_for_record("full", "reported", process)
    small_disk.fill()
    time.sleep(FULL_SECONDS)
    assert process.poll() is None, process.communicate()[0]
    small_disk.free()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output

    state = SweepState.load(sweeps.journal("full"))
    assert {trial.attempts for trial in state.trials.values()} == {1}
    assert_tracked_completely(sweeps, "full")
    assert not list(sweeps.storage.rglob(".*.tmp"))
    for trial in state.trials.values():
        *_, last = ContinualRun(RunConfig.from_dict(trial.config)).events()
        assert isinstance(last, RunEnded)
        assert last.final == trial.final
