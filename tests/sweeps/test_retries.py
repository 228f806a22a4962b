"""What is tried again after which failure, without Ray and without a journal."""

from __future__ import annotations

from typing import Any

import pytest

from results.state import Failure, TrialState
from sweeps.retries import NO_WORD, Ending, ending_of, extra_pieces, is_retried

OOM = Ending("out_of_memory", "OutOfMemoryError: CUDA", "tb")
BOOM = Ending("exception", "ValueError: boom", "tb")
FULL = Ending("storage", "StorageRefusedError: gave up", "tb")
KILLED = Ending("died", NO_WORD, "")


def trial(*earlier: Ending, charged: int | None = None, **training: Any) -> TrialState:
    config = {"training": {"batch_size": 8, "n_gpus": 1, "micro_batches": 1} | training}
    state = TrialState(
        key="k", number=0, role="trial", split="2-2", seed=0, params={}, config=config, tags={}, suggested_at=0.0
    )
    state.failures = [ending.failure for ending in earlier]
    state.charged = sum(ending.is_charged for ending in earlier) if charged is None else charged
    return state


@pytest.mark.parametrize(
    ("earlier", "ending", "retried"),
    [
        ([], Ending("diverged", "DivergedError: nan", "tb"), False),
        ([], Ending("broken_input", "RequestError: /data/a.jpg: cannot be read", "tb"), False),
        ([], BOOM, True),
        ([BOOM], BOOM, False),
        ([BOOM], Ending("exception", "ValueError: another", "tb"), True),
        ([BOOM, KILLED], Ending("exception", "ValueError: another", "tb"), False),
        ([OOM], BOOM, True),
        ([], FULL, True),
        ([FULL], FULL, True),
        ([FULL, KILLED], FULL, False),
        ([], KILLED, True),
        ([KILLED], KILLED, True),
        ([KILLED, KILLED], KILLED, False),
        ([KILLED, KILLED], Ending("died", "the machine was lost", "", lost_node=True), True),
        ([], OOM, True),
        ([KILLED, KILLED], OOM, True),
        ([OOM], OOM, False),
        ([OOM, KILLED], Ending("out_of_memory", "MemoryError: ", "tb"), False),
    ],
)
def test_rules(earlier, ending, retried):
    assert is_retried(trial(*earlier), ending, max_failures=2) is retried


def test_deaths_are_counted_since_the_driver_began_and_causes_for_ever():
    assert is_retried(trial(KILLED, KILLED, charged=0), KILLED, max_failures=2)
    assert not is_retried(trial(BOOM, charged=0), BOOM, max_failures=2)
    assert not is_retried(trial(), KILLED, max_failures=0)
    assert not is_retried(trial(), BOOM, max_failures=0)
    assert is_retried(trial(), OOM, max_failures=0)


@pytest.mark.parametrize(
    ("training", "retried"),
    [
        ({"batch_size": 2}, True),
        ({"batch_size": 1}, False),
        ({"batch_size": 8, "n_gpus": 8}, False),
        ({"batch_size": 8, "micro_batches": 4}, True),
        ({"batch_size": 8, "micro_batches": 8}, False),
    ],
)
def test_a_batch_of_one_image_cannot_be_cut(training, retried):
    assert is_retried(trial(**training), OOM, max_failures=2) is retried


def test_pieces():
    assert extra_pieces(trial()) == extra_pieces(trial(BOOM, KILLED)) == 1
    assert extra_pieces(trial(OOM, KILLED)) == 2


def test_failures_of_earlier_versions_have_no_cause():
    old = trial()
    old.failures = [Failure("", "ValueError: boom")]
    assert is_retried(old, BOOM, max_failures=2)


RAYLET = "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n"
KILLED_BY_RAY = "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 1.2.3.4) was"


@pytest.mark.parametrize(
    ("text", "cause", "charged"),
    [
        ("", "died", True),
        (f"{RAYLET}Worker unexpectedly exits with a connection error code 2. End of file.", "died", True),
        (f"{RAYLET}(1) The process is killed by SIGKILL by OOM killer due to high memory usage.", "died", True),
        (f"{RAYLET}The actor died because its node has died. Node Id: 12ab", "died", False),
        (KILLED_BY_RAY, "out_of_memory", False),
        (f"OutOfMemoryError: {KILLED_BY_RAY}", "out_of_memory", False),
        ("ray::ImplicitFunc.train() (pid=1)\n  File x\nOSError: [Errno 28] No space left on device", "exception", True),
        ("ray::ImplicitFunc.train() (pid=1)\n  File x\nMemoryError", "out_of_memory", False),
        ("ray::F.train() (pid=1)\ntrainables.folder.TrialBusyError: x is still locked by another", "died", True),
    ],
)
def test_what_ray_tells(text, cause, charged):
    ending = ending_of(text)
    assert (ending.cause, ending.is_charged) == (cause, charged)
    assert ending.reason
    assert "\n" not in ending.reason
