"""The same configurations searched four ways, side by side: ``python -m tests.benchmarks.sharing``, fifty minutes.

Base-heavy splits of the digits whose first step holds four fifths of all iterations, as in VOC 15-1, searched by

- a plain Ray Tune script (`tests.benchmarks.plain_tune`: Optuna, ASHA, MLflow), every trial from nothing,
- the harness without sharing, with sharing, and with sharing and step-aware stopping.

Told are wall seconds, CPU seconds of all processes (Ray's and the driver's too), those of the steps alone, and the
bound on what sharing can save by the stage tree. Fails where results differ, or where sharing or stopping miss their
aim.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.state import SweepState, TrialState
from sweeps.prefixes import Prefixes

SPLITS = {"5-1": 6, "6-1": 5}
"""Task splits, and their numbers of steps."""
STEP_SECONDS = "time/step_cpu_seconds"
SHARE_OF_BOUND = 0.9
MIOU_LOST = 0.01
ROOT = Path(__file__).parent.parent.parent
OURS = ("without-sharing", "sharing", "sharing-and-stopping")
MARK = "BACS_BENCHMARK"
"""Variable in the environment of all processes of a way."""


@dataclass
class Spent:
    wall: float
    cpu: float


class Meter:
    """CPU seconds of every process that carries a mark, read a few times a second while it lives."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._own: dict[tuple[str, str], bool] = {}
        self._ticks: dict[tuple[str, str], int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._look()
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")

    def _run(self) -> None:
        while not self._over.wait(0.25):
            self._look()

    def _look(self) -> None:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
                who = (path.name, fields[19])  # its start tells apart processes of one pid
                if who not in self._own or not self._own[who]:  # it may not have run its program yet
                    self._own[who] = self._mark in (path / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if self._own[who]:
                self._ticks[who] = int(fields[11]) + int(fields[12])


def spent(name: str, *commands: list[str], folder: Path) -> Spent:
    """Runs the commands of one way, one after the other."""
    environment = os.environ | {MARK: name, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": str(folder / "r")}
    for gone in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(gone, None)
    (folder / "r").mkdir(exist_ok=True)
    began = time.monotonic()
    with Meter(name) as meter, (folder / f"{name}.log").open("w") as log:
        for command in commands:
            subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=log, stderr=log)
    result = Spent(time.monotonic() - began, meter.seconds)
    print(f"  {name:34s} wall {result.wall:7.0f} s   CPU {result.cpu:7.0f} s", flush=True)
    return result


def states(folder: Path, name: str) -> list[TrialState]:
    trials = SweepState.load(folder / "runs" / name / "journal.jsonl").trials.values()
    return sorted(trials, key=lambda trial: (trial.split, trial.number))


def step_seconds(trial: TrialState) -> dict[int, float]:
    """Of the steps that the trial computed itself."""
    reused = int(trial.tags.get("reused_steps", 0))
    return {x: value for (name, x), (value, _) in trial.points.items() if name == STEP_SECONDS and x >= reused}


def bound(trials: list[TrialState]) -> tuple[float, float, int, int]:
    """CPU seconds of all steps and of the distinct ones, and their numbers, of trials that shared nothing."""
    prefixes = Prefixes()
    distinct: dict[str, list[float]] = {}
    naive: list[float] = []
    for trial in trials:
        chain = prefixes.of(trial)
        for step, seconds in step_seconds(trial).items():
            distinct.setdefault(chain[step], []).append(seconds)
            naive.append(seconds)
    each = [sum(values) / len(values) for values in distinct.values()]
    return sum(naive), sum(each), len(naive), len(each)


Finals = dict[tuple[str, str], dict[str, float]]
"""Split and configuration -> the final metrics of those that came to an end."""


def finals(rows: Iterable[tuple[str, dict[str, Any], dict[str, float]]]) -> Finals:
    return {(split, json.dumps(params, sort_keys=True)): final for split, params, final in rows if final}


def finals_of(folder: Path, name: str) -> Finals:
    return finals((trial.split, trial.params, trial.final) for trial in states(folder, name))


def best(values: Finals, split: str) -> float:
    return max(final["final/val_miou"] for (of, _), final in values.items() if of == split)


def report(folder: Path, plain: Finals, ways: dict[str, Spent]) -> list[str]:
    """Prints what was found. Returns: the aims that were missed."""
    naive, distinct, n_naive, n_distinct = bound(states(folder, "without-sharing"))
    print(f"\nstages: {n_naive} naive, {n_distinct} distinct; bound by the stage tree {naive / distinct:.2f}x")
    first = ways["plain Tune, ASHA"]
    of_steps = {name: own_seconds(folder, name) for name in OURS}
    print(f"{'':34s}   wall s  CPU s   steps' CPU s | saved: wall   CPU   steps")
    for name, way in ways.items():
        steps = of_steps.get(name)
        told = f"{steps:14.0f}" if steps else f"{'':14s}"
        ratio = f"{naive / steps:6.2f}x" if steps else ""
        print(
            f"  {name:34s}{way.wall:7.0f}{way.cpu:7.0f} {told} |"
            f"     {first.wall / way.wall:6.2f}x{first.cpu / way.cpu:6.2f}x{ratio}"
        )
    alone, shared, stopped = (finals_of(folder, name) for name in OURS)
    print(f"\nfinished: plain {len(plain)}, alone {len(alone)}, shared {len(shared)}, stopped {len(stopped)}")
    missed = [
        f"{key} differs: {final} and {alone.get(key)}"
        for other in (plain, shared, stopped)
        for key, final in other.items()
        if alone.get(key) != final
    ]
    saved = naive / of_steps["sharing"]
    print(f"sharing saves {saved:.2f}x of the steps' CPU, {100 * saved * distinct / naive:.0f} % of its bound")
    if saved * distinct / naive < SHARE_OF_BOUND:
        missed.append(f"sharing saves {saved:.2f}x, less than {SHARE_OF_BOUND:.0%} of its bound")
    for split in SPLITS:
        found = {"plain": best(plain, split), "all": best(alone, split), "stopped": best(stopped, split)}
        print(f"best val mIoU on {split}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        if found["stopped"] < found["plain"] - MIOU_LOST:
            missed.append(f"stopping lost more than {MIOU_LOST} on {split}")
    return missed


def own_seconds(folder: Path, name: str) -> float:
    return sum(sum(step_seconds(trial).values()) for trial in states(folder, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16, help="configurations a split")
    parser.add_argument("--iterations", type=int, default=30, help="of an epoch; step 0 has twenty epochs, others one")
    parser.add_argument("--keep", type=Path, help="folder for the sweeps, for `plan --simulate` to learn from")
    asked = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    course = [
        "training.epochs=20",
        "training.next_epochs=1",
        f"training.iterations_per_epoch={asked.iterations}",
        "training.val_every=20",
    ]
    search = [f"search.trials={asked.trials}", f"search.splits=[{','.join(SPLITS)}]", "search.references=[]"]
    print(f"{asked.trials} configurations on {' and '.join(SPLITS)}, {cpus} trials at once", flush=True)

    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as scratch:
        folder = asked.keep.absolute() if asked.keep else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)

        def sweep(name: str, *more: str) -> list[str]:
            storage = ["--storage", str(folder / "runs"), "--name", name]
            fixed = ["search.algorithm=random", "search.include_default=false"]
            return [sys.executable, "-m", "sweeps", "run", "digits", *course, *search, *fixed, *more, *storage]

        alone = spent("without-sharing", sweep("without-sharing", "+training.stages=null"), folder=folder)
        shared = spent("sharing", sweep("sharing", f"+training.stages={folder}/one"), folder=folder)
        halving = ["stopping.algorithm=halving", f"+training.stages={folder}/two"]
        stopped = spent("sharing-and-stopping", sweep("sharing-and-stopping", *halving), folder=folder)

        trials = states(folder, "without-sharing")
        commands = []
        for split, n_steps in SPLITS.items():
            ours = [trial for trial in trials if trial.split == split]
            request = {
                "folder": str(folder),
                "split": split,
                "n_steps": n_steps,
                "cpus": cpus,
                "config": ours[0].config,
                "points": [trial.params for trial in ours],
            }
            path = folder / f"{split}.json"
            path.write_text(json.dumps(request))
            commands.append([sys.executable, "-m", "tests.benchmarks.plain_tune", str(path)])
        plain = spent("plain", *commands, folder=folder)
        rows = [
            (split, row["params"], row["final"])
            for split in SPLITS
            for row in json.loads((folder / f"plain-{split}.json").read_text())
        ]
        ways = {"plain Tune, ASHA": plain, "without-sharing": alone, "sharing": shared, "sharing-and-stopping": stopped}
        missed = report(folder, finals(rows), ways)
        print("\n".join(missed) if missed else "\nequal configurations have equal results, and every aim is met")
        sys.exit(bool(missed))


if __name__ == "__main__":
    main()
