"""A sweep on a real cluster of three nodes (processes of this machine), two of which go away under their trials."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from results.state import SweepState
from tests.sweeps.conftest import TINY_SWEEP
from tests.sweeps.test_sweep import assert_tracked_completely
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SWEEP = [*TINY_SWEEP, "training.iterations_per_epoch=60", "search.splits=[5-5]", "search.references=[]"]


@pytest.fixture
def cluster(sweeps, monkeypatch) -> Iterator:
    """A head without CPUs, so that trials run on the other two nodes."""
    for name, value in sweeps.environment.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            ray_cluster.add_node(num_cpus=1)
        yield ray_cluster
    finally:
        ray_cluster.shutdown()


def node_under(cluster, journal: Path, trial: str):
    """The node whose raylet is the parent of the process that runs a trial."""
    records = [json.loads(text) for text in journal.read_text().splitlines()]
    pid = [record["pid"] for record in records if record["kind"] == "started" and record["trial"] == trial][-1]
    parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return next(node for node in cluster.worker_nodes if _raylet(node) == parent)


def at_work(sweeps, process) -> str:
    """The trial that runs, has reported and has most work left."""

    def look() -> str:
        if not sweeps.journal("nodes").exists():
            return ""
        trials = SweepState.load(sweeps.journal("nodes")).trials.values()
        running = [trial for trial in trials if trial.status == "running" and trial.points]
        return min(running, key=lambda trial: len(trial.points)).key if running else ""

    found = wait_until(look, 240, process=process)
    assert found, "no trial ran"
    return found


def _raylet(node) -> int:
    return node.all_processes["raylet"][0].process.pid


def test_trials_of_lost_nodes_go_on_elsewhere_and_have_not_failed(sweeps, cluster):
    process = sweeps.start(
        "run", "digits", "--name", "nodes", *SWEEP, "sweep.max_failures=0", "--address", cluster.address
    )
    crashed = at_work(sweeps, process)
    cluster.remove_node(node_under(cluster, sweeps.journal("nodes"), crashed), allow_graceful=False)
    sweeps.wait_for_record("nodes", "failed", process)

    cluster.add_node(num_cpus=1)
    preempted = at_work(sweeps, process)
    os.kill(_raylet(node_under(cluster, sweeps.journal("nodes"), preempted)), signal.SIGTERM)

    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    state = SweepState.load(sweeps.journal("nodes"))
    assert {trial.status for trial in state.trials.values()} == {"finished"}
    assert state.trials[crashed].attempts > 1
    assert state.trials[preempted].attempts > 1
    assert_tracked_completely(sweeps, "nodes")
