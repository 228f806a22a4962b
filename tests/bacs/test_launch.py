"""Several local ranks: the same data, the same numbers, and nobody outlives rank 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bacs.bundle import load_bundle
from bacs.launch import RankDiedError, RankError, _last_word, _raise_for_other_ranks
from tests.conftest import TINY
from tests.waiting import wait_until

EXACT = [
    "training.split=5-5",
    "training.mixed_precision=false",
    "loss.detector_dropout=0",
    "loss.replay_batch_size=6",
    "optimizer=nesterov",  # Adam divides by the size of a gradient, which makes rounding errors large
]
"""In float32, and without dropout, whose draws belong to a rank, one rank and two differ in the order of sums alone."""

COMMAND = """
import sys
from bacs.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-c", COMMAND, *overrides]


def finals(folder: Path) -> dict[tuple[str, int], float]:
    _, meta = load_bundle(folder)
    return {(name, x): value for name, x, value, _ in meta["points"] if not name.startswith("time/")}


def test_two_ranks_equal_one(tmp_path, digits_cache):
    measured = {}
    for n in (1, 2):
        base = [*TINY, *EXACT, f"dataset.cache={digits_cache}", f"training.n_gpus={n}"]
        names = [f"training.ckpt_dir={tmp_path}", f"training.exp_name=ranks{n}"]
        done = subprocess.run(command(*base, *names), capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        measured[n] = finals(tmp_path / f"ranks{n}" / "stage-001")
    one, two = measured[1], measured[2]
    assert one.keys() == two.keys()
    losses = [key for key in one if key[0].startswith("train/")]
    assert len(losses) > 10
    for key in losses:
        assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5), key
    assert two["replay/items", 0] == one["replay/items", 0] == 20


def children_of(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in listed}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("victim", ["rank 0", "rank 1"])
def test_no_rank_outlives_another(tmp_path, digits_cache, victim):
    overrides = [*TINY, "training.epochs=50", f"dataset.cache={digits_cache}", "training.n_gpus=2"]
    errors = tmp_path / "errors.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(
            command(*overrides, f"training.ckpt_dir={tmp_path}", "training.exp_name=killed"),
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        assert wait_until(lambda: list((tmp_path / "killed").glob("epoch-*")) or process.poll() is not None, 100)
        assert process.poll() is None
        (child,) = (pid for pid in children_of(process.pid) if "bacs.rank" in _command_of(pid))
        os.kill(process.pid if victim == "rank 0" else child, signal.SIGKILL)
        assert process.wait(60) != 0
        assert wait_until(lambda: not alive(child), 60)
        assert ("the run failed: rank 1 died (exit code -9)" in errors.read_text()) == (victim == "rank 1")
    finally:
        process.kill()
        process.wait()


def test_the_error_of_another_rank_is_told_and_rank_0_keeps_its_own(tmp_path):
    broken = RuntimeError("Connection closed by peer")
    failed = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    at_work = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        _raise_for_other_ranks([at_work], tmp_path, broken)
        with pytest.raises(RankDiedError, match="rank 2 died"):
            _raise_for_other_ranks([at_work, failed], tmp_path, broken)
        _last_word(tmp_path, 2).write_text("MemoryError: ")
        with pytest.raises(RankError, match="rank 2: MemoryError"):
            _raise_for_other_ranks([at_work, failed], tmp_path, broken)
    finally:
        at_work.kill()
        at_work.wait()
        failed.wait()


def _command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
