"""Leases on steps: one living owner each, whoever dies or stands still whenever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from sweeps.leases import EXPIRES_SECONDS, Leases, clear_leases
from tests.waiting import wait_until

STEPS = ["a", "b", "c"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(Leases, "_beat_on", lambda self: None)  # the tests beat
    return Clock()


def test_a_step_has_one_owner_until_it_is_given_back(tmp_path, clock):
    one, other = Leases(tmp_path, "one", clock), Leases(tmp_path, "other", clock)
    assert one.take(["a"])
    assert one.take(["a"])
    assert not other.take(["a"])
    assert other.take(["b"])
    one.keep(())
    clock.now += 2
    assert other.take(["a"])
    assert not one.take(["b"])
    other.close()
    assert sorted(path.name for path in one.folder.iterdir()) == [f"{one.owner}.beat"]
    one.close()
    assert not one.folder.exists()


def test_several_steps_are_had_together_or_not_at_all(tmp_path, clock):
    one, other = Leases(tmp_path, "one", clock), Leases(tmp_path, "other", clock)
    assert one.take(["c"])
    assert not other.take(["a", "b", "c"])
    clock.now += 2
    assert one.take(["a", "b", "c"])
    one.keep(["a"])
    assert not other.take(["a"])
    assert other.take(["b", "c"])


def test_a_process_that_goes_on_for_another_one_need_not_wait_for_it(tmp_path, clock):
    killed, resumed, other = (Leases(tmp_path, name, clock) for name in ("sweep", "sweep", "other"))
    assert killed.take(["a"])
    assert not other.take(["a"])
    assert resumed.take(["a"])
    clock.now += 2
    assert not other.take(["a"])
    assert killed.owner not in {path.stem for path in resumed.folder.glob("*.beat")}
    resumed.close()
    other.close()
    assert not resumed.folder.exists()


def test_a_process_that_needs_no_lease_leaves_none_of_its_killed_predecessor(tmp_path, clock):
    killed, resumed = (Leases(tmp_path, "sweep", clock) for _ in range(2))
    assert killed.take(["a", "b"])
    resumed.close()
    assert not resumed.folder.exists()


def test_who_stands_still_loses_its_leases_and_learns_of_it(tmp_path, clock):
    one, other, third = (Leases(tmp_path, name, clock) for name in "123")
    assert one.take(["a"])
    assert one.take(["b"])
    assert not other.take(["a"])
    for _ in range(4):
        clock.now += EXPIRES_SECONDS / 2
        one.beat()
        assert not other.take(["a"]), "it lives"
    clock.now += EXPIRES_SECONDS
    assert other.take(["a"])
    assert not third.take(["a"])
    one.beat()
    clock.now += 2
    assert not one.take(["a"])
    assert one.take(["b"])
    one.keep(())
    clock.now += 2
    assert not third.take(["a"]), "an older lease that is given back frees nothing"


def test_storage_that_refuses_holds_nobody_back(tmp_path, clock):
    file = tmp_path / "file"
    file.touch()
    leases = Leases(file, "one", clock)
    assert leases.take(["a"])
    leases.keep(())
    leases.close()


def test_what_the_dead_left_is_cleared(tmp_path, clock):
    dead, alive = Leases(tmp_path, "dead", clock), Leases(tmp_path, "alive", clock)
    assert dead.take(["a"])
    assert alive.take(["b"])
    old = time.time() - 1000
    for path in dead.folder.iterdir():
        os.utime(path, (old, old), follow_symlinks=False)
    alive.beat()
    clear_leases(tmp_path, 500)
    assert {path.name for path in dead.folder.iterdir()} == {"b.0", f"{alive.owner}.beat"}


class Protocol(RuleBasedStateMachine):
    """Any number of owners that take, give back, beat, stand still, wake up and die, in any order."""

    owners = Bundle("owners")

    def __init__(self) -> None:
        super().__init__()
        import tempfile
        from pathlib import Path

        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.clock = Clock()
        self.holds: dict[str, tuple[Leases, float]] = {}
        self.beaten: dict[Leases, float] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(target=owners)
    def comes(self):
        owner = Leases(self.root, str(len(self.beaten)), self.clock)
        owner._beat_on = lambda: None  # type: ignore[method-assign]
        self.beaten[owner] = self.clock.now
        return owner

    @rule(owner=owners, step=st.sampled_from(STEPS))
    def takes(self, owner, step):
        self.beats(owner)  # its thread does so, as long as it runs
        if owner.take([step]):
            holder = self.holds.get(step, (owner, 0.0))[0]
            silent = self.clock.now - self.beaten[holder]
            assert holder is owner or silent >= EXPIRES_SECONDS, "two living owners of one step"
            self.holds[step] = (owner, self.clock.now)

    @rule(owner=owners, steps=st.sets(st.sampled_from(STEPS)))
    def keeps(self, owner, steps):
        self.beats(owner)
        owner.keep(steps)
        self.holds = {s: (o, at) for s, (o, at) in self.holds.items() if o is not owner or s in steps}

    @rule(owner=owners)
    def beats(self, owner):
        owner.beat()
        self.beaten[owner] = self.clock.now

    @rule(owner=owners, seconds=st.floats(0.5, EXPIRES_SECONDS))
    def time_passes_for_all_but(self, owner, seconds):
        self.clock.now += seconds
        for other in self.beaten:
            if other is not owner:
                self.beats(other)

    @invariant()
    def a_step_of_nobody_can_be_had(self):
        for step in STEPS:
            holder = self.holds.get(step, (None, 0.0))[0]
            if holder is None:
                fresh = Leases(self.root, "fresh", self.clock)
                fresh._beat_on = lambda: None  # type: ignore[method-assign]
                assert fresh.take([step])
                fresh.close()


Protocol.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestProtocol = Protocol.TestCase

HOLDER = """
import sys, time
from pathlib import Path
import sweeps.leases
sweeps.leases.BEAT_SECONDS = 0.5
print(sweeps.leases.Leases(Path(sys.argv[1]), "holder").take(["a"]), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_real_process_that_is_killed_or_stopped_loses_its_lease(tmp_path, monkeypatch, number):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    other = Leases(tmp_path, "other")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        (beat,) = other.folder.glob("*.beat")
        for _ in range(3):
            before = beat.read_text()
            assert wait_until(lambda: beat.read_text() != before, 60), "it says that it lives"  # noqa: B023  # at once
            assert not other.take(["a"])
        os.kill(process.pid, number)
        monkeypatch.setattr("sweeps.leases.EXPIRES_SECONDS", 3.0)
        assert wait_until(lambda: other.take(["a"]), 60)
    finally:
        other.close()
        process.kill()
        process.communicate()
