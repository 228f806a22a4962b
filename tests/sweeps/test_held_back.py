"""Trials that would compute what another one computes just now are held back, and nothing ever waits for nobody."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from results.journal import Journal
from results.state import SweepState
from sweeps.checks import check_request
from sweeps.leases import Leases
from sweeps.ledger import Ledger
from sweeps.settings import SweepConfig, compose_preset
from tests.sweeps.conftest import TINY_SWEEP
from tests.sweeps.test_leases import Clock

SPLITS = "search.splits=[5-5,5-1]"  # which have step 0 in common
FREE = ["search.algorithm=random", "search.trials=3", SPLITS, "sweep.max_failures=1000"]


def sweep_in(folder: Path, *overrides: str) -> SweepConfig:
    return check_request(
        compose_preset("digits", [*TINY_SWEEP, *FREE, *overrides], {"storage": str(folder), "name": "held"})
    )


class Machine:
    """Workers without Ray: trials advance step by step, share what they finish, and may die at any moment."""

    def __init__(
        self, sweep: SweepConfig, path: Path, leases: Leases | None = None, beside: Machine | None = None
    ) -> None:
        """Args: beside: another sweep on the same storage."""
        self.leases = leases
        self.ledger = Ledger(sweep, Journal(path), SweepState(), leases)
        self.ledger.book("created", sweep="held", uid=path.name, config=sweep.resolved)
        self.stored: set[str] = beside.stored if beside else set()
        self.computed: Counter[str] = beside.computed if beside else Counter()
        self.running: dict[str, int] = {}
        """Trial -> finished steps."""

    def prefixes(self, key: str) -> list[str]:
        return self.ledger._prefixes.of(self.ledger.state.trials[key])

    def start(self) -> bool:
        trial = self.ledger.next_trial()
        if trial is None:
            return False
        chain = self.prefixes(trial.key)
        own = self.ledger.state.trials[trial.key].step
        taken = max([step + 1 for step, prefix in enumerate(chain) if prefix in self.stored] + [own])
        future = {p for key, done in self.running.items() for p in self.prefixes(key)[done:]}
        assert taken == len(chain) or chain[taken] not in future, "it computes what another one computes"
        self.running[trial.key] = taken
        place = {"stage.0": chain[0], "host": "h", "pid": 1, "notes": [], "reused_steps": taken if taken > own else 0}
        self.report(trial.key, "started", **place)
        return True

    def advance(self, key: str) -> None:
        chain = self.prefixes(key)
        if self.running[key] == len(chain):
            self.report(key, "final", final={"final/val_miou": 0.5})
            del self.running[key]
            return
        prefix = chain[self.running[key]]
        self.computed[prefix] += 1
        self.stored.add(prefix)
        self.running[key] += 1
        self.report(key, "step")

    def die(self, key: str) -> None:
        del self.running[key]
        self.ledger.book_failure(key, ray_text="The actor died")

    def report(self, key: str, kind: str, **more) -> None:
        step = self.running[key]
        self.ledger.book_report(key, {"kind": kind, "step": step, "epoch": step, "points": [], **more})


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_step_is_computed_twice_and_nothing_waits_for_ever(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("machine")
    machine = Machine(sweep_in(folder), folder / "journal.jsonl")
    workers = data.draw(st.integers(1, 5), label="workers")
    deaths = data.draw(st.integers(0, 6), label="deaths")
    died = 0
    while not machine.ledger.exhausted() or machine.running:
        while len(machine.running) < workers and machine.start():
            pass
        assert machine.running, "everything waits, and nobody works"
        key = data.draw(st.sampled_from(sorted(machine.running)), label="trial")
        if died < deaths and data.draw(st.booleans(), label="dies"):
            machine.die(key)
            died += 1
        else:
            machine.advance(key)
    assert {trial.status for trial in machine.ledger.state.trials.values()} == {"finished"}
    assert set(machine.computed.values()) == {1}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sweeps_side_by_side_compute_no_step_twice_and_survive_each_other(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("side-by-side")
    clock = Clock()
    machines: list[Machine] = []
    for name in ("one", "two", "three"):
        leases = Leases(folder / "stages", name, clock)
        leases._beat_on = lambda: None  # type: ignore[method-assign]  # below, by the same clock
        machines.append(Machine(sweep_in(folder), folder / name, leases, machines[0] if machines else None))
    alive, dies = list(machines), data.draw(st.booleans(), label="dies")
    lost: set[str] = set()  # being computed by a sweep that died
    while any(not m.ledger.exhausted() or m.running for m in alive):
        for machine in alive:
            machine.leases.beat()
        clock.now += 2
        at_work = []
        for machine in data.draw(st.permutations(alive), label="order"):
            while len(machine.running) < 2 and machine.start():
                pass
            at_work += [(machine, key) for key in sorted(machine.running)]
        if not at_work:
            assert lost, "everything waits, and nobody works"
            continue
        machine, key = data.draw(st.sampled_from(at_work), label="trial")
        if dies and len(alive) == 3 and data.draw(st.booleans(), label="now"):
            alive.remove(machine)
            lost = {p for k, done in machine.running.items() for p in machine.prefixes(k)[done:]}
        else:
            machine.advance(key)
    for machine in alive:
        assert {trial.status for trial in machine.ledger.state.trials.values()} == {"finished"}
        machine.leases.close()
    assert set(machines[0].computed.values()) == {1}


def test_while_a_step_is_computed_other_splits_and_references_go_first(tmp_path):
    machine = Machine(sweep_in(tmp_path, "search.splits=[5-5,2-2]", "search.references=[finetune]"), tmp_path / "j")
    while machine.start():
        pass
    trials = machine.ledger.state.trials
    assert [(trials[key].role, trials[key].split) for key in machine.running] == [
        ("finetune", "5-5"),
        ("finetune", "2-2"),
        ("trial", "5-5"),
        ("trial", "2-2"),
    ]
    first = next(key for key in machine.running if trials[key].role == "trial")
    machine.advance(first)
    assert machine.start()
    started = list(machine.running)[-1]
    assert (trials[started].split, trials[started].tags["reused_steps"]) == ("5-5", 1)


def test_a_trial_that_takes_back_what_it_computed_itself_has_not_reused_it(tmp_path):
    machine = Machine(sweep_in(tmp_path, "search.splits=[5-5]", "search.references=[]"), tmp_path / "j")
    assert machine.start()
    (first,) = machine.running
    machine.advance(first)
    machine.die(first)
    start = {"kind": "started", "step": 0, "epoch": 0, "points": [], "stage.0": "s", "host": "h", "pid": 2, "notes": []}
    machine.ledger.book_report(first, start | {"reused_steps": 1})  # its checkpoints were damaged
    trial = machine.ledger.state.trials[first]
    assert trial.tags["reused_steps"] == 0
    machine.ledger.book_report(first, start | {"reused_steps": 2})  # further than it ever was
    assert trial.tags["reused_steps"] == 2


def test_a_trial_that_dies_frees_those_that_waited_for_it(tmp_path):
    machine = Machine(sweep_in(tmp_path, "search.splits=[5-5]", "search.references=[]"), tmp_path / "j")
    assert machine.start()
    assert not machine.start()
    (first,) = machine.running
    machine.die(first)
    assert machine.start()
    assert not machine.start()


@pytest.mark.parametrize("shares", [True, False])
def test_without_a_store_nothing_is_held_back(tmp_path, shares):
    overrides = ["search.splits=[5-5]", "search.references=[]", *([] if shares else ["+training.stages=null"])]
    machine = Machine(sweep_in(tmp_path, *overrides), tmp_path / "j")
    started = 0
    while machine.ledger.next_trial() is not None:
        started += 1
    assert started == (1 if shares else 3)


def test_a_key_that_acts_from_a_later_step_can_be_searched(tmp_path):
    space = tmp_path / "late.yaml"
    space.write_text(
        "loss: bacs\ndimensions:\n"
        "  training.overrides_from_step.2.loss.lkd: {kind: float, low: 0.01, high: 1.0, log: true}\n"
    )
    overrides = ["search.splits=[4-2]", "search.references=[joint, finetune]", f"search.space={space}"]
    machine = Machine(sweep_in(tmp_path / "runs", *overrides), tmp_path / "j")
    while len(machine.ledger.state.trials) < 5:
        machine.start() or machine.advance(min(machine.running))
    trials = [trial for trial in machine.ledger.state.trials.values() if trial.role == "trial"]
    assert trials[0].params == {"training.overrides_from_step.2.loss.lkd": 0.05}
    chains = [machine.prefixes(trial.key) for trial in trials]
    assert len({tuple(chain[:2]) for chain in chains}) == 1
    assert len({chain[2] for chain in chains}) == len(chains)
