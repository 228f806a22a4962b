"""A Ray that does not come up in time, without Ray itself: a start that fails as its start does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from results.errors import WorkFailedError
from sweeps import ray_session


class Start:
    """Fails so many times, each time with a process left behind."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.left_behind: list[subprocess.Popen[bytes]] = []

    def __call__(self) -> None:
        self.left_behind.append(subprocess.Popen(["sleep", "60"]))
        if len(self.left_behind) <= self.failures:
            raise Exception("The current node timed out during startup.\nThis could happen")


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A child of this process that has nothing to do with Ray."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_start_that_fails_is_tried_again_and_leaves_no_process(bystander, tmp_path):
    start = Start(failures=2)
    told: list[str] = []
    ray_session._start_patiently(start, tmp_path / "ray.log", told.append)
    assert told == [f"starting Ray on this machine, attempt {n} of 3" for n in (1, 2, 3)]
    first, second, third = start.left_behind
    try:
        assert first.wait(10) == second.wait(10) == -9
        assert third.poll() is None
        assert bystander.poll() is None
    finally:
        third.kill()
        third.wait()


def test_a_ray_that_never_starts_is_one_error_with_its_remedy(tmp_path):
    start = Start(failures=99)
    with pytest.raises(WorkFailedError, match=r"in 3 attempts.*: The current node timed out") as raised:
        ray_session._start_patiently(start, tmp_path / "ray.log", print)
    assert "RAY_TMPDIR" in raised.value.hint
    assert str(tmp_path / "ray.log") in raised.value.hint
    assert [process.wait(10) for process in start.left_behind] == [-9] * 3
